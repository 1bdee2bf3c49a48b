"""Files of a result's parts, one layer each, and the checksums that show whether a file is intact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rsedge.documents import Count
from rsedge.files import describe


@dataclass(frozen=True)
class PartFile:
    """A file of a part: its ``layer``, its size, its CRC-32 and the CRC-32 of the pixels written to it."""

    layer: str
    size_bytes: Count
    crc: Count
    pixels_crc: Count = 0


def is_whole(path: Path, file: PartFile) -> bool:
    """Return True if the size and CRC-32 of the file at ``path`` are those recorded."""
    try:
        return path.stat().st_size == file.size_bytes and describe(path) == (file.size_bytes, file.crc)
    except OSError:
        return False
