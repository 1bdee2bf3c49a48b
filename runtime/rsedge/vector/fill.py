"""Rasterization of many polygons, window by window, in bounded memory for any number and shape of polygons.

A pixel is inside a polygon if an odd number of edges cross its row left of its centre. Crossings are computed
only from the edge and the row's number, so they do not depend on the window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.tiling.window import Window

Points = NDArray[np.float64]
Ints = NDArray[np.int64]
PIECE_PIXELS = 1 << 18  # filled at a time
PIECE_CROSSINGS = 1 << 15  # counted at a time, some 100 bytes each
PIECE_ROWS = 4096
CROSSING_BYTES, EDGE_BYTES = 160, 24  # per crossing and per edge while a piece is filled


@dataclass(frozen=True)
class Edges:
    """Edges of polygons, each from its upper to its lower end, without edges that cross no row's centre.

    ``upper``, ``lower`` (e, 2): columns and rows; ``polygon`` (e,): its index; ``first``, ``end`` (e,): first row whose
    centre lies between, and the row after the last. Sorted by polygon, and polygons by first row, ``tops`` (p,);
    ``bottoms`` (p,): last row of all polygons up to each; ``begins`` (p + 1,): first edge of each.
    """

    upper: Points
    lower: Points
    polygon: Ints
    first: Ints
    end: Ints
    tops: Ints
    bottoms: Ints
    begins: Ints

    @classmethod
    def of(cls, polygons: Sequence[Sequence[Points]], height: int) -> Edges:
        """Collect the edges of polygons, closed rings (v, 2) of columns and rows, on ``height`` rows."""
        rings = [ring for rings in polygons for ring in rings]
        owner = np.repeat(np.arange(len(polygons)), [sum(len(r) - 1 for r in rings) for rings in polygons])
        begin = np.concatenate([r[:-1] for r in rings]) if rings else np.zeros((0, 2))
        until = np.concatenate([r[1:] for r in rings]) if rings else np.zeros((0, 2))
        down = (begin[:, 1] < until[:, 1])[:, None]
        upper, lower = np.where(down, begin, until), np.where(down, until, begin)
        rows = [np.clip(np.ceil(ends[:, 1] - 0.5), 0, height).astype(np.int64) for ends in (upper, lower)]
        used = np.flatnonzero(rows[0] < rows[1])
        top = np.full(len(polygons), height)
        np.minimum.at(top, owner[used], rows[0][used])
        used = used[np.lexsort((owner[used], top[owner[used]]))]
        kept, begins = np.unique(_runs(owner[used]), return_index=True)
        first, end = rows[0][used], rows[1][used]
        bottoms = np.maximum.accumulate(np.maximum.reduceat(end, begins)) if len(kept) else np.zeros(0, int)
        tops = top[owner[used][begins]] if len(kept) else np.zeros(0, int)
        return cls(
            upper[used],
            lower[used],
            _runs(owner[used]),
            first,
            end,
            tops,
            bottoms,
            np.append(begins, len(used)),
        )

    @property
    def filling_bytes(self) -> int:
        """Return an upper bound of the bytes that `inside` needs besides its result."""
        return CROSSING_BYTES * PIECE_CROSSINGS + EDGE_BYTES * len(self.first) + 8 * PIECE_PIXELS

    def inside(self, window: Window) -> NDArray[np.bool_]:
        """Return a boolean mask (h, w), True for pixels whose centre is inside any polygon."""
        found = np.zeros((window.height, window.width), np.bool_)
        some = slice(
            self.begins[np.searchsorted(self.bottoms, window.row, side="right")],
            self.begins[np.searchsorted(self.tops, window.row_end)],
        )
        near = (
            np.flatnonzero((self.first[some] < window.row_end) & (self.end[some] > window.row)) + some.start
        )
        step = min(max(1, PIECE_PIXELS // window.width), PIECE_ROWS)
        for row in range(window.row, window.row_end, step):
            end = min(row + step, window.row_end)
            here = near[(self.first[near] < end) & (self.end[near] > row)]
            if len(here):
                piece = Window(row, window.col, end - row, window.width)
                found[row - window.row : end - window.row] = self._fill(here, piece)
        return found

    def _fill(self, edges: Ints, window: Window) -> NDArray[np.bool_]:
        """Return `inside` of a few rows, from the ``edges`` that cross them."""
        found = np.zeros((window.height, window.width), np.bool_)
        counts = np.minimum(self.end[edges], window.row_end) - np.maximum(self.first[edges], window.row)
        begins = np.flatnonzero(np.diff(self.polygon[edges], prepend=-1))
        each = np.diff(np.append(begins, len(edges)))
        many = np.repeat(np.add.reduceat(counts, begins) > PIECE_CROSSINGS, each)
        few = edges[~many]
        for part in self._parts(few, window, self.polygon[few]):
            found |= self._union(part, window)
        crowded = edges[many]
        for mine in (
            np.split(crowded, np.flatnonzero(np.diff(self.polygon[crowded])) + 1) if many.any() else ()
        ):
            flips = np.zeros(window.height * (window.width + 1), np.uint8)
            for part in self._parts(mine, window, mine):
                _, place = self._crossings(part, window)
                flips ^= np.bincount(place, minlength=flips.size).astype(np.uint8) & 1
            found |= _between(flips, window)
        return found

    def _union(self, edges: Ints, window: Window) -> NDArray[np.bool_]:
        """Return the mask of whole polygons: spans between the crossings of each, merged if they overlap."""
        owner, place = self._crossings(edges, window)
        place = place[np.lexsort((place, owner))]  # each polygon's row has pairs: from, to
        begin, end = place[::2], place[1::2]
        order = np.argsort(begin, kind="stable")
        begin, reach = begin[order], np.maximum.accumulate(end[order])
        new = begin > np.concatenate([[-1], reach[:-1]])
        flips = np.zeros(window.height * (window.width + 1), np.uint8)
        flips[begin[new]] ^= 1
        flips[reach[np.append(np.flatnonzero(new)[1:] - 1, len(reach) - 1)]] ^= 1
        return _between(flips, window)

    def _parts(self, edges: Ints, window: Window, key: Ints) -> Iterator[Ints]:
        """Yield edges in groups of about PIECE_CROSSINGS; edges of equal ``key`` stay together."""
        counts = np.minimum(self.end[edges], window.row_end) - np.maximum(self.first[edges], window.row)
        group = np.cumsum(counts) // PIECE_CROSSINGS
        starts = np.flatnonzero(np.diff(key, prepend=-1))
        group = np.repeat(group[starts], np.diff(np.append(starts, len(edges))))
        yield from np.split(edges, np.flatnonzero(np.diff(group)) + 1) if len(edges) else ()

    def _crossings(self, edges: Ints, window: Window) -> tuple[Ints, Ints]:
        """Return the polygon of each crossing, and the index of the first pixel to its right, in rows of width + 1."""
        first = np.maximum(self.first[edges], window.row)
        counts = np.minimum(self.end[edges], window.row_end) - first
        row = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - first, counts)
        edge = np.repeat(edges, counts)
        a, b = self.upper[edge], self.lower[edge]
        x = a[:, 0] + (row + 0.5 - a[:, 1]) * (b[:, 0] - a[:, 0]) / (b[:, 1] - a[:, 1])
        col = np.clip(np.ceil(x - 0.5), window.col, window.col_end).astype(np.int64)
        return self.polygon[edge], (row - window.row) * (window.width + 1) + col - window.col


def _between(flips: NDArray[np.uint8], window: Window) -> NDArray[np.bool_]:
    """Return a mask (h, w), True for pixels right of an odd number of ``flips``, whose rows have width + 1."""
    parity = np.bitwise_xor.accumulate(flips.reshape(window.height, -1)[:, :-1], 1)
    return np.asarray(parity.view(np.bool_))


def _runs(values: NDArray[Any]) -> Ints:
    """Return the number of the run of equal values that each value belongs to."""
    return np.asarray(np.cumsum(np.diff(values, prepend=values[:1]) != 0), np.int64)
