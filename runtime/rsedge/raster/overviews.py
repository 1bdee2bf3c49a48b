"""Overviews of a class mask: of each 2 x 2 pixels the most frequent class, level upon level.

GDAL's own mode resampling takes ten times as long, and averaging classes would make a third of two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window as GdalWindow

from rsedge.kernels import compiled
from rsedge.raster.cache import bounded_cache
from rsedge.raster.grid import Grid, unreferenced_allowed
from rsedge.raster.writer import BLOCK, create

Pixels = NDArray[np.uint8]


def build_overviews(
    source: Path, scratch: Callable[[str], Path], creation: Mapping[str, Any]
) -> tuple[Path, ...]:
    """Files of half, a quarter ... of the size, down to one block, in one pass over ``source``."""
    with unreferenced_allowed(), ExitStack() as stack:
        src = stack.enter_context(rasterio.open(source))
        # Rows come half a block at a time: what is begun stays in the cache until it is whole.
        stack.enter_context(bounded_cache(2 * BLOCK * src.width * src.count))
        levels = list[_Level]()
        height, width = src.shape
        while max(height, width) > BLOCK:
            height, width = -(-height // 2), -(-width // 2)
            path = scratch(f"overview{len(levels)}.tif")
            dst = stack.enter_context(create(path, Grid(height, width), {"count": src.count, **creation}))
            levels.append(_Level(path, dst, src.count))
        if not levels:
            return ()
        for row in range(0, src.height, BLOCK):
            rows = min(BLOCK, src.height - row)
            _push(levels, 0, src.read(window=GdalWindow(0, row, src.width, rows)))
        for number, level in enumerate(levels):
            _flush(levels, number, level)
    return tuple(level.path for level in levels)


class _Level:
    """One overview that grows from the top, a row of blocks of the level above at a time."""

    def __init__(self, path: Path, dst: Any, bands: int) -> None:
        self.path, self.dst = path, dst
        self.rows = np.empty((bands, BLOCK, dst.width), np.uint8)  # for the next level, at an even row
        self.held = self.written = 0


def _push(levels: list[_Level], number: int, fine: Pixels) -> None:
    """Halve rows of the level above; an even number of them unless they are the last."""
    level = levels[number]
    coarse = np.stack([halve(band) for band in fine])
    level.dst.write(coarse, window=GdalWindow(0, level.written, coarse.shape[2], coarse.shape[1]))
    level.written += coarse.shape[1]
    level.rows[:, level.held : level.held + coarse.shape[1]] = coarse
    level.held += coarse.shape[1]
    if level.held == level.rows.shape[1]:
        _flush(levels, number, level)


def _flush(levels: list[_Level], number: int, level: _Level) -> None:
    if level.held and number + 1 < len(levels):
        _push(levels, number + 1, level.rows[:, : level.held])
    level.held = 0


def halve(fine: Pixels) -> Pixels:
    """Of each 2 x 2 pixels of (h, w) the most frequent value, of equals the first by row, then column.

    Odd sides are continued by their last row or column: the result is (ceil(h / 2), ceil(w / 2)).
    """
    height, width = fine.shape
    if height % 2 or width % 2:
        fine = np.pad(fine, ((0, height % 2), (0, width % 2)), mode="edge")
    kernels = compiled()
    if kernels is not None:
        fine = np.ascontiguousarray(fine)
        coarse = np.empty((fine.shape[0] // 2, fine.shape[1] // 2), np.uint8)
        kernels.rsedge_halve(fine.ctypes.data, coarse.ctypes.data, *coarse.shape)
        return coarse
    a, b, c, d = fine[::2, ::2], fine[::2, 1::2], fine[1::2, ::2], fine[1::2, 1::2]
    rest = np.where((b == c) | (b == d), b, np.where(c == d, c, a))
    return np.where((a == b) | (a == c) | (a == d), a, rest)
