"""Overlapping tiles of scores, merged into rows of a mask.

One band of rows is kept, as high as a tile and as wide as the raster, so memory is
``classes x tile x width x 4`` bytes whatever the raster's height.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rsedge.tiling import Tiling

Scores = NDArray[np.float32]


class RollingBand:
    """Weighted sum of the scores of overlapping windows over a rolling band of rows.

    Use, for every row of windows: ``add`` each of its windows (all-nodata ones may be left out,
    their pixels then keep score 0), then ``finish_row`` once, which returns the rows that no later
    window reaches.
    """

    def __init__(self, tiling: Tiling, classes: int) -> None:
        self._tiling = tiling
        self._sum = np.zeros((classes, tiling.rows.size, tiling.cols.length), np.float32)
        self._weight = np.empty((tiling.rows.size, tiling.cols.size), np.float32)
        self._weighted = np.empty((tiling.rows.size, tiling.cols.size), np.float32)
        self._row = 0

    def add(self, col: int, scores: Scores) -> None:
        """Add the scores, (classes, tile, tile) float32, of the ``col``-th window of this row.

        Rows and columns beyond the raster (a tile reflected up to size) are dropped.
        """
        tiling = self._tiling
        start, width, height = tiling.cols.starts[col], tiling.cols.size, tiling.rows.size
        np.multiply(tiling.rows.weights[self._row][:, None], tiling.cols.weights[col], out=self._weight)
        # Class by class, so that the scratch plane stays in the cache.
        for total, plane in zip(self._sum, scores, strict=True):
            np.multiply(plane[:height, :width], self._weight, out=self._weighted)
            total[:, start : start + width] += self._weighted

    def finish_row(self) -> NDArray[np.uint8]:
        """The mask rows, (rows, width), that are complete now; moves the band down to the next row."""
        height, done = self._tiling.rows.size, _rows_done(self._tiling, self._row)
        mask = argmax(self._sum[:, :done])
        if self._row < len(self._tiling.rows.starts) - 1:
            self._sum[:, : height - done] = self._sum[:, done:]
            self._sum[:, height - done :] = 0
            self._row += 1
        return mask


class CropBand:
    """Classes of tiles cut where a neighbour's centre is nearer, over the same rolling band of rows.

    For ``--seam crop``, where a pixel belongs to one window and the device has found its class. Used as
    ``RollingBand``; its memory is ``tile x width`` bytes.
    """

    def __init__(self, tiling: Tiling) -> None:
        self._tiling = tiling
        self._mask = np.zeros((tiling.rows.size, tiling.cols.length), np.uint8)
        self._row = 0

    def add(self, col: int, classes: NDArray[np.uint8]) -> None:
        """Take the pixels that are the ``col``-th window's own of its classes, (tile, tile)."""
        rows, cols = self._tiling.rows, self._tiling.cols
        top, bottom = _own(rows.weights[self._row])
        left, right = _own(cols.weights[col])
        start = cols.starts[col]
        self._mask[top:bottom, start + left : start + right] = classes[top:bottom, left:right]

    def finish_row(self) -> NDArray[np.uint8]:
        """The mask rows, (rows, width), that are complete now; moves the band down to the next row."""
        height, done = self._tiling.rows.size, _rows_done(self._tiling, self._row)
        mask = self._mask[:done].copy()
        if self._row < len(self._tiling.rows.starts) - 1:
            self._mask[: height - done] = self._mask[done:].copy()
            self._mask[height - done :] = 0
            self._row += 1
        return mask


def _rows_done(tiling: Tiling, row: int) -> int:
    """Rows of the band that no window below the ``row``-th row of windows reaches."""
    starts = tiling.rows.starts
    return tiling.rows.size if row == len(starts) - 1 else starts[row + 1] - starts[row]


def _own(weights: NDArray[np.float32]) -> tuple[int, int]:
    """First pixel of a window that is its own, and the one after its last; with ``crop`` they are one run."""
    mine = np.flatnonzero(weights)
    return (int(mine[0]), int(mine[-1]) + 1) if mine.size else (0, 0)


def argmax(scores: Scores) -> NDArray[np.uint8]:
    """Class of the highest score, the first among equals: (classes, h, w) to (h, w).

    Same result as ``scores.argmax(0)``, several times faster on planar scores.
    """
    best = scores[0].copy()
    mask = np.zeros(best.shape, np.uint8)
    for index in range(1, len(scores)):
        higher = scores[index] > best
        np.copyto(mask, index, where=higher)
        np.maximum(best, scores[index], out=best)
    return mask
