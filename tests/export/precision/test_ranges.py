from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from graphs import graph, make, normal
from rsedge.errors import ModelError
from rsedge_export.precision import ranges
from rsedge_export.precision.ranges import calibrate
from rsedge_train.nets.grids import BINS, SAMPLES, Histogram, Scale, asymmetric, symmetric

reals = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
batches = st.lists(
    arrays.arrays(np.float32, st.integers(1, 60), elements=reals | st.just(0.0)), min_size=1, max_size=6
)


def histogram(*parts: np.ndarray) -> Histogram:
    found = Histogram()
    for part in parts:
        found.add(part.astype(np.float32))
    return found


def roundtrip(values: np.ndarray, scale: Scale, lowest: int, highest: int) -> np.ndarray:
    """Quantized and dequantized, by ONNX's formula."""
    whole = np.clip(np.round(values.astype(np.float64) / scale.scale) + scale.zero, lowest, highest)
    return (whole - scale.zero) * scale.scale


class TestHistogram:
    @settings(deadline=None)
    @given(batches, st.randoms(use_true_random=False))
    def test_every_value_is_counted_in_any_order(self, parts: list[np.ndarray], random: object) -> None:
        found = histogram(*parts)
        everything = np.concatenate(parts)
        assert found.counts.sum() == everything.size
        assert (found.low, found.high) == (everything.min(), everything.max())
        assert found.limit > np.abs(everything).max()
        shuffled = list(parts)
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        other = histogram(*shuffled)
        assert other.counts.sum() == everything.size
        assert (other.low, other.high) == (found.low, found.high)

    @settings(deadline=None)
    @given(batches)
    def test_values_stay_in_their_bins_however_often_the_limit_doubles(self, parts: list[np.ndarray]) -> None:
        """Cumulated counts against sorted values: no value is further off than a bin."""
        found = histogram(*sorted(parts, key=lambda p: np.abs(p).max()))
        values = np.sort(np.concatenate(parts)).astype(np.float64)
        binned = np.repeat(found.centers, found.counts)
        assert np.abs(values - binned).max() <= 2 * (2 * found.limit / BINS) + 1e-6 * found.limit

    @pytest.mark.parametrize("zeros", [1, 1000])
    def test_a_tensor_that_is_zero_on_the_first_tile_keeps_its_resolution(self, zeros: int) -> None:
        values = np.linspace(0, 1e-3, 1000)
        found = histogram(np.zeros(zeros), values)
        assert 1e-3 < found.limit <= 2e-3 * 1.001
        assert asymmetric(found).scale == pytest.approx(1e-3 / 255, rel=0.1)

    def test_of_many_values_a_sample_is_counted_and_all_are_looked_at(self) -> None:
        values = normal(SAMPLES * 5 + 3)
        values[1] = 50  # not of the sample
        found = histogram(values)
        assert SAMPLES * 0.9 < found.counts.sum() <= SAMPLES * 1.1
        assert found.high == 50
        binned = np.repeat(found.centers, found.counts)
        assert binned.std() == pytest.approx(1, abs=0.02)

    def test_a_sample_of_a_square_tensor_is_not_one_of_its_columns(self) -> None:
        """A step that is a power of two would read the same columns of every row."""
        values = np.tile(np.arange(512, dtype=np.float32), 2048)
        binned = np.repeat((found := histogram(values)).centers, found.counts)
        assert binned.mean() == pytest.approx(255.5, rel=0.01)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_nan_and_infinity_are_errors(self, bad: float) -> None:
        with pytest.raises(ModelError, match="NaN or infinity"):
            histogram(np.array([0, bad, 1]))


class TestScales:
    @settings(deadline=None, max_examples=50)
    @given(batches)
    def test_symmetric(self, parts: list[np.ndarray]) -> None:
        scale, values = symmetric(histogram(*parts)), np.concatenate(parts).astype(np.float64)
        assert scale.zero == 0
        assert scale.scale > 0
        inside = np.abs(values) <= 127 * scale.scale
        found = roundtrip(values, scale, -127, 127)
        assert (np.abs(found - values)[inside] <= scale.scale / 2 * (1 + 1e-6)).all()
        assert 127 * scale.scale <= max(np.abs(values).max(), 127) * (1 + 1e-6)
        assert roundtrip(np.zeros(1), scale, -127, 127) == 0

    @settings(deadline=None, max_examples=50)
    @given(batches)
    def test_asymmetric(self, parts: list[np.ndarray]) -> None:
        scale, values = asymmetric(histogram(*parts)), np.concatenate(parts).astype(np.float64)
        assert 0 <= scale.zero <= 255
        assert scale.scale > 0
        low, high = -scale.zero * scale.scale, (255 - scale.zero) * scale.scale
        inside = (values >= low) & (values <= high)
        found = roundtrip(values, scale, 0, 255)
        assert (np.abs(found - values)[inside] <= scale.scale / 2 * (1 + 1e-6)).all()
        assert roundtrip(np.zeros(1), scale, 0, 255) == 0

    @pytest.mark.parametrize(("choose", "lowest", "highest"), [(symmetric, -127, 127), (asymmetric, 0, 255)])
    @pytest.mark.parametrize("kind", ["normal", "relu", "long tail", "silu", "negative"])
    def test_no_other_limits_do_better_on_the_values_themselves(
        self, choose: Callable[[Histogram], Scale], lowest: int, highest: int, kind: str
    ) -> None:
        values = normal(20000).astype(np.float64)
        values = {
            "normal": values,
            "relu": np.maximum(values, 0),
            "long tail": values**5,
            "silu": values / (1 + np.exp(-values)),
            "negative": -np.abs(values),
        }[kind]
        found = choose(histogram(values))
        error = np.square(roundtrip(values, found, lowest, highest) - values).mean()
        low, high = min(values.min(), 0), max(values.max(), 0)
        others = []
        for part in np.linspace(0.02, 1, 60):
            if choose is symmetric:
                others.append(Scale(part * max(-low, high) / 127, 0))
            else:
                step = part * (high - low) / 255
                others.append(Scale(step, round(-low * part / step)))
        best = min(np.square(roundtrip(values, o, lowest, highest) - values).mean() for o in others)
        assert error <= best * 1.2  # all that lies in one bin is taken to be spread evenly

    def test_a_zero_point_doubles_the_resolution_after_relu(self) -> None:
        values = np.linspace(0, 10, 5000)
        assert asymmetric(histogram(values)) == Scale(pytest.approx(10 / 255, rel=0.01), 0)
        assert symmetric(histogram(values)).scale == pytest.approx(10 / 127, rel=0.01)

    def test_one_outlier_does_not_set_the_scale(self) -> None:
        values = np.append(normal(100_000), 60)
        assert symmetric(histogram(values)).scale < 0.7 * 60 / 127
        assert asymmetric(histogram(values)).scale < 0.9 * 64 / 255

    def test_zeros_alone(self) -> None:
        assert symmetric(histogram(np.zeros(5))) == Scale(1, 0)
        assert asymmetric(histogram(np.zeros(5))) == Scale(1, 0)


class TestCalibrate:
    weights: ClassVar = {"w1": normal(4, 3, 1, 1), "w2": normal(2, 4, 1, 1, seed=1)}
    model = graph(
        [
            make("Conv", ["pixels", "w1"], "x"),
            make("Relu", ["x"], "y"),
            make("Conv", ["y", "w2"], "scores"),
        ],
        weights,
        ["batch", 3, 16, 16],
        ["batch", 2, 16, 16],
    )

    def check(self, tensors: list[str]) -> None:
        tiles = normal(3, 3, 16, 16, seed=2)
        x = np.einsum("oi,nihw->nohw", self.weights["w1"][:, :, 0, 0], tiles)
        expected = {"pixels": tiles, "x": x, "y": np.maximum(x, 0)}
        seen = 0
        for found in calibrate(self.model, tensors, tiles):
            seen += 1
            assert list(found) == list(dict.fromkeys(tensors))
            for name, one in found.items():
                values = expected[name][:seen]
                assert one.counts.sum() == values.size
                assert one.low == pytest.approx(values.min(), abs=1e-5)
                assert one.high == pytest.approx(values.max(), abs=1e-5)
                by_numpy, _ = np.histogram(values, 8, (-one.limit, one.limit))
                assert np.abs(one.counts.reshape(8, -1).sum(1) - by_numpy).sum() <= 4  # at the edges
        assert seen == 3

    @pytest.mark.parametrize("tensors", [["x"], ["y", "x"], ["pixels", "y"]])
    def test_histograms_are_those_of_numpy_after_each_tile(self, tensors: list[str]) -> None:
        self.check(tensors)

    def test_a_tensor_named_twice_is_counted_once(self) -> None:
        """Two layers read it."""
        self.check(["y", "x", "y"])

    def test_in_several_runs_where_the_tensors_do_not_fit_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ranges, "GROUP_BYTES", 4 * 4 * 16 * 16)
        opened = []
        exposing = ranges._exposing
        monkeypatch.setattr(ranges, "_exposing", lambda m, t: opened.append(list(t)) or exposing(m, t))
        self.check(["x", "y", "pixels"])
        assert opened == [["x"], ["y"], ["pixels"]]

    def test_nothing_to_calibrate(self) -> None:
        assert list(calibrate(self.model, [], normal(2, 3, 16, 16))) == [{}, {}]

    def test_a_network_that_overflows_is_an_error(self) -> None:
        with pytest.raises(ModelError, match="NaN or infinity"), np.errstate(all="ignore"):
            list(calibrate(self.model, ["x"], np.full((1, 3, 16, 16), np.inf, np.float32)))
