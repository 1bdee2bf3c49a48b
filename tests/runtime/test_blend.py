from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsedge.blend import CropBand, RollingBand, argmax
from rsedge.tiling import Tiling


def roll(tiling: Tiling, tiles: list[np.ndarray], classes: int) -> np.ndarray:
    band, rows, tiles = RollingBand(tiling, classes), [], iter(tiles)
    for _ in tiling.rows.starts:
        for col in range(len(tiling.cols.starts)):
            band.add(col, next(tiles))
        rows.append(band.finish_row())
    return np.concatenate(rows)


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    tile=st.integers(4, 40),
    overlap=st.floats(0, 0.75),
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
    found = roll(tiling, tiles, 3)
    assert found.shape == (height, width)
    np.testing.assert_array_equal(found[clear], whole.argmax(0)[clear])


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    tile=st.integers(4, 40),
    overlap=st.floats(0, 0.75),
    seed=st.integers(0, 99),
)
def test_a_crop_band_of_classes_is_a_rolling_band_of_scores(
    height: int, width: int, tile: int, overlap: float, seed: int
) -> None:
    tiling = Tiling.of(height, width, tile, overlap, "crop")
    rng = np.random.default_rng(seed)
    tiles = [rng.normal(size=(3, tile, tile)).astype(np.float32) for _ in tiling]
    band, rows, classes = CropBand(tiling), [], iter([argmax(scores) for scores in tiles])
    for _ in tiling.rows.starts:
        for col in range(len(tiling.cols.starts)):
            band.add(col, next(classes))
        rows.append(band.finish_row())
    np.testing.assert_array_equal(np.concatenate(rows), roll(tiling, tiles, 3))


@pytest.mark.parametrize("seam", ["blend", "crop"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_constant_scores_give_a_constant_mask(seam: str, overlap: float) -> None:
    tiling = Tiling.of(150, 97, 32, overlap, seam)
    scores = np.broadcast_to(np.array([0.1, 0.3, 0.2], np.float32)[:, None, None], (3, 32, 32))
    assert (roll(tiling, [scores] * len(tiling), 3) == 1).all()


@given(st.integers(1, 6), st.integers(0, 999))
def test_argmax_takes_the_first_of_equals_as_numpy_does(classes: int, seed: int) -> None:
    scores = np.random.default_rng(seed).integers(0, 3, (classes, 7, 9)).astype(np.float32)
    np.testing.assert_array_equal(argmax(scores), scores.argmax(0))
