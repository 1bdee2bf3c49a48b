"""Overlapping tiles of scores, merged into rows of a mask.

Only sums that a later tile still adds to are kept: the rows that the next row of windows shares with this one,
as wide as the raster, and the columns that the next tile shares. Memory is ``classes x overlap x width x 4``
bytes, independent of the raster's height.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.errors import ModelError
from rsedge.tiling.axes import Axis, Tiling
from rsedge.tiling.kernels import compiled
from rsedge.tiling.twins import add_tile
from rsedge.tiling.window import Window

Scores = NDArray[np.float32]
MOST_WIDTH = 8192  # as in kernels.c


@dataclass(frozen=True)
class Span:
    """The windows of one axis that an area needs, and the division of their pixels.

    ``begin`` .. ``end`` are the area's pixels.
    """

    axis: Axis
    begin: int
    end: int

    @property
    def windows(self) -> range:
        """Return the numbers of the windows that hold a pixel of the area."""
        return self.axis.covering(self.begin, self.end)

    @property
    def low(self) -> int:
        """Return the first pixel of the first window."""
        return self.axis.starts[self.windows[0]]

    @property
    def high(self) -> int:
        """Return the first pixel after the last window."""
        return self.axis.ends[self.windows[-1]]

    def shared(self, number: int) -> int:
        """Return the pixels at the start of a window that it shares with the previous window."""
        return 0 if number == self.windows[0] else self.axis.ends[number - 1] - self.axis.starts[number]

    def own(self, number: int) -> int:
        """Return the pixels at the start of a window that no later window holds."""
        if number == self.windows[-1]:
            return self.axis.size
        return self.axis.starts[number + 1] - self.axis.starts[number]

    @property
    def most_carried(self) -> int:
        """Return the most pixels that a window shares with the next."""
        return max(0, self.axis.size - self.axis.steps(self.windows)[0])

    @property
    def most_own(self) -> int:
        """Return the most pixels of a window that no later window holds: all of the last window's."""
        return self.axis.size


class Spans:
    """Rows and columns of the windows that an ``area`` of a tiled raster needs (None: the whole raster)."""

    def __init__(self, tiling: Tiling, area: Window | None = None) -> None:
        area = area or Window(0, 0, tiling.rows.length, tiling.cols.length)
        self.area, self.tiling = area, tiling
        self.rows = Span(tiling.rows, area.row, area.row_end)
        self.cols = Span(tiling.cols, area.col, area.col_end)

    def __len__(self) -> int:
        return len(self.rows.windows) * len(self.cols.windows)

    @property
    def outline(self) -> Window:
        """Return the window of all pixels of these windows, which must be read."""
        rows, cols = self.rows, self.cols
        return Window(rows.low, cols.low, rows.high - rows.low, cols.high - cols.low)

    def done(self, row: int) -> tuple[int, int]:
        """Return the area's rows, first and end, that are complete when a row of windows is complete."""
        start = self.tiling.rows.starts[row]
        return max(start, self.area.row), min(start + self.rows.own(row), self.area.row_end)


class RollingBand:
    """Weighted sum of the scores of overlapping windows, rolled down a raster or an area of a raster.

    For every row of windows, ``add`` each window from left to right (windows without a valid pixel may be
    skipped; their part of the mask is arbitrary), then call ``finish_row`` once.
    ``probabilities``: also keep each class's share, the softmax of the blended scores.
    """

    def __init__(self, spans: Spans, classes: int, probabilities: bool = False) -> None:
        self._spans, self._classes = spans, classes
        height, width = spans.tiling.rows.size, spans.tiling.cols.size
        across = spans.outline.width
        self._rows = np.zeros((max(1, spans.rows.most_carried), classes, across), np.float32)
        self._left = np.zeros((height, classes, max(1, spans.cols.most_carried)), np.float32)
        most_done = spans.rows.most_own
        self._mask = np.zeros((most_done, across), np.uint8)
        self._percent = np.zeros((classes, most_done, across), np.uint8) if probabilities else None
        # Percentages need whole planes of sums, which the kernel does not keep.
        self._kernel: Any = compiled() if width <= MOST_WIDTH and not probabilities else None
        self._totals = None if self._kernel else np.empty((classes, height, width), np.float32)
        self._row, self._top = spans.rows.windows[0], 0

    def add(self, col: int, scores: Scores) -> bool:
        """Add the scores, (classes, tile, tile), of window ``col`` of this row; return True if all are finite.

        Rows and columns outside the raster (padding of a tile) are dropped.
        """
        tiling, rows, cols = self._spans.tiling, self._spans.rows, self._spans.cols
        at = (
            tiling.cols.starts[col] - cols.low,
            self._top,
            rows.shared(self._row),
            rows.own(self._row),
            cols.shared(col),
            cols.own(col),
        )
        down, across = tiling.rows.weights_of(self._row), tiling.cols.weights_of(col)
        # The shape is checked, because the kernel gets only a pointer and one side.
        if scores.shape != (self._classes, scores.shape[-1], scores.shape[-1]) or scores.shape[-1] < max(
            down.size, across.size
        ):
            raise ModelError(
                f"the model returned scores {scores.shape} for a tile of {self._classes} classes and at least "
                f"{down.size} x {across.size} pixels. Export the model again"
            )
        finite = (self._add_compiled if self._kernel else self._add)(scores, down, across, at)
        if finite and self._percent is not None and self._totals is not None:
            first, _, _, done, _, ready = at
            self._percent[:, :done, first : first + ready] = percentages(self._totals[:, :done, :ready])
        return finite

    def _add(
        self, scores: Scores, down: Scores, across: Scores, at: tuple[int, int, int, int, int, int]
    ) -> bool:
        return add_tile(scores, down, across, self._rows, self._left, self._mask, at, self._totals)

    def _add_compiled(
        self, scores: Scores, down: Scores, across: Scores, at: tuple[int, int, int, int, int, int]
    ) -> bool:
        scores = np.ascontiguousarray(scores, np.float32)
        arrays = (scores, down, across, self._rows, self._left, self._mask)
        shape = (self._classes, scores.shape[1], down.size, across.size, self._rows.shape[2])
        return bool(
            self._kernel.rsedge_add_tile(
                *(array.ctypes.data for array in arrays), *shape, len(self._rows), self._left.shape[2], *at
            )
        )

    def finish_row(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Return the area's rows that are now complete, and move to the next row of windows.

        Mask (rows, width) and, if requested, probabilities in percent (classes, rows, width), both owned by the
        caller. Either may have no rows.
        """
        spans, row = self._spans, self._row
        start, area = spans.tiling.rows.starts[row], spans.area
        begin, end = spans.done(row)
        rows = slice(begin - start, max(begin, end) - start)
        cols = slice(area.col - spans.cols.low, area.col_end - spans.cols.low)
        self._top = (self._top + spans.rows.own(row)) % len(self._rows)
        self._row += 1
        mask, percent = self._mask, self._percent
        self._mask = np.zeros_like(mask)
        if percent is not None:
            self._percent = np.zeros_like(percent)
        return mask[rows, cols], None if percent is None else percent[:, rows, cols]


class CropBand:
    """Classes of tiles, each pixel from the window with the nearest centre, in a rolling band of rows.

    For ``--seam crop``, if the device returns classes instead of scores. Used like ``RollingBand``; memory is
    ``tile x width`` bytes.
    """

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._mask = np.zeros((spans.tiling.rows.size, spans.outline.width), np.uint8)
        self._row, self._done = spans.rows.windows[0], 0

    def add(self, col: int, classes: NDArray[np.uint8]) -> bool:
        """Add the pixels of ``classes``, (tile, tile), that belong to window ``col``."""
        rows, cols = self._spans.tiling.rows, self._spans.tiling.cols
        self._move_down()
        top, bottom = _own(rows.weights_of(self._row))
        left, right = _own(cols.weights_of(col))
        start = cols.starts[col] - self._spans.cols.low
        self._mask[top:bottom, start + left : start + right] = classes[top:bottom, left:right]
        return True  # backends that return classes check for NaN themselves

    def finish_row(self) -> tuple[NDArray[np.uint8], None]:
        """Return complete rows as ``RollingBand.finish_row``, without probabilities."""
        self._move_down()
        spans, row = self._spans, self._row
        start, area = spans.tiling.rows.starts[row], spans.area
        begin, end = spans.done(row)
        cols = slice(area.col - spans.cols.low, area.col_end - spans.cols.low)
        self._done = spans.rows.own(row)  # rows to drop when the next row of windows begins
        self._row += 1
        return self._mask[begin - start : max(begin, end) - start, cols].copy(), None

    def _move_down(self) -> None:
        if self._done:
            kept = len(self._mask) - self._done
            self._mask[:kept] = self._mask[self._done :].copy()
            self._done = 0


def _own(weights: NDArray[np.float32]) -> tuple[int, int]:
    """Return the bounds of the pixels that a cropped window keeps along one axis."""
    mine = np.flatnonzero(weights)
    return (int(mine[0]), int(mine[-1]) + 1) if mine.size else (0, 0)


def percentages(scores: Scores) -> NDArray[np.uint8]:
    """Return the softmax of scores (classes, h, w) as integer percents, 0 to 100, of the same shape."""
    shares = np.exp(scores - scores.max(0))
    shares *= 100 / shares.sum(0)
    percent: NDArray[np.uint8] = np.rint(shares, out=shares).astype(np.uint8)
    return percent
