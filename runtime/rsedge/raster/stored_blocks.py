"""Blocks of tiled TIFFs as stored: copied from file to file without being decoded and compressed again.

GDAL makes the target: a file of the right shape, tags and layout without a single block. This module then appends
the blocks and enters their places, which is all that a TIFF needs.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from rsedge.errors import OutputError
from rsedge.files import describe, sync

WIDTH, LENGTH, TILE_WIDTH, TILE_LENGTH, OFFSETS, COUNTS = 256, 257, 322, 323, 324, 325
# Bits, compression, bands, planes, predictor and sample format: blocks of files that share these are interchangeable.
ENCODING = (258, 259, 277, 284, 317, 339)
TYPES = {3: "u2", 4: "u4", 16: "u8"}
BANDS, PLANES, SEPARATE = 277, 284, 2
WRITE_BYTES = 4 << 20


@dataclass(frozen=True)
class Level:
    """One image of a TIFF: where its blocks lie, (rows of blocks, columns of blocks), and how they are encoded."""

    path: Path
    size: tuple[int, int]  # height, width
    block: tuple[int, int]
    encoding: tuple[tuple[int, ...], ...]
    offsets: NDArray[np.uint64]
    counts: NDArray[np.uint64]
    tables: tuple[tuple[int, str], ...]  # places and types of both tables in the file

    @property
    def grid(self) -> tuple[int, int]:
        """Return the rows and columns of blocks."""
        rows, cols = self.offsets.shape
        return rows, cols

    @property
    def copyable(self) -> bool:
        """Return True if each block holds all bands."""
        bands, planes = (self.encoding[ENCODING.index(tag)] for tag in (BANDS, PLANES))
        return planes != (SEPARATE,) or bands == (1,)


@dataclass(frozen=True)
class Placed:
    """A file's blocks, and the row and column of blocks of the target where its first belongs."""

    level: Level
    row: int = 0
    col: int = 0


def read_levels(path: Path) -> tuple[Level, ...]:
    """Return the images of a little-endian tiled TIFF or BigTIFF in the order of the file.

    Raises ValueError if the file is something else.
    """
    with path.open("rb") as file:
        head = file.read(16)
        big = head[:4] == b"II\x2b\x00"
        if not big and head[:4] != b"II\x2a\x00":
            raise ValueError(f"{path} is not a little-endian TIFF")
        at = _number(head[8:16] if big else head[4:8])
        levels = []
        while at:
            level, at = _level(file, path, at, big)
            levels.append(level)
    return tuple(levels)


def _level(file: BinaryIO, path: Path, at: int, big: bool) -> tuple[Level, int]:
    """Return the image whose directory begins at a place, and the place of the next directory."""
    count_bytes, entry_bytes, pointer = (8, 20, 8) if big else (2, 12, 4)
    file.seek(at)
    entries = _number(file.read(count_bytes))
    directory = file.read(entries * entry_bytes + pointer)
    tags: dict[int, tuple[int, str, int]] = {}
    for i in range(entries):
        entry = directory[i * entry_bytes : (i + 1) * entry_bytes]
        tag, kind, number = _number(entry[:2]), TYPES.get(_number(entry[2:4])), _number(entry[4:-pointer])
        if kind is not None:
            own = at + count_bytes + (i + 1) * entry_bytes - pointer
            inside = number * int(kind[1]) <= pointer
            tags[tag] = (own if inside else _number(entry[-pointer:]), kind, number)

    def values(tag: int) -> NDArray[np.uint64]:
        place, dtype, size = tags[tag]
        file.seek(place)
        return np.frombuffer(file.read(size * int(dtype[1])), f"<{dtype}").astype(np.uint64)

    if OFFSETS not in tags:
        raise ValueError(f"{path} is not tiled")
    height, width, block_height, block_width = (
        int(values(t)[0]) for t in (LENGTH, WIDTH, TILE_LENGTH, TILE_WIDTH)
    )
    rows, cols = -(-height // block_height), -(-width // block_width)
    level = Level(
        path,
        (height, width),
        (block_height, block_width),
        tuple(tuple(values(t).tolist()) if t in tags else () for t in ENCODING),
        values(OFFSETS).reshape(-1, rows, cols)[0],
        values(COUNTS).reshape(-1, rows, cols)[0],
        tuple((tags[tag][0], tags[tag][1]) for tag in (OFFSETS, COUNTS)),
    )
    return level, _number(directory[-pointer:])


def fits(target: Sequence[Level], sources: Sequence[Sequence[Placed]]) -> bool:
    """Return True if the blocks of ``sources``, for each image of ``target``, can be copied and fill it."""
    if len(target) != len(sources):
        return False
    for level, placed in zip(target, sources, strict=True):
        covered = np.zeros(level.grid, np.uint8)
        for p in placed:
            if (p.level.block, p.level.encoding) != (level.block, level.encoding) or not p.level.copyable:
                return False
            rows, cols = p.level.grid
            if p.row + rows > covered.shape[0] or p.col + cols > covered.shape[1] or not p.level.counts.all():
                return False
            covered[p.row : p.row + rows, p.col : p.col + cols] += 1
        if (covered != 1).any():
            return False
    return True


def fill(target: Sequence[Level], sources: Sequence[Sequence[Placed]], *, framed: bool) -> None:
    """Append the blocks to the file of ``target``, smallest image first, each in rows, and enter their places.

    ``framed``: as in a cloud-optimized GeoTIFF of GDAL's, where a block's size stands before it and its last
    four bytes again behind it. The file is synced and read back. Raises OSError, and OutputError if the bytes read
    back differ.
    """
    path = target[0].path
    with path.open("r+b", buffering=WRITE_BYTES) as file:
        begin = place = file.seek(0, os.SEEK_END)
        crc = 0
        for level, placed in reversed(list(zip(target, sources, strict=True))):
            offsets, counts = np.zeros_like(level.offsets), np.zeros_like(level.counts)
            for index, data in _in_rows(level, placed):
                before, behind = (len(data).to_bytes(4, "little"), data[-4:]) if framed else (b"", b"")
                whole = before + data + behind
                file.write(whole)
                crc = zlib.crc32(whole, crc)
                offsets[index], counts[index] = place + len(before), len(data)
                place += len(whole)
            for (at, kind), values in zip(level.tables, (offsets, counts), strict=True):
                file.seek(at)
                file.write(values.astype(f"<{kind}").tobytes())
            file.seek(place)
    sync(path)
    if describe(path, begin) != (place - begin, crc):
        raise OutputError(f"{path}: the bytes read back differ from those written. The disk may be full")


def _in_rows(level: Level, placed: Sequence[Placed]) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Yield the index and the bytes of every block of an image, row by row."""
    waiting = sorted(placed, key=lambda p: (p.row, p.col))
    held: list[Placed] = []  # sources of the current row of blocks, from left to right
    files: dict[Path, BinaryIO] = {}
    with ExitStack() as stack:
        for row in range(level.grid[0]):
            for p in [p for p in held if p.row + p.level.grid[0] <= row]:
                files.pop(p.level.path).close()
                held.remove(p)
            while waiting and waiting[0].row <= row:
                held.append(waiting.pop(0))
                files[held[-1].level.path] = stack.enter_context(held[-1].level.path.open("rb"))
            for p in sorted(held, key=lambda p: p.col):
                file, own = files[p.level.path], row - p.row
                for col, (at, size) in enumerate(
                    zip(p.level.offsets[own].tolist(), p.level.counts[own].tolist(), strict=True)
                ):
                    file.seek(at)
                    data = file.read(size)
                    if len(data) != size:
                        raise OSError(f"{p.level.path} ends before its blocks do")
                    yield (row, p.col + col), data


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")
