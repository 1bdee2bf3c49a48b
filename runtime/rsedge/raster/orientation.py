"""The Orientation tag of EXIF and TIFF, by which viewers turn a picture; GDAL does not apply the tag."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

ORIENTATION_TAG = 274
SHOWN = {
    1: "as stored",
    2: "mirrored left to right",
    3: "turned by 180 degrees",
    4: "mirrored top to bottom",
    5: "with rows and columns exchanged",
    6: "turned by 90 degrees to the right",
    7: "with rows and columns exchanged and turned by 180 degrees",
    8: "turned by 90 degrees to the left",
}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_PROFILE = "Raw_profile_type_exif"  # GDAL's name of the text chunk in which ImageMagick writes EXIF
MOST_ENTRIES = 4096  # of a TIFF directory
MOST_CHUNKS = 1000  # of a PNG or WebP before and after its pixels
TAIL_BYTES = 1 << 16  # of a PNG, in which EXIF may follow the pixels
EXIF_HEAD = b"Exif\0\0"


def describe_orientation(orientation: int) -> str:
    """Return how viewers show a picture with this tag, e.g. "turned by 180 degrees"."""
    return SHOWN[orientation]


def read_orientation(src: Any) -> int:
    """Return the EXIF orientation of an open rasterio dataset, 1 to 8; 1 if there is none or it is unknown.

    Reads the tag of any JPEG, of local PNG, WebP and TIFF files, and of the source of a VRT with one source.
    """
    if src.driver == "VRT" and len(sources := src.files[not src.name.lower().startswith("vrt://") :]) == 1:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                with rasterio.open(sources[0]) as source:
                    return 1 if source.driver == "VRT" else read_orientation(source)
        except RasterioError:
            return 1
    try:
        if src.driver == "JPEG":
            found = int(src.tags().get("EXIF_Orientation", 1))
        elif src.driver == "PNG" and PNG_PROFILE in (tags := src.tags()):
            found = _of_profile(tags[PNG_PROFILE])
        elif src.driver in READERS and os.path.isfile(path := (src.files or [src.name])[0]):
            with Path(path).open("rb") as file:
                found = READERS[src.driver](file)
        else:
            return 1
    except (OSError, ValueError, struct.error):
        return 1  # a damaged tag counts as none; reading reports damaged pixels
    return found if found in SHOWN else 1


def _of_tiff(file: BinaryIO) -> int:
    """Return the orientation in the first directory of a TIFF, BigTIFF or EXIF block, which is a TIFF."""
    order = {b"II": "<", b"MM": ">"}.get(file.read(2))
    if order is None:
        return 1
    version = struct.unpack(f"{order}H", file.read(2))[0]
    if version == 43:  # BigTIFF: sizes of offsets, then the offset
        file.read(4)
        offset_code, count_code, entry_bytes, value_at = "Q", "Q", 20, 12
    elif version == 42:
        offset_code, count_code, entry_bytes, value_at = "L", "H", 12, 8
    else:
        return 1
    file.seek(_number(file, order + offset_code))
    entries = file.read(entry_bytes * min(_number(file, order + count_code), MOST_ENTRIES))
    for at in range(0, len(entries) - entry_bytes + 1, entry_bytes):
        tag, kind = struct.unpack_from(f"{order}HH", entries, at)
        if tag == ORIENTATION_TAG:
            return int(struct.unpack_from(order + {1: "B", 4: "L"}.get(kind, "H"), entries, at + value_at)[0])
    return 1


def _of_png(file: BinaryIO) -> int:
    """Return the orientation in a PNG's chunk eXIf, which may precede or follow the pixels."""
    if file.read(8) != PNG_SIGNATURE:
        return 1
    for _ in range(MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return 1
        size = int.from_bytes(head[:4], "big")
        if head[4:] == b"eXIf":
            return _of_exif(file.read(size))
        if head[4:] == b"IDAT":
            break
        file.seek(size + 4, io.SEEK_CUR)
    end = file.seek(0, io.SEEK_END)
    file.seek(max(0, end - TAIL_BYTES))
    tail = file.read()
    at = tail.rfind(b"eXIf")
    if at < 4:
        return 1
    size = int.from_bytes(tail[at - 4 : at], "big")
    chunk, check = tail[at : at + 4 + size], tail[at + 4 + size : at + 8 + size]
    return _of_exif(chunk[4:]) if zlib.crc32(chunk) == int.from_bytes(check, "big") else 1


def _of_webp(file: BinaryIO) -> int:
    """Return the orientation in a WebP's chunk EXIF."""
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WEBP":
        return 1
    for _ in range(MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return 1
        size = int.from_bytes(head[4:], "little")
        if head[:4] == b"EXIF":
            return _of_exif(file.read(size))
        file.seek(size + size % 2, io.SEEK_CUR)
    return 1


def _of_exif(exif: bytes) -> int:
    return _of_tiff(io.BytesIO(exif.removeprefix(EXIF_HEAD)))


def _of_profile(text: str) -> int:
    """Return the orientation in EXIF as text: a name, a length, and hexadecimal lines."""
    return _of_exif(bytes.fromhex("".join(text.split()[2:])))


def _number(file: BinaryIO, code: str) -> int:
    return int(struct.unpack(code, file.read(struct.calcsize(code)))[0])


READERS = {"GTiff": _of_tiff, "COG": _of_tiff, "PNG": _of_png, "WEBP": _of_webp}
