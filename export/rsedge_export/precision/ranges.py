"""Calibration: histograms of every layer's activations on real tiles, and the resulting scales.

Tiles are processed one at a time and leave only histograms, so memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from rsedge.errors import ModelError
from rsedge_export.graph.session import open_session

BINS = 4096
SAMPLES = 1 << 17  # values of a tensor and tile that enter its histogram; the extremes are of all values
SMALLEST = 1e-30  # smallest limit of a histogram, so that zeros alone do not make it coarse for later values
GROUP_BYTES = 192 << 20  # total size of the tensors that leave the graph in one run
FRACTIONS = np.linspace(0.05, 1, 96)  # shares of the extremes tried as limits
LOW_FRACTIONS = (0.3, 0.5, 0.7, 0.85, 1.0)


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


def calibrate(
    model: onnx.ModelProto, tensors: Sequence[str], tiles: Iterable[NDArray[Any]]
) -> Iterator[dict[str, Histogram]]:
    """Yield the growing histograms of ``tensors`` over ``tiles``, (bands, tile, tile), after each tile.

    Raises ModelError if a tensor holds NaN or infinity.
    """
    histograms = {name: Histogram() for name in tensors}
    sessions: list[tuple[list[str], Any]] = []
    for tile in tiles:
        if histograms and not sessions:
            groups = _groups(model, list(histograms), tile)
            sessions = [(group, _exposing(model, group)) for group in groups]
        for group, session in sessions:
            for name, values in zip(group, session.run(group, {"pixels": tile[None]}), strict=True):
                histograms[name].add(values)
        yield histograms


def _error(histogram: Histogram, step: float, zero: int, lowest: int, highest: int) -> float:
    """Return the summed squared error of rounding; within the limits at least that of a uniform rounding."""
    centers = histogram.centers
    whole = np.round(centers / step) + zero
    inside = (whole >= lowest) & (whole <= highest)
    error = (centers - (np.clip(whole, lowest, highest) - zero) * step) ** 2
    return float((histogram.counts * np.where(inside, np.maximum(error, step * step / 12), error)).sum())


def _exposing(model: onnx.ModelProto, tensors: Sequence[str]) -> Any:
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors)
    return open_session(probe)


def _groups(model: onnx.ModelProto, tensors: Sequence[str], tile: NDArray[Any]) -> list[list[str]]:
    """Split ``tensors`` into groups that fit GROUP_BYTES, with sizes from a run that returns only shapes."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    for name in tensors:
        probe.graph.node.append(helper.make_node("Size", [name], [f"{name}.size"]))
        probe.graph.output.append(helper.make_tensor_value_info(f"{name}.size", onnx.TensorProto.INT64, []))
    sizes = open_session(probe).run([f"{name}.size" for name in tensors], {"pixels": tile[None]})
    groups, room = [[]], GROUP_BYTES  # type: tuple[list[list[str]], int]
    for name, size in zip(tensors, sizes, strict=True):
        if 4 * int(size) > room and groups[-1]:
            groups.append([])
            room = GROUP_BYTES
        groups[-1].append(name)
        room -= 4 * int(size)
    return groups
