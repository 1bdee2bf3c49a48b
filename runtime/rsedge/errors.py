"""The errors rsedge raises on purpose.

    RsedgeError
    +-- InputError    (ValueError)    the raster, the labels or an option cannot be used
    |   +-- BusyError                 another process is writing the raster or the result; a retry may work
    +-- ModelError    (ValueError)    the bundle or ONNX file cannot be used
    +-- BackendError  (RuntimeError)  the requested backend or device is missing or failed
    +-- OutputError   (OSError)       the result cannot be written

Each is also the builtin that a caller would catch. Messages say what failed, why, and
what to do; the command line prints them unchanged.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path


class RsedgeError(Exception):
    """Base class of every error raised on purpose. ``exit_code``: exit code of the command line.

    ``below``: lines to print under the message, such as a list. They are kept apart, because a line break in the
    message itself can only come from a name, which must not look like another line.
    """

    exit_code = 1

    def __init__(self, *args: object, below: Sequence[str] = ()) -> None:
        super().__init__(*args)
        self.below = tuple(below)

    @property
    def message(self) -> str:
        """Return the message without the lines below it."""
        return super().__str__()

    def __str__(self) -> str:
        return "\n  ".join([self.message, *self.below])


class InputError(RsedgeError, ValueError):
    """The raster, the labels or an option cannot be used."""

    exit_code = 2


class BusyError(InputError):
    """Another process is writing the raster or the result; a retry may work."""


class ModelError(RsedgeError, ValueError):
    """The bundle or ONNX file cannot be used."""

    exit_code = 2


class BackendError(RsedgeError, RuntimeError):
    """The requested backend or device is missing or failed."""


class OutputError(RsedgeError, OSError):
    """The result cannot be written."""


def unexpected(raster: str, error: Exception) -> str:
    """Return the message for an unexpected error of one raster, which is a bug in rsedge."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" at {Path(frame.filename).name}:{frame.lineno}" for frame in last)
    return (
        f"{raster}: {type(error).__name__}: {error}{where}. This is a bug in rsedge; please report it with the raster "
        "or the output of `gdalinfo`"
    )
