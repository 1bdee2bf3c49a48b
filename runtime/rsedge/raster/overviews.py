"""Overviews of a class mask: the most frequent class of each 2 x 2 pixels, level by level.

GDAL's own mode resampling takes ten times as long, and averaging two classes would give a third.
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

from rsedge.raster.grid import Grid, unreferenced_allowed
from rsedge.raster.writer import BLOCK, create
from rsedge.tiling import twins
from rsedge.tiling.kernels import compiled

Pixels = NDArray[np.uint8]
MOST_BYTES = 8 << 20  # of the source in memory at a time


def build_overviews(
    source: Path, scratch: Callable[[str], Path], creation: Mapping[str, Any]
) -> tuple[Path, ...]:
    """Write overviews of half, a quarter ... of the size of ``source``, down to one block; return their paths.

    ``scratch`` returns a path for a suffix; ``creation``: GDAL's creation options. Memory does not depend on
    the size: columns of the source are halved several times in one pass, and the last level made is the
    source of the next pass.
    """
    made: list[Path] = []
    while levels := _build_some(source, len(made), scratch, creation):
        made += levels
        source = made[-1]
    return tuple(made)


def _build_some(
    source: Path, first: int, scratch: Callable[[str], Path], creation: Mapping[str, Any]
) -> tuple[Path, ...]:
    """Build as many overview levels as fit in memory; return () if the source fits one block."""
    with unreferenced_allowed(), ExitStack() as stack:
        src = stack.enter_context(rasterio.open(source))
        most = max(1, (MOST_BYTES // (BLOCK * BLOCK * src.count)).bit_length() - 1)
        (height, width), columns = src.shape, BLOCK << most
        paths, files = list[Path](), list[Any]()
        while max(height, width) > BLOCK and len(files) < most:
            height, width = -(-height // 2), -(-width // 2)
            paths.append(scratch(f"overview{first + len(files)}.tif"))
            options = {"count": src.count, **creation}
            files.append(stack.enter_context(create(paths[-1], Grid(height, width), options)))
        for col in range(0, src.width if files else 0, columns):
            across = min(columns, src.width - col)
            level = _Level(files, col, across)
            for row in range(0, src.height, BLOCK):
                window = GdalWindow(col, row, across, min(BLOCK, src.height - row))
                level.push(src.read(window=window))
            level.finish()
    return tuple(paths)


class _Level:
    """Columns of one overview level, filled from the top, which feed the next smaller level.

    ``files``: those of this and all smaller levels; ``col``, ``width``: the columns in the next larger level.
    """

    def __init__(self, files: list[Any], col: int, width: int) -> None:
        self._dst, self._col, width = files[0], col // 2, -(-width // 2)
        self._rows = np.empty((self._dst.count, BLOCK, width), np.uint8)
        self._held = self._written = 0
        self._next = _Level(files[1:], self._col, width) if len(files) > 1 else None

    def push(self, fine: Pixels) -> None:
        """Halve rows (bands, h, w) of the larger level: at most one block's, an even number except the last."""
        count = -(-fine.shape[1] // 2)
        for band, rows in zip(fine, self._rows, strict=True):
            rows[self._held : self._held + count] = halve(band)
        self._held += count
        if self._held == BLOCK:
            self._flush()

    def finish(self) -> None:
        """Write the remaining rows of this and all smaller levels."""
        if self._held:
            self._flush()
        if self._next is not None:
            self._next.finish()

    def _flush(self) -> None:
        rows = self._rows[:, : self._held]
        self._dst.write(rows, window=GdalWindow(self._col, self._written, rows.shape[2], self._held))
        self._written, self._held = self._written + self._held, 0
        if self._next is not None:
            self._next.push(rows)


def halve(fine: Pixels) -> Pixels:
    """Return the most frequent value of each 2 x 2 pixels of (h, w); on a tie the first by row, then column.

    On odd sides the last row or column is repeated: the result is (ceil(h / 2), ceil(w / 2)).
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
    return twins.halve(fine)
