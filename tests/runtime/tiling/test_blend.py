from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsedge.errors import ModelError
from rsedge.tiling.axes import Tiling
from rsedge.tiling.blend import CropBand, RollingBand, Spans
from rsedge.tiling.kernels import compiled
from rsedge.tiling.twins import argmax
from rsedge.tiling.window import Window

SIZES = {
    "height": st.integers(1, 90),
    "width": st.integers(1, 90),
    "tile": st.integers(4, 40),
    "overlap": st.floats(0, 0.75),
}


def roll(
    tiling: Tiling, tiles: list[np.ndarray], classes: int, area: Window | None = None, percent: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Blend an area's mask and percentages from the scores of all windows of the raster, row by row."""
    spans = Spans(tiling, area)
    band = RollingBand(spans, classes, percent)
    return drive(band, spans, tiles)


def drive(
    band: RollingBand | CropBand, spans: Spans, tiles: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray | None]:
    rows, shares, across = [], [], len(spans.tiling.cols.starts)
    for row in spans.rows.windows:
        for col in spans.cols.windows:
            assert band.add(col, tiles[row * across + col])
        mask, percent = band.finish_row()
        rows.append(mask.copy())
        shares.append(None if percent is None else percent.copy())
    return np.concatenate(rows), None if shares[0] is None else np.concatenate(shares, axis=1)


@pytest.fixture(params=["compiled", "numpy"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with both implementations, compiled and numpy."""
    if request.param == "numpy":
        monkeypatch.setattr("rsedge.tiling.blend.compiled", lambda: None)
    elif compiled() is None:
        pytest.skip("no C compiler here")
    return str(request.param)


@given(
    **SIZES,
    seam=st.sampled_from(["blend", "crop"]),
    seed=st.integers(0, 99),
)
def test_rolling_band_equals_a_whole_array_in_float64(
    height: int, width: int, tile: int, overlap: float, seam: str, seed: int
) -> None:
    tiling = Tiling.of(height, width, tile, overlap, seam)
    rng = np.random.default_rng(seed)
    tiles = [rng.normal(size=(3, tile, tile)).astype(np.float32) for _ in tiling]
    whole = np.zeros((3, height, width))
    for window, scores in zip(tiling, tiles, strict=True):
        row, col = tiling.rows.starts.index(window.row), tiling.cols.starts.index(window.col)
        weight = np.outer(tiling.rows.weights[row], tiling.cols.weights[col]).astype(np.float64)
        whole[:, window.row : window.row_end, window.col : window.col_end] += (
            weight * scores[:, : window.height, : window.width]
        )
    best = np.sort(whole, axis=0)
    clear = best[-1] - best[-2] > 1e-5  # float32 may settle a near tie the other way
    found, _ = roll(tiling, tiles, 3)
    assert found.shape == (height, width)
    np.testing.assert_array_equal(found[clear], whole.argmax(0)[clear])


@given(**SIZES, seed=st.integers(0, 99))
def test_a_crop_band_of_classes_is_a_rolling_band_of_scores(
    height: int, width: int, tile: int, overlap: float, seed: int
) -> None:
    tiling = Tiling.of(height, width, tile, overlap, "crop")
    rng = np.random.default_rng(seed)
    tiles = [rng.normal(size=(3, tile, tile)).astype(np.float32) for _ in tiling]
    spans = Spans(tiling)
    found, _ = drive(CropBand(spans), spans, [argmax(scores) for scores in tiles])
    np.testing.assert_array_equal(found, roll(tiling, tiles, 3)[0])


@given(data=st.data(), seam=st.sampled_from(["blend", "crop"]), seed=st.integers(0, 99))
def test_an_area_is_what_a_run_over_the_whole_raster_gives_there(
    data: st.DataObject, seam: str, seed: int
) -> None:
    height, width = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
    tiling = Tiling.of(height, width, data.draw(st.integers(4, 40)), data.draw(st.floats(0, 0.75)), seam)
    row, col = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    area = Window(row, col, data.draw(st.integers(1, height - row)), data.draw(st.integers(1, width - col)))
    rng = np.random.default_rng(seed)
    side = tiling.rows.tile
    tiles = [rng.normal(size=(3, side, side)).astype(np.float32) for _ in tiling]
    whole, percent = roll(tiling, tiles, 3, percent=True)
    here = np.s_[area.row : area.row_end, area.col : area.col_end]
    found = roll(tiling, tiles, 3, area, percent=True)
    np.testing.assert_array_equal(found[0], whole[here])
    np.testing.assert_array_equal(found[1], percent[:, here[0], here[1]])
    cropped = drive(CropBand(Spans(tiling, area)), Spans(tiling, area), [argmax(t) for t in tiles])[0]
    if seam == "crop":
        np.testing.assert_array_equal(cropped, whole[here])


@given(**SIZES, seed=st.integers(0, 99))
@pytest.mark.skipif(compiled() is None, reason="no C compiler here")
def test_compiled_and_numpy_give_the_same_bits(
    height: int, width: int, tile: int, overlap: float, seed: int
) -> None:
    tiling = Tiling.of(height, width, tile, overlap, "blend")
    rng = np.random.default_rng(seed)
    tiles = [rng.integers(-4, 4, (5, tile, tile)).astype(np.float32) / 3 for _ in tiling]  # with ties
    one = roll(tiling, tiles, 5, percent=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rsedge.tiling.blend.compiled", lambda: None)
        other = roll(tiling, tiles, 5, percent=True)
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_told(path: str, bad: float) -> None:
    spans = Spans(Tiling.of(32, 32, 32, 0.0, "blend"))
    scores = np.zeros((3, 32, 32), np.float32)
    scores[1, 7, 31] = bad
    assert not RollingBand(spans, 3).add(0, scores)


def test_percentages_are_softmax(path: str) -> None:
    tiling = Tiling.of(20, 20, 20, 0.0, "blend")
    scores = np.random.default_rng(0).normal(size=(4, 20, 20)).astype(np.float32)
    _, percent = roll(tiling, [scores], 4, percent=True)
    wide = np.exp(scores.astype(np.float64))
    np.testing.assert_allclose(percent, 100 * wide / wide.sum(0), atol=0.501)


@pytest.mark.parametrize("seam", ["blend", "crop"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_constant_scores_give_a_constant_mask(path: str, seam: str, overlap: float) -> None:
    tiling = Tiling.of(150, 97, 32, overlap, seam)
    scores = np.broadcast_to(np.array([0.1, 0.3, 0.2], np.float32)[:, None, None], (3, 32, 32))
    assert (roll(tiling, [scores] * len(tiling), 3)[0] == 1).all()


@given(st.integers(1, 6), st.integers(0, 999))
def test_argmax_takes_the_first_of_equals_as_numpy_does(classes: int, seed: int) -> None:
    scores = np.random.default_rng(seed).integers(0, 3, (classes, 7, 9)).astype(np.float32)
    np.testing.assert_array_equal(argmax(scores), scores.argmax(0))


@pytest.mark.parametrize(
    "shape", [(2, 8, 8), (4, 8, 8), (3, 8, 7), (3, 7, 8), (3, 7, 7), (3, 8), (1, 8, 8), (3, 0, 0)]
)
def test_scores_of_another_shape_never_reach_the_kernel(path: str, shape: tuple[int, ...]) -> None:
    band = RollingBand(Spans(Tiling.of(20, 20, 8, 0.25, "blend")), 3)
    with pytest.raises(ModelError, match="the model returned scores"):
        band.add(0, np.zeros(shape, np.float32))
    assert band.add(0, np.zeros((3, 8, 8), np.float32))
