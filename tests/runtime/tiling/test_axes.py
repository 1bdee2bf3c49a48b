from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsedge.errors import InputError
from rsedge.tiling.axes import MAX_OVERLAP, Axis, Tiling

axes = st.builds(
    Axis,
    length=st.integers(1, 700),
    tile=st.integers(1, 130),
    overlap=st.floats(0, MAX_OVERLAP),
    seam=st.sampled_from(["blend", "crop"]),
    shift=st.sampled_from([0.0, 0.3, 0.5]),
)


@given(axes)
def test_windows_stay_inside_and_cover_every_pixel(axis: Axis) -> None:
    covered = np.zeros(axis.length, int)
    for start in axis.starts:
        assert start >= 0
        assert start + axis.size <= axis.length
        covered[start : start + axis.size] += 1
    assert (covered > 0).all()


@given(axes)
def test_windows_are_spread_evenly_and_overlap_enough(axis: Axis) -> None:
    steps = np.diff(axis.starts)
    if axis.shift == 0 and len(steps):
        assert steps.max() - steps.min() <= 1
    assert ((steps > 0) & (steps <= axis.stride)).all()
    assert axis.starts[0] == 0
    assert axis.ends[-1] == axis.length


@given(axes, st.integers(0, 699), st.integers(1, 700))
def test_covering_names_the_windows_that_hold_a_pixel(axis: Axis, begin: int, count: int) -> None:
    begin %= axis.length
    end = min(axis.length, begin + count)
    wanted = [n for n, start in enumerate(axis.starts) if start < end and start + axis.size > begin]
    assert list(axis.covering(begin, end)) == wanted


def test_a_shift_moves_the_inner_borders() -> None:
    plain, shifted = Axis(2000, 512, 0.25), Axis(2000, 512, 0.25, shift=0.5)
    assert set(plain.starts) & set(shifted.starts) == {0, plain.starts[-1]}


@given(axes)
def test_weights_of_every_pixel_sum_to_one(axis: Axis) -> None:
    total = np.zeros(axis.length)
    for start, weight in zip(axis.starts, axis.weights, strict=True):
        total[start : start + axis.size] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)


@given(axes)
def test_blend_weights_are_positive_and_crop_weights_name_one_owner(axis: Axis) -> None:
    if axis.seam == "blend":
        assert (axis.weights > 0).all()
    else:
        assert set(np.unique(axis.weights)) <= {0.0, 1.0}


@given(axes.filter(lambda a: a.seam == "crop"))
def test_crop_gives_each_pixel_to_the_window_whose_centre_is_nearest(axis: Axis) -> None:
    centres = np.array(axis.starts) + axis.size / 2
    for window, (start, weight) in enumerate(zip(axis.starts, axis.weights, strict=True)):
        for pixel in start + np.flatnonzero(weight):
            distances = np.abs(pixel + 0.5 - centres)
            assert distances[window] == distances.min()


def test_tiling_iterates_row_by_row() -> None:
    tiling = Tiling.of(100, 130, 64, 0.25, "blend")
    windows = list(tiling)
    assert len(windows) == len(tiling) == 2 * 3
    assert [(w.row, w.col) for w in windows] == [(0, 0), (0, 33), (0, 66), (36, 0), (36, 33), (36, 66)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlap": 0.8}, "0..0.75"),
        ({"overlap": -0.1}, "0..0.75"),
        ({"seam": "magic"}, "blend, crop"),
        ({"length": 0}, "1 pixel"),
    ],
)
def test_impossible_axes_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Axis(**{"length": 10, "tile": 4, "overlap": 0.0, **changes})


@given(axes)
def test_weights_of_a_window_are_its_share_of_all_that_overlap_it(axis: Axis) -> None:
    """Compute the weights of the whole axis at once, in float64; equal bit for bit."""
    centres = np.array(axis.starts) + axis.size / 2
    raw = np.zeros((len(axis.starts), axis.length))
    for number, start in enumerate(axis.starts):
        pixels = np.arange(start, start + axis.size)
        if axis.seam == "blend":
            border = np.minimum(pixels - start + 0.5, start + axis.size - pixels - 0.5)
            raw[number, pixels] = np.minimum(border / max(1, axis.tile - axis.stride), 1.0)
    if axis.seam == "crop":
        far = np.abs(np.arange(axis.length) + 0.5 - centres[:, None])
        raw[far.argmin(0), np.arange(axis.length)] = 1  # of two as near, the first
    total = np.zeros(axis.length)
    for line in raw:
        total += line
    for number, start in enumerate(axis.starts):
        expected = (raw[number] / total)[start : start + axis.size].astype(np.float32)
        np.testing.assert_array_equal(axis.weights_of(number), expected)


def test_weights_of_a_long_side_are_few() -> None:
    axis = Axis(1_200_000, 512, MAX_OVERLAP)
    made = {id(axis.weights_of(number)) for number in range(len(axis.starts))}
    assert len(axis.starts) > 9000
    assert len(made) < 30
    with pytest.raises(ValueError, match="read-only"):
        axis.weights_of(0)[0] = 2
