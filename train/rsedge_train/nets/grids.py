"""The grids of INT8: which layers are put on one, and the steps of weights and activations.

Export writes these grids into ONNX files, and fine-tuning imitates them, so both take them from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.errors import ModelError

LEAST_SHARE = 1e-3  # share of the graph's work below which an INT8 layer saves less than its conversions cost
BINS = 4096
SAMPLES = 1 << 17  # values of a tensor and tile that enter its histogram; the extremes are of all values
SMALLEST = 1e-30  # smallest limit of a histogram, so that zeros alone do not make it coarse for later values
FRACTIONS = np.linspace(0.05, 1, 96)  # shares of the extremes tried as limits
LOW_FRACTIONS = (0.3, 0.5, 0.7, 0.85, 1.0)
WEIGHT_FRACTIONS = np.linspace(0.5, 1, 26)  # shares of a channel's largest weight tried as limit
GRID_LEVELS = range(32, 127)  # levels that the largest weight may have if the weights lie on a grid already
FEW = 32  # weights of a channel that are looked at first, since most lie on no grid
ON_GRID = 1e-9  # largest squared error of such weights, as a share of their squares
SMALLEST_SCALE = 2.0**-14  # fp16's smallest normal number: scales of fp16 graphs are fp16


def work_shares(costs: Sequence[tuple[int, int]]) -> list[float | None]:
    """Return each layer's share of the work, the mean of its shares of both costs; None if it is not worth INT8.

    ``costs``: of all layers, (MACs, elements read and written).
    """
    macs, elements = (max(1, sum(column)) for column in zip(*costs, strict=True))
    parts = [(m / macs, e / elements) for m, e in costs]
    return [sum(p) / 2 if max(p) >= LEAST_SHARE else None for p in parts]


class Histogram:
    """Counts of a tensor's values between -limit and limit; the limit doubles when a value exceeds it."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.limit = 0.0
        self.low, self.high = np.inf, -np.inf

    def add(self, values: NDArray[np.float32]) -> None:
        """Count ``values``, or of many a regular sample, whose step is prime to powers of two."""
        low, high = float(values.min()), float(values.max())
        if not (
            np.isfinite(low) and np.isfinite(high)
        ):  # before merging, because Python's min and max ignore NaN
            raise ModelError("a layer answers NaN or infinity on a calibration tile. Train the model again")
        self.low, self.high = min(self.low, low), max(self.high, high)
        extreme = max(-self.low, self.high)
        self.limit = self.limit or max(extreme * 1.001, SMALLEST)
        while extreme >= self.limit:
            halved = self.counts.reshape(-1, 2).sum(1)
            self.counts[:] = 0
            self.counts[BINS // 4 : BINS // 4 * 3] = halved
            self.limit *= 2
        sample = values.ravel()[:: max(1, values.size // SAMPLES) | 1]
        index = ((sample + self.limit) * (BINS / (2 * self.limit))).astype(np.int32)
        self.counts += np.bincount(np.clip(index, 0, BINS - 1), minlength=BINS)

    @property
    def centers(self) -> NDArray[np.float64]:
        """Return the value in the middle of each bin."""
        return np.asarray((np.arange(BINS) + 0.5) * (2 * self.limit / BINS) - self.limit, np.float64)


@dataclass(frozen=True)
class Scale:
    """Conversion of a tensor's values to integers: ``round(value / scale) + zero``."""

    scale: float
    zero: int


def symmetric(histogram: Histogram) -> Scale:
    """Return an int8 scale around 0, as TensorRT requires, from the limit with the least squared error."""
    extreme = max(-histogram.low, histogram.high)
    steps = extreme * FRACTIONS / 127 if extreme > 0 else np.ones(1)
    errors = [_error(histogram, step, 0, -127, 127) for step in steps]
    return Scale(float(steps[int(np.argmin(errors))]), 0)


def asymmetric(histogram: Histogram) -> Scale:
    """Return a uint8 scale with a zero point, from the limits with the least squared error.

    After ReLU or SiLU nearly all values are positive, so uint8 has twice the resolution of int8.
    """
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if low == high:
        return Scale(1.0, 0)
    tried = []
    for low_part in LOW_FRACTIONS if -low > 0.02 * high else (1.0,):
        for high_part in FRACTIONS:
            step = (high * high_part - low * low_part) / 255
            if step > 0:
                tried.append(Scale(float(step), round(-low * low_part / step)))
    return min(tried, key=lambda s: _error(histogram, s.scale, s.zero, 0, 255))


def weight_scales(weights: NDArray[np.floating[Any]], axis: int) -> NDArray[np.float32]:
    """Return the step of each output channel, (channels,), from the tried limit with the least squared error.

    Weights that lie on a grid already, as those of a run fine-tuned for INT8, get the step of that grid.
    """
    values = np.moveaxis(weights.astype(np.float32), axis, 0).reshape(weights.shape[axis], -1)
    least = SMALLEST_SCALE if weights.dtype == np.float16 else 0.0
    largest = np.abs(values).max(1)
    largest = np.where(largest > 0, largest, 1)
    best = np.full(largest.shape, np.inf)
    steps = largest / 127
    for fraction in WEIGHT_FRACTIONS:
        tried = np.maximum(largest * fraction / 127, least)
        error = _weight_error(values, tried)
        better = error < best
        best, steps = np.where(better, error, best), np.where(better, tried, steps)
    few = values[:, :FEW]
    for level in GRID_LEVELS:
        tried = np.maximum(largest / level, least)
        fits = _weight_error(few, tried) <= ON_GRID * (few**2).sum(1)
        if fits.any():
            error = np.where(fits, _weight_error(values, tried), np.inf)
            better = (error < best) & (error <= ON_GRID * (values**2).sum(1))
            best, steps = np.where(better, error, best), np.where(better, tried, steps)
    return steps.astype(np.float32)


def _weight_error(rows: NDArray[np.float32], steps: NDArray[Any]) -> NDArray[Any]:
    """Return the summed squared error of each row."""
    return np.asarray(((integers(rows, steps, 0) * steps[:, None] - rows) ** 2).sum(1))


def integers(values: NDArray[np.float32], steps: NDArray[Any], axis: int) -> NDArray[np.float32]:
    """Return the weights as whole numbers of ``steps`` in -127..127, still float32."""
    whole = np.round(values / along(steps, axis, values.ndim))
    return np.asarray(np.clip(whole, -127, 127), np.float32)


def along(steps: NDArray[Any], axis: int, ndim: int) -> NDArray[Any]:
    """Return ``steps`` shaped to broadcast along ``axis``."""
    return steps.reshape([-1 if i == axis else 1 for i in range(ndim)])


def _error(histogram: Histogram, step: float, zero: int, lowest: int, highest: int) -> float:
    """Return the summed squared error of rounding; within the limits at least that of a uniform rounding."""
    centers = histogram.centers
    whole = np.round(centers / step) + zero
    inside = (whole >= lowest) & (whole <= highest)
    error = (centers - (np.clip(whole, lowest, highest) - zero) * step) ** 2
    return float((histogram.counts * np.where(inside, np.maximum(error, step * step / 12), error)).sum())
