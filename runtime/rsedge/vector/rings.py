"""Rings along pixel edges, and the joining of pieces that meet at a seam.

Every ring has the inside on its left as seen on the screen (rows count downwards): outer rings
counterclockwise, holes clockwise. The two sides of a shared edge thus have opposite directions and cancel, which
leaves a component's outline. No geometry library is used, because a union of polygons takes ten times longer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Measure = Callable[[Ints, Ints], NDArray[Any]]


@dataclass(frozen=True)
class Rings:
    """Rings of many owners (pieces or components), along pixel edges.

    ``xy``: (vertices, 2) column and row of corners, int32, without a repeated last corner; ``starts``: (rings
    + 1,) index of each ring's first vertex; ``owner``: (rings,). Raises ValueError if the lengths do not fit.
    """

    xy: NDArray[np.int32]
    starts: Ints
    owner: Ints

    def __post_init__(self) -> None:
        if len(self.starts) != len(self.owner) + 1 or self.starts[-1] != len(self.xy):
            raise ValueError(f"{len(self.owner)} owners, {len(self.starts)} starts, {len(self.xy)} vertices")

    @classmethod
    def joined(cls, parts: Sequence[Rings]) -> Rings:
        """Join the rings of all ``parts``; owners are unchanged."""
        lengths = np.concatenate([np.zeros(0, np.int64), *(p.lengths for p in parts)])
        xy = np.concatenate([np.zeros((0, 2), np.int32), *(p.xy for p in parts)])
        owner = np.concatenate([np.zeros(0, np.int64), *(p.owner for p in parts)])
        return cls(xy, offsets(lengths), owner)

    @property
    def lengths(self) -> Ints:
        """Return the number of vertices of each ring."""
        return np.diff(self.starts)

    @property
    def next_vertex(self) -> Ints:
        """Return the index of the vertex that follows each, (vertices,)."""
        following = np.arange(1, len(self.xy) + 1)
        following[self.starts[1:] - 1] = self.starts[:-1]
        return following

    def take(self, rings: Ints) -> Rings:
        """Return the rings with these indexes, in this order."""
        lengths = self.lengths[rings]
        return Rings(self.xy[ranges(self.starts[rings], lengths)], offsets(lengths), self.owner[rings])

    def named(self, owner: Ints) -> Rings:
        """Return the same rings with other owners, (rings,)."""
        return Rings(self.xy, self.starts, owner)

    def slice(self, first: int, last: int) -> Rings:
        """Return rings ``first`` to ``last``, exclusive, as a copy, so that the others can be freed."""
        begin, end = self.starts[first], self.starts[last]
        return Rings(
            self.xy[begin:end].copy(), self.starts[first : last + 1] - begin, self.owner[first:last].copy()
        )

    def areas(self, left_of: Measure = np.multiply) -> NDArray[np.float64]:
        """Return the area inside each ring, holes negative.

        ``left_of``: function of the area left of column edge x and above row edge y, (vertices,) each; by default
        pixels are counted.
        """
        if not len(self.xy):
            return np.zeros(0)
        x, y = self.xy.T.astype(np.int64)
        strip = left_of(x, y) - left_of(x, y[self.next_vertex])
        return np.add.reduceat(strip, self.starts[:-1]).astype(np.float64)

    def polygons_first(self) -> Rings:
        """Return the rings sorted by owner, outer ring before holes."""
        hole = self.areas() < 0
        return self.take(np.lexsort((hole, self.owner)))


def offsets(lengths: Ints) -> Ints:
    """Return the starts of consecutive runs of these lengths, and the end of the last: (n + 1,)."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def ranges(starts: Ints, lengths: Ints) -> Ints:
    """Return start, start + 1, ... of each pair, concatenated."""
    total = offsets(lengths)
    return np.arange(total[-1]) + np.repeat(starts - total[:-1], lengths)


def stitch(rings: Rings, seams: Ints) -> Rings:
    """Join each owner's pieces in ``rings`` along the seams; return the outlines of the components.

    ``seams``: row edges at which pieces were cut. An owner's pieces must be connected by edges. Every owner
    becomes one valid polygon, outer ring first, without vertices in the middle of straight lines.
    """
    if not len(rings.owner):
        return rings
    edges = _uncancelled(rings, seams)
    order, starts = _cycles(_successors(edges))
    owner, begin = edges[order, 0], edges[order, 1:3]
    joined = Rings(begin.astype(np.int32), starts, owner[starts[:-1]])
    return _without_straight(joined).polygons_first()


def _uncancelled(rings: Rings, seams: Ints) -> Ints:
    """Return the outline's edges, (n, 5): owner, x, y of the start, x, y of the end; unless cut, in ring order."""
    begin = rings.xy.astype(np.int64)
    owner = np.repeat(rings.owner, rings.lengths)
    edges = np.column_stack([owner, begin, begin[rings.next_vertex]])
    on_seam = (edges[:, 2] == edges[:, 4]) & np.isin(edges[:, 2], seams)
    return np.concatenate([edges[~on_seam], _cancel(edges[on_seam])])


def _cancel(edges: Ints) -> Ints:
    """Return the edges along seams that remain when opposite edges cancel."""
    if not len(edges):
        return edges
    way = np.sign(edges[:, 3] - edges[:, 1])
    at = np.concatenate([edges[:, [0, 2, 1]], edges[:, [0, 4, 3]]])  # owner, y, x
    # An edge to the right adds 1 from its start on; an edge to the left adds -1 from its end on.
    step = np.concatenate([np.ones_like(way), -np.ones_like(way)])
    order = np.lexsort((at[:, 2], at[:, 1], at[:, 0]))
    at, level = at[order], np.cumsum(step[order])
    last = np.append((at[1:] != at[:-1]).any(1), True)
    at, level = at[last], level[last]  # the level from each place to the next
    changes = np.append(True, level[1:] != level[:-1])
    at, level = at[changes], level[changes]
    left = np.flatnonzero(level)
    low, high, right = at[left], at[left + 1, 2], level[left] > 0
    return np.column_stack(
        [low[:, 0], np.where(right, low[:, 2], high), low[:, 1], np.where(right, high, low[:, 2]), low[:, 1]]
    )


def _successors(edges: Ints) -> Ints:
    """Return the index of the edge that follows each. At a corner where two edges begin, the outline turns right.

    At such a corner two diagonal pixels of four are inside. Turning right follows the outside pixel, so that hole
    and outer ring touch at the corner but stay separate rings, as in a valid polygon.
    """
    owner, x0, y0, x1, y1 = edges.T
    dx, dy = np.sign(x1 - x0), np.sign(y1 - y0)
    way = np.where(dx != 0, 1 - dx, 2 - dy)  # right 0, down 1, left 2, up 3
    owners = np.unique(owner, return_inverse=True)[1].reshape(-1)
    width, top, height = x0.max() + 1, y0.min(), y0.max() - y0.min() + 1

    def corner(x: Ints, y: Ints) -> Ints:
        return np.asarray((owners * height + (y - top)) * width + x, np.int64)

    begin, end = corner(x0, y0), corner(x1, y1)
    order = np.argsort(begin, kind="stable")
    found = np.searchsorted(begin[order], end)
    second = np.minimum(found + 1, len(order) - 1)
    is_second = (begin[order[second]] == end) & (way[order[second]] == (way + 1) % 4)
    return np.asarray(order[np.where(is_second, second, found)])


def _cycles(following: Ints) -> tuple[Ints, Ints]:
    """Return the order of edges cycle by cycle, and the start of each cycle (cycles + 1,).

    Most edges are followed by their neighbour, so Python loops only over runs of neighbours.
    """
    ends = np.flatnonzero(following != np.arange(1, len(following) + 1))
    begins = np.append(0, ends[:-1] + 1)
    run_of = np.searchsorted(begins, following[ends]).tolist()
    order, first = list[int](), list[int]()
    seen = bytearray(len(run_of))
    for run in range(len(run_of)):
        if seen[run]:
            continue
        first.append(len(order))
        step = run
        while not seen[step]:
            seen[step] = 1
            order.append(step)
            step = run_of[step]
    runs = np.array(order)
    lengths = (ends - begins + 1)[runs]
    return ranges(begins[runs], lengths), offsets(lengths)[np.append(first, len(order))]


def _without_straight(rings: Rings) -> Rings:
    """Remove the vertices at which a ring does not turn."""
    way = np.sign(rings.xy[rings.next_vertex] - rings.xy)
    before = np.empty_like(way)
    before[rings.next_vertex] = way
    turns = (way != before).any(1)
    return Rings(
        rings.xy[turns], offsets(np.add.reduceat(turns.astype(np.int64), rings.starts[:-1])), rings.owner
    )
