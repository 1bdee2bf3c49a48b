"""Scores of a mask against the truth, all from one confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsedge.errors import InputError


@dataclass(frozen=True)
class Confusion:
    """Pixel counts, shape (classes, classes): rows are the truth, columns the prediction.

    A class in neither the truth nor the prediction has IoU and F1 NaN and is left out of the means.
    """

    counts: NDArray[np.int64]

    @classmethod
    def of(cls, truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> Confusion:
        """Count two masks of one shape; pixels whose truth or prediction is not a class are left out.

        Raises InputError if the shapes differ.
        """
        if truth.shape != predicted.shape:
            raise InputError(f"truth is {truth.shape}, prediction {predicted.shape} (rows, columns)")
        both = (truth < classes) & (predicted < classes)
        pairs = truth[both].astype(np.int64) * classes + predicted[both]
        return cls(np.bincount(pairs, minlength=classes * classes).reshape(classes, classes))

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.counts + other.counts)

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each class."""
        hit = np.diag(self.counts)
        return _ratio(hit, self.counts.sum(0) + self.counts.sum(1) - hit)

    @property
    def f1(self) -> NDArray[np.float64]:
        """F1 (Dice) of each class."""
        return _ratio(2 * np.diag(self.counts), self.counts.sum(0) + self.counts.sum(1))

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that occur."""
        return _mean(self.iou)

    @property
    def mean_f1(self) -> float:
        """Mean F1 over the classes that occur."""
        return _mean(self.f1)

    @property
    def oa(self) -> float:
        """Overall accuracy: share of correctly classified pixels; NaN without pixels."""
        return float(_ratio(np.diag(self.counts).sum(), self.counts.sum()))

    @property
    def majority(self) -> Confusion:
        """Confusion of a predictor that always answers the most frequent class."""
        support = self.counts.sum(1)
        counts = np.zeros_like(self.counts)
        counts[:, int(support.argmax())] = support
        return Confusion(counts)


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return np.asarray(part / np.asarray(whole, np.float64), np.float64)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
