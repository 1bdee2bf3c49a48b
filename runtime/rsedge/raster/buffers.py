"""Memory that GDAL's drivers take to decode a file, beside the block cache: upper bounds that are cheap to find."""

from __future__ import annotations

import math
import os
from typing import Any, BinaryIO

import numpy as np

PNG_CHUNK_BYTES = 100_000_000  # of an interlaced image, decoded at a time
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG markers that say size and sampling
PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
COEFFICIENT_BYTES = 2


def decoder_bytes(src: Any, threads: int = 1) -> int:
    """Of an open rasterio dataset: a block stored and decoded for each thread; all of what only decodes whole.

    That is a progressive JPEG, an interlaced PNG, and the stored bytes of a TIFF in one strip. 0 for formats that
    are not known here.
    """
    if src.driver == "GTiff":
        return _tiff_bytes(src, threads)
    if src.driver == "JPEG":
        return _jpeg_bytes(src)
    if src.driver == "PNG":
        whole = int(src.height) * int(src.width) * pixel_bytes(src.dtypes)
        return min(whole, PNG_CHUNK_BYTES) if _is_interlaced(src.name) else 0
    return 0


def pixel_bytes(dtypes: Any) -> int:
    """Bytes of one pixel of bands of these dtypes."""
    return sum(8 if kind.startswith("complex") else np.dtype(kind).itemsize for kind in dtypes)


def _tiff_bytes(src: Any, threads: int) -> int:
    (height, width), together = src.block_shapes[0], is_interleaved(src)
    decoded = height * width * pixel_bytes(src.dtypes if together else src.dtypes[:1])
    # GDAL shows a high strip as rows: then only this tells what is loaded to decode the first of them.
    stored = int(src.get_tag_item("BLOCK_SIZE_0_0", "TIFF", bidx=1) or 0)
    count = math.ceil(src.height / height) * math.ceil(src.width / width)
    a_block = int(decoded + min(decoded, _file_bytes(src.name)))
    return int(min(max(threads, 1), count) * a_block + max(stored - decoded, 0))


def is_interleaved(src: Any) -> bool:
    """Whether all bands are in the same blocks."""
    return bool(src.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE") == "PIXEL")


def _jpeg_bytes(src: Any) -> int:
    """Of a progressive file every coefficient is held; the most there can be where that cannot be told."""
    pixels = int(src.height) * int(src.width)
    try:
        with open(src.name, "rb") as file:
            share = _progressive_share(file)
    except (OSError, IndexError):
        share = float(len(src.dtypes))
    return math.ceil(COEFFICIENT_BYTES * pixels * share)


def _progressive_share(file: BinaryIO) -> float:
    """Coefficients of a pixel, all components together; 0 where the file is not progressive."""
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
    """Of a PNG; True where that cannot be told."""
    try:
        with open(path, "rb") as file:
            return file.read(29)[28] != 0
    except (OSError, IndexError):
        return True


def _file_bytes(path: str) -> int:
    """Size of a local file, else more than any."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 1 << 62
