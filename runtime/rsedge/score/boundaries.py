"""Boundary F-score: how well a mask's outlines follow the truth's, counted row by row.

A boundary pixel of a class shares a side with a counted pixel of another class. It is matched if the other map has a
boundary pixel of the same class at most `TOLERANCE_PX` away (Csurka et al. 2013, "What is a good evaluation
measure for semantic segmentation?"; counts are summed over all rasters before the ratio is taken).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsedge.model.manifest import NODATA

TOLERANCE_PX = 3
REACH = TOLERANCE_PX + 1  # rows above and below that a pixel's match depends on
#: Half-widths of a disc of radius `TOLERANCE_PX`, row by row from its middle.
_HALF_WIDTHS = tuple(int((TOLERANCE_PX**2 - row**2) ** 0.5) for row in range(TOLERANCE_PX + 1))

Mask = NDArray[np.uint8]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class BoundaryCounts:
    """Boundary pixels of truth and prediction by class, (classes,) each, and how many of them are matched."""

    truth: NDArray[np.int64]
    truth_matched: NDArray[np.int64]
    predicted: NDArray[np.int64]
    predicted_matched: NDArray[np.int64]

    @classmethod
    def none(cls, classes: int) -> BoundaryCounts:
        """Return counts of zero."""
        return cls(*np.zeros((4, classes), np.int64))

    def __add__(self, other: BoundaryCounts) -> BoundaryCounts:
        return BoundaryCounts(
            *(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True))
        )

    @property
    def f(self) -> NDArray[np.float64]:
        """F-score of each class: harmonic mean of both matched shares; NaN if neither map has a boundary."""
        with np.errstate(invalid="ignore", divide="ignore"):
            recall, precision = self.truth_matched / self.truth, self.predicted_matched / self.predicted
            found = np.asarray(2 * precision * recall / (precision + recall), np.float64)
        found[np.isnan(found)] = 0.0
        found[(self.truth == 0) & (self.predicted == 0)] = np.nan
        return found

    @property
    def mean_f(self) -> float:
        """Mean over the classes with a boundary in either map."""
        known = self.f[~np.isnan(self.f)]
        return float(known.mean()) if known.size else float("nan")


class BoundaryCounter:
    """Counter fed two masks (h, w) row by row, from the top down; pixels that are NODATA in either are ignored."""

    def __init__(self, width: int, classes: int) -> None:
        self._classes = classes
        above = np.full((REACH, width), NODATA, np.uint8)
        self._truth, self._predicted = above, above
        self._counts = BoundaryCounts.none(classes)

    def add(self, truth: Mask, predicted: Mask) -> None:
        """Add the next rows of both masks."""
        unknown = (truth >= self._classes) | (predicted >= self._classes)
        self._truth = np.concatenate([self._truth, np.where(unknown, NODATA, truth)])
        self._predicted = np.concatenate([self._predicted, np.where(unknown, NODATA, predicted)])
        self._count()

    def finish(self) -> BoundaryCounts:
        """Count the remaining rows, as if NODATA followed the last, and return the totals."""
        below = np.full((REACH, self._truth.shape[1]), NODATA, np.uint8)
        self.add(below, below)
        return self._counts

    def _count(self) -> None:
        """Count the rows whose neighbours are complete, and keep the rows that later ones need."""
        rows = len(self._truth) - 2 * REACH
        if rows <= 0:
            return
        inner = slice(REACH, REACH + rows)
        outlines = _outline(self._truth), _outline(self._predicted)
        found = np.zeros((4, self._classes), np.int64)
        for k in _present(self._truth, self._predicted, self._classes):
            own, other = (edge & (mask == k) for edge, mask in zip(outlines, self._masks(), strict=True))
            for at, (mine, theirs) in enumerate(((own, other), (other, own))):
                found[2 * at, k] = np.count_nonzero(mine[inner])
                if found[2 * at, k]:
                    found[2 * at + 1, k] = np.count_nonzero(mine[inner] & _widen(theirs)[inner])
        self._counts += BoundaryCounts(*found)
        self._truth, self._predicted = self._truth[rows:], self._predicted[rows:]

    def _masks(self) -> tuple[Mask, Mask]:
        return self._truth, self._predicted


def _present(truth: Mask, predicted: Mask, classes: int) -> Iterator[int]:
    seen = np.bincount(truth.ravel(), minlength=256) + np.bincount(predicted.ravel(), minlength=256)
    yield from map(int, np.flatnonzero(seen[:classes]))


def _outline(mask: Mask) -> Bools:
    """Return the pixels that share a side with a counted pixel of another class."""
    edge = np.zeros(mask.shape, np.bool_)
    for one, next_ in (
        ((slice(-1),), (slice(1, None),)),
        ((slice(None), slice(-1)), (slice(None), slice(1, None))),
    ):
        a, b = mask[one], mask[next_]
        differ = (a != b) & (a != NODATA) & (b != NODATA)
        edge[one] |= differ
        edge[next_] |= differ
    return edge


def _widen(edge: Bools) -> Bools:
    """Return the pixels at most `TOLERANCE_PX` from a set one."""
    wide = [edge]  # widened by 0, 1, 2, ... pixels to the left and right
    for by in range(1, TOLERANCE_PX + 1):
        more = wide[-1].copy()
        more[:, by:] |= edge[:, :-by]
        more[:, :-by] |= edge[:, by:]
        wide.append(more)
    found = wide[_HALF_WIDTHS[0]].copy()
    for row, half in enumerate(_HALF_WIDTHS[1:], 1):
        found[row:] |= wide[half][:-row]
        found[:-row] |= wide[half][row:]
    return found
