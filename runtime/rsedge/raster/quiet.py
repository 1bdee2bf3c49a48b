"""Keeping libtiff's own lines off the terminal."""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress
from pathlib import Path

MAPS = Path("/proc/self/maps")  # Linux; elsewhere the lines stay


def hush_libtiff() -> None:
    """Take away the handler with which libtiff prints to standard error when a write fails.

    GDAL reports the same failure to its caller, so nothing is lost but "_tiffWriteProc: No space left on
    device", several times, before the message of ours. For commands: it holds for the whole process.
    """
    with suppress(OSError, AttributeError):
        for path in sorted(set(re.findall(r"/\S*/libtiff[-.]\S*$", MAPS.read_text(), re.MULTILINE))):
            ctypes.CDLL(path).TIFFSetErrorHandler(None)
