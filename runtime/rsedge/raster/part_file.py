"""A file that holds one layer of a part of a result, and the sums that tell whether it is whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rsedge.documents import Count
from rsedge.files import describe


@dataclass(frozen=True)
class PartFile:
    """A file of a part: the ``layer`` it holds, its size, its CRC-32 and that of the pixels meant to be in it."""

    layer: str
    size_bytes: Count
    crc: Count
    pixels_crc: Count = 0


def is_whole(path: Path, file: PartFile) -> bool:
    """Whether a file is the one that was noted, to the last bit."""
    try:
        return path.stat().st_size == file.size_bytes and describe(path) == (file.size_bytes, file.crc)
    except OSError:
        return False


def is_count(value: object) -> bool:
    """Return True if a value read from JSON is a number of things."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
