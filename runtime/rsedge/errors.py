"""The errors rsedge raises on purpose.

    RsedgeError
    +-- InputError    (ValueError)    the raster, the labels or an option cannot be used
    |   +-- BusyError                 somebody else is writing the raster or the result: later it may work
    +-- ModelError    (ValueError)    the bundle or ONNX file cannot be used
    +-- BackendError  (RuntimeError)  the requested backend or device is missing or failed
    +-- OutputError   (OSError)       the result cannot be written

Each is also the builtin a caller would reach for. Messages say what was asked, what is
allowed and what to do; the command line prints them as they are.
"""

from __future__ import annotations

import traceback
from pathlib import Path


class RsedgeError(Exception):
    """Base of every error raised on purpose. ``exit_code`` is what the command line returns."""

    exit_code = 1


class InputError(RsedgeError, ValueError):
    """The raster, the labels or an option cannot be used."""

    exit_code = 2


class BusyError(InputError):
    """Somebody else is writing the raster or the result right now: the same may work later."""


class ModelError(RsedgeError, ValueError):
    """The bundle or ONNX file cannot be used."""

    exit_code = 2


class BackendError(RsedgeError, RuntimeError):
    """The requested backend or device is missing or failed."""


class OutputError(RsedgeError, OSError):
    """The result cannot be written."""


def unexpected(raster: str, error: Exception) -> str:
    """What to say where one raster of many fails by an error that nobody foresaw: a fault of rsedge's."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" at {Path(frame.filename).name}:{frame.lineno}" for frame in last)
    return (
        f"{raster}: {type(error).__name__}: {error}{where}. This is a fault of rsedge's; please report it, "
        "with the raster or what `gdalinfo` says of it"
    )
