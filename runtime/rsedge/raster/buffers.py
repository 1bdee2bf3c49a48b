"""Decoding memory of GDAL's drivers, without the block cache: upper bounds that are cheap to find."""

from __future__ import annotations

import math
import os
import struct
from typing import Any, BinaryIO

import numpy as np

from rsedge.machine import usable_cores

PNG_CHUNK_BYTES = 100_000_000  # of an interlaced image, decoded at a time
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG markers that say size and sampling
PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
COEFFICIENT_BYTES = 2
JPEG2000 = {"JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID", "JP2Lura"}
SHOWN_OF_ONE_TILE = (1024, 1024)
SIZ_WITHIN = 4 << 20  # bytes of a JPEG 2000 file searched for the marker with the tile size
INTEGER_BYTES, AREA_BYTES = 4, 13.5  # per sample of a tile; per sample of a part, with the wavelet's edges
CODE_BLOCKS_BYTES = 0.15  # per sample of the tile, for the records of its blocks of 64 x 64
# Bytes per pixel, besides its bands, that these drivers hold for a whole image.
WHOLE_BYTES = {
    "WEBP": 4,
    "GIF": 1,
    "BIGGIF": 0,
    "XPM": 1,
    "GRIB": 16,
    "HEIF": 4,
    "AVIF": 4,
    "JPEGXL": 4,
    "PDF": 4,
}
CHUNKED = {"netCDF", "HDF5", "HDF5Image", "BAG", "S102", "HDF4", "HDF4Image"}
CHUNK_CACHE_BYTES = 16 << 20
GROWN = 1.5  # greatest ratio of a row's compressed to its raw bytes; a higher ratio means several rows
FROM_START = {"JPEG", "PNG", *WHOLE_BYTES}
WHOLE_BLOCKS, ARGB_BYTES = ("WEBP", "LERC", "JXL"), 4  # TIFF compressions whose decoders take whole blocks


def decoder_bytes(src: Any, threads: int = 1) -> int:
    """Return an upper bound, in bytes, on GDAL's decoding memory for the open dataset ``src``.

    Counts a block, stored and decoded, per thread; the whole of a progressive JPEG, an interlaced PNG, WebP, a tile
    of JPEG 2000 even if GDAL shows smaller blocks, and the bytes of a TIFF in one strip; else two blocks.
    """
    if src.driver == "GTiff":
        return _tiff_bytes(src, threads)
    if src.driver == "JPEG":
        return _jpeg_bytes(src)
    if src.driver in JPEG2000 or src.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION") == "JPEG2000":
        return _jpeg2000_bytes(src)
    return _whole_bytes(src)


def _whole_bytes(src: Any) -> int:
    """Return the bytes of formats that hold a whole image, or a chunk of a size that GDAL hides; else two blocks."""
    pixels, driver = int(src.height) * int(src.width), src.driver
    if driver == "PNG":
        whole = pixels * pixel_bytes(src.dtypes)
        return min(whole, PNG_CHUNK_BYTES) if _is_interlaced(src.name) else 0
    if driver in WHOLE_BYTES:
        whole = pixels * (WHOLE_BYTES[driver] + pixel_bytes(src.dtypes))
        return whole + min(whole, _file_bytes(src.name))
    if driver in CHUNKED:
        whole = pixels * pixel_bytes(src.dtypes[:1])
        compressed = _file_bytes(next(iter(src.files), src.name)) < whole  # a subdataset's name is not a path
        return CHUNK_CACHE_BYTES + 2 * whole * compressed
    height, width = src.block_shapes[0]
    return 2 * int(height) * int(width) * pixel_bytes(src.dtypes if is_interleaved(src) else src.dtypes[:1])


def decodes_from_start(src: Any) -> bool:
    """Return True if the format reaches a row only by decoding all rows above."""
    if src.driver == "GTiff":
        return _strip_bytes(src) > 0 and "COMPRESSION" in src.tags(ns="IMAGE_STRUCTURE")
    return src.driver in FROM_START


def pixel_bytes(dtypes: Any) -> int:
    """Return the bytes of one pixel of bands of these dtypes."""
    return sum(8 if kind.startswith("complex") else np.dtype(kind).itemsize for kind in dtypes)


def _tiff_bytes(src: Any, threads: int) -> int:
    (height, width), together = src.block_shapes[0], is_interleaved(src)
    decoded = height * width * pixel_bytes(src.dtypes if together else src.dtypes[:1])
    count = math.ceil(src.height / height) * math.ceil(src.width / width)
    a_block = int(decoded + min(decoded, _file_bytes(src.name)))
    stored = _strip_bytes(src)
    compression = src.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION", "")
    pixels = int(src.height) * int(src.width) if stored else height * width
    if compression.startswith(WHOLE_BLOCKS):
        a_block += pixels * (pixel_bytes(src.dtypes) + ARGB_BYTES) + 2 * stored
    return int(min(max(threads, 1), count) * a_block + stored)


def _strip_bytes(src: Any) -> int:
    """Return the stored bytes, less a row's, of a TIFF in one strip; 0 for any other TIFF.

    GDAL shows a high strip as rows, so only this size tells how much is loaded to decode the first row.
    """
    height, width = src.block_shapes[0]
    decoded = height * width * pixel_bytes(src.dtypes if is_interleaved(src) else src.dtypes[:1])
    stored = int(src.get_tag_item("BLOCK_SIZE_0_0", "TIFF", bidx=1) or 0)
    # Compression makes incompressible data slightly larger.
    is_strip = width >= src.width and height < src.height and stored > decoded * GROWN
    return stored - decoded if is_strip else 0


def _jpeg2000_bytes(src: Any) -> int:
    """Return the bytes for JPEG 2000: OpenJPEG holds a whole tile as int32, or three such arrays of a part.

    The part applies to an image of one tile; else GDAL decodes several tiles of a row at a time, one per core.
    """
    size = int(src.height), int(src.width)
    height, width = src.block_shapes[0]
    asked = _jpeg2000_tile(src.name)
    if asked is None:  # not a local file; GDAL shows an image of one tile as blocks of 1024
        asked = size if (height, width) == SHOWN_OF_ONE_TILE else (height, width)
    tile = min(asked[0], size[0]), min(asked[1], size[1])
    samples, bands = math.prod(tile) * len(src.dtypes), len(src.dtypes)
    stored = min(_file_bytes(src.name), samples * pixel_bytes(src.dtypes[:1]))
    if tile[0] <= height and tile[1] <= width:
        at_once = min(usable_cores(), math.ceil(size[1] / tile[1]) * math.ceil(size[0] / tile[0]))
        return at_once * (INTEGER_BYTES * samples + stored)
    part = min(height, tile[0]) * min(width, tile[1]) * bands if tile == size else samples
    # The codestream of the previous area may still be in memory.
    return math.ceil(AREA_BYTES * part + CODE_BLOCKS_BYTES * samples) + 2 * stored


def _jpeg2000_tile(path: str) -> tuple[int, int] | None:
    """Return the height and width of a tile by the codestream's SIZ marker; None if the marker is not found."""
    try:
        with open(path, "rb") as file:
            head = file.read(SIZ_WITHIN)
    except OSError:
        return None
    at = head.find(b"\xff\x4f\xff\x51")
    if at < 0 or len(head) < at + 32:
        return None
    width, height = struct.unpack(">II", head[at + 24 : at + 32])
    return height, width


def is_interleaved(src: Any) -> bool:
    """Return True if all bands share blocks."""
    return bool(src.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE") == "PIXEL")


def _jpeg_bytes(src: Any) -> int:
    """Return the bytes for JPEG: all coefficients of a progressive file; the maximum if unknown."""
    pixels = int(src.height) * int(src.width)
    try:
        with open(src.name, "rb") as file:
            share = _progressive_share(file)
    except (OSError, IndexError):
        share = float(len(src.dtypes))
    return math.ceil(COEFFICIENT_BYTES * pixels * share)


def _progressive_share(file: BinaryIO) -> float:
    """Return the coefficients per pixel, all components together; 0 if the file is not progressive."""
    file.seek(2)
    while True:
        mark = file.read(4)
        size = int.from_bytes(mark[2:], "big") - 2
        if mark[0] != 0xFF or size < 0:
            raise IndexError("not at a marker")
        if mark[1] not in FRAMES:
            file.seek(size, os.SEEK_CUR)
            continue
        if mark[1] not in PROGRESSIVE:
            return 0.0
        frame = file.read(size)
        sampling = [frame[7 + 3 * i] for i in range(frame[5])]
        most = max(s >> 4 for s in sampling) * max(s & 15 for s in sampling)
        return sum((s >> 4) * (s & 15) for s in sampling) / most


def _is_interlaced(path: str) -> bool:
    """Return True if a PNG is interlaced, or if unknown."""
    try:
        with open(path, "rb") as file:
            return file.read(29)[28] != 0
    except (OSError, IndexError):
        return True


def _file_bytes(path: str) -> int:
    """Return the size of a local file, else more than any file's."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 1 << 62
