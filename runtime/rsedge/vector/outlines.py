"""Outlines of a mask's areas, strip by strip, in bounded memory.

Each strip is traced separately. An area that touches a strip's lower edge stays open until a later strip does not
continue it; its pieces are then joined into the same polygon as if the whole mask had been traced at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rsedge.errors import InputError
from rsedge.model.manifest import NODATA
from rsedge.raster.grid import Grid
from rsedge.vector.rings import Ints, Rings, ranges, stitch
from rsedge.vector.trace import trace

NONE, CUT = -1, -2  # in place of an open area's index: no area; an area that was cut


@dataclass(frozen=True)
class Minimum:
    """The least size of an area to be kept. Raises InputError if a figure is negative or not finite."""

    area_m2: float = 0.0
    pixels: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.area_m2 < np.inf and self.pixels >= 0):
            raise InputError(
                f"the minimum area must be finite and 0 or more, not {self.area_m2:g} m2 or {self.pixels} pixels"
            )


@dataclass(frozen=True)
class Areas:
    """Areas of equal value: (n,) class, pixels, m2, True if beside a cut; and their rings, owned by index."""

    value: NDArray[np.uint8]
    pixels: Ints
    area_m2: NDArray[np.float64]  # NaN if unknown
    beside_cut: NDArray[np.bool_]
    rings: Rings

    def __len__(self) -> int:
        return len(self.value)

    @classmethod
    def joined(cls, parts: Sequence[Areas]) -> Areas:
        """Join the areas of all ``parts``, in this order."""
        first = np.cumsum([0, *map(len, parts)])
        return cls(
            np.concatenate([p.value for p in parts]),
            np.concatenate([p.pixels for p in parts]),
            np.concatenate([p.area_m2 for p in parts]),
            np.concatenate([p.beside_cut for p in parts]),
            Rings.joined([p.rings.named(p.rings.owner + n) for p, n in zip(parts, first, strict=False)]),
        )

    def select(self, chosen: Ints) -> Areas:
        """Return the areas with these increasing indexes, renumbered from 0."""
        place = np.full(len(self), NONE)
        place[chosen] = np.arange(len(chosen))
        rings = self.rings.take(np.flatnonzero(place[self.rings.owner] >= 0))
        return Areas(
            self.value[chosen],
            self.pixels[chosen],
            self.area_m2[chosen],
            self.beside_cut[chosen],
            rings.named(place[rings.owner]),
        )


@dataclass
class _Open:
    """An area that the next strip may continue."""

    value: int
    pixels: int = 0
    area_m2: float = 0.0
    beside_cut: bool = False
    parts: list[Rings] = field(default_factory=list)
    vertices: int = 0

    def absorb(self, other: _Open) -> None:
        """Merge ``other``, which is part of the same area, into this one."""
        self.pixels += other.pixels
        self.area_m2 += other.area_m2
        self.beside_cut |= other.beside_cut
        self.parts += other.parts
        self.vertices += other.vertices


class OutlineTracer:
    """Tracer of the mask of a grid, top down, which counts the areas that it drops and cuts.

    ``strip_rows``: height of all strips but the last; ``most_vertices``: of all open areas together. Above this,
    the largest is cut along the strip's lower edge; areas beside a cut are never dropped.
    """

    def __init__(self, grid: Grid, strip_rows: int, most_vertices: int, minimum: Minimum) -> None:
        self._height, self._most_vertices, self._minimum = grid.height, most_vertices, minimum
        self._ground = grid.pixel_areas()
        self._seams = np.arange(strip_rows, grid.height, strip_rows)
        self._open: list[_Open] = []
        self._above = np.full(grid.width, NONE)  # open area of each pixel in the row above
        self._row_above = np.full(grid.width, NODATA, np.uint8)
        self.dropped = self.cut = 0

    def run(self, strips: Iterable[NDArray[np.uint8]]) -> Iterator[Areas]:
        """Yield, after each strip (h, width), the finished areas, each with its outer ring first."""
        row = 0
        for strip in strips:
            pieces = self._pieces(strip, row)
            top = _owners_along(pieces, row, len(self._above))
            row += len(strip)
            # No area stays open after the last strip.
            bottom = np.full_like(top, NONE) if row == self._height else _owners_along(pieces, row, len(top))
            yield from self._add(pieces, top, bottom, strip)

    def _pieces(self, strip: NDArray[np.uint8], row: int) -> Areas:
        value, rings = trace(strip, NODATA)
        count = len(value)
        pixels = np.bincount(rings.owner, rings.areas(), count)
        area_m2 = np.full(count, np.nan)
        if self._ground is not None:
            area_m2 = np.bincount(rings.owner, rings.areas(self._ground.left_of(row, len(strip))), count)
        below = Rings(rings.xy + np.array([0, row], np.int32), rings.starts, rings.owner)
        return Areas(
            value, pixels.astype(np.int64), area_m2.astype(np.float64), np.zeros(count, np.bool_), below
        )

    def _add(self, pieces: Areas, top: Ints, bottom: Ints, strip: NDArray[np.uint8]) -> Iterator[Areas]:
        same = (top >= 0) & (strip[0] == self._row_above)
        pieces.beside_cut[top[same & (self._above == CUT)]] = True
        linked = same & (self._above >= 0)
        opened = len(self._open)
        pairs = np.unique(np.column_stack([self._above, top + opened])[linked], axis=0)
        label = _components(opened + len(pieces), pairs)
        reaching = np.unique(bottom[bottom >= 0])
        waits = label[opened:] < opened
        waits[reaching] = True
        yield self._kept(pieces.select(np.flatnonzero(~waits)))
        groups = self._grouped(pieces, np.flatnonzero(waits), label)
        stay = np.unique(label[opened + reaching])
        self._open = [groups.pop(key) for key in stay.tolist()]
        yield self._closed(list(groups.values()))
        self._above = np.full_like(self._above, NONE)
        self._above[bottom >= 0] = np.searchsorted(stay, label[opened + bottom[bottom >= 0]])
        self._row_above = strip[-1]
        yield self._closed(self._cut())

    def _grouped(self, pieces: Areas, waiting: Ints, label: Ints) -> dict[int, _Open]:
        """Merge open areas and waiting pieces by label."""
        groups: dict[int, _Open] = {}
        opened = len(self._open)
        for area, key in zip(self._open, label[:opened].tolist(), strict=True):
            if key in groups:
                groups[key].absorb(area)
            else:
                groups[key] = area
        chosen = pieces.select(waiting)
        rings, first = chosen.rings, np.searchsorted(chosen.rings.owner, np.arange(len(chosen) + 1))
        for i, key in enumerate(label[opened + waiting].tolist()):
            part = rings.slice(first[i], first[i + 1])
            piece = _Open(
                int(chosen.value[i]),
                int(chosen.pixels[i]),
                float(chosen.area_m2[i]),
                bool(chosen.beside_cut[i]),
                [part],
                len(part.xy),
            )
            if key in groups:
                groups[key].absorb(piece)
            else:
                groups[key] = piece
        return groups

    def _cut(self) -> list[_Open]:
        """Remove and return the largest open areas while there are too many vertices."""
        order = sorted(range(len(self._open)), key=lambda i: self._open[i].vertices)
        held = np.cumsum([self._open[i].vertices for i in order])
        gone = [self._open[i] for i in order[np.searchsorted(held, self._most_vertices, side="right") :]]
        place = np.full(len(self._open), CUT)
        kept = sorted(order[: len(order) - len(gone)])
        place[kept] = np.arange(len(kept))
        self._open = [self._open[i] for i in kept]
        self._above[self._above >= 0] = place[self._above[self._above >= 0]]
        for area in gone:
            area.beside_cut = True
        self.cut += len(gone)
        return gone

    def _closed(self, areas: list[_Open]) -> Areas:
        """Join the pieces of open areas into finished areas."""
        rings = Rings.joined(
            [p.named(np.full(len(p.owner), i)) for i, a in enumerate(areas) for p in a.parts]
        )
        pieces = Areas(
            np.array([a.value for a in areas], np.uint8),
            np.array([a.pixels for a in areas], np.int64),
            np.array([a.area_m2 for a in areas], np.float64),
            np.array([a.beside_cut for a in areas], np.bool_),
            rings,
        )
        kept = self._kept(pieces)
        whole = stitch(kept.rings, self._seams)
        return Areas(kept.value, kept.pixels, kept.area_m2, kept.beside_cut, whole)

    def _kept(self, areas: Areas) -> Areas:
        small = areas.pixels < self._minimum.pixels
        if self._minimum.area_m2:
            small |= areas.area_m2 < self._minimum.area_m2
        small &= ~areas.beside_cut
        self.dropped += int(np.count_nonzero(small))
        return areas.select(np.flatnonzero(~small)) if small.any() else areas


def _owners_along(pieces: Areas, edge: int, width: int) -> Ints:
    """Return the piece of each pixel at a strip's upper or lower edge, (width,); NONE if it has none."""
    rings = pieces.rings
    begin, end = rings.xy, rings.xy[rings.next_vertex]
    along = np.flatnonzero((begin[:, 1] == edge) & (end[:, 1] == edge))
    low = np.minimum(begin[along, 0], end[along, 0]).astype(np.int64)
    length = np.abs(begin[along, 0] - end[along, 0]).astype(np.int64)
    owners = np.full(width, NONE)
    owner = rings.owner[np.searchsorted(rings.starts, along, side="right") - 1]
    owners[ranges(low, length)] = np.repeat(owner, length)
    return owners


def _components(count: int, pairs: Ints) -> Ints:
    """Return, for each of ``count`` items, the smallest index connected to it by ``pairs`` (n, 2)."""
    label, (a, b) = np.arange(count), pairs.T
    while True:
        low = np.minimum(label[a], label[b])
        if (label[a] == label[b]).all():
            return label
        np.minimum.at(label, label[a].copy(), low)
        np.minimum.at(label, label[b].copy(), low)
        while (label[label] != label).any():
            label = label[label]
