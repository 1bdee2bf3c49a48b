"""Suppression of the lines that libtiff prints to the terminal."""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress
from pathlib import Path

MAPS = Path("/proc/self/maps")  # Linux only; other systems still print the lines


def hush_libtiff() -> None:
    """Remove the handler with which libtiff prints to standard error when a write fails.

    GDAL reports the same failure to its caller, so nothing is lost but "_tiffWriteProc: No space left on
    device", several times, before rsedge's own message. For commands only: the whole process is affected.
    """
    with suppress(OSError, AttributeError):
        for path in sorted(set(re.findall(r"/\S*/libtiff[-.]\S*$", MAPS.read_text(), re.MULTILINE))):
            ctypes.CDLL(path).TIFFSetErrorHandler(None)
