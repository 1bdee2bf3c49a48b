from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rsedge.raster import Grid, overviews
from rsedge.raster.overviews import build_overviews, halve
from rsedge.raster.writer import create
from rsedge.tiling.kernels import compiled

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
CREATION = {"compress": "zstd", "zstd_level": 1}


def most_frequent(fine: np.ndarray) -> np.ndarray:
    """Count pixel by pixel; on a tie take the first by row, then column."""
    height, width = fine.shape
    coarse = np.empty((-(-height // 2), -(-width // 2)), np.uint8)
    for y, x in np.ndindex(*coarse.shape):
        rows, cols = np.minimum([2 * y, 2 * y + 1], height - 1), np.minimum([2 * x, 2 * x + 1], width - 1)
        four = [int(fine[r, c]) for r in rows for c in cols]
        coarse[y, x] = max(four, key=lambda v: (four.count(v), -four.index(v)))
    return coarse


@given(st.integers(1, 13), st.integers(1, 13), st.integers(1, 255), st.integers(0, 99))
def test_halving_takes_the_most_frequent(height: int, width: int, classes: int, seed: int) -> None:
    fine = np.random.default_rng(seed).integers(0, classes + 1, (height, width)).astype(np.uint8)
    expected = most_frequent(fine)
    np.testing.assert_array_equal(halve(fine), expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overviews, "compiled", lambda: None)
        np.testing.assert_array_equal(halve(fine), expected)


def test_a_view_is_halved_as_its_copy() -> None:
    fine = np.random.default_rng(0).integers(0, 4, (20, 40)).astype(np.uint8)[::2, 1:-1]
    np.testing.assert_array_equal(halve(fine), halve(fine.copy()))


@pytest.mark.parametrize("most_bytes", [512 * 512, overviews.MOST_BYTES])
@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(40, 513), (1100, 2501), (2048, 1024), (2600, 37)])
def test_levels_are_the_whole_raster_halved_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_bytes: int, bands: int, height: int, width: int
) -> None:
    """Any number of columns in memory gives the same: narrow ones, with a pass per level, or all."""
    monkeypatch.setattr(overviews, "MOST_BYTES", most_bytes)
    pixels = np.random.default_rng(0).integers(0, 5, (bands, height, width)).astype(np.uint8)
    with create(tmp_path / "fine.tif", Grid(height, width), {"count": bands, **CREATION}) as dst:
        dst.write(pixels)
    made = build_overviews(tmp_path / "fine.tif", lambda name: tmp_path / name, CREATION)
    for path in made:
        assert max(pixels.shape[1:]) > 512
        pixels = np.stack([halve(band) for band in pixels])
        with rasterio.open(path) as src:
            np.testing.assert_array_equal(src.read(), pixels)
    assert max(pixels.shape[1:]) <= 512


def test_one_block_has_no_overviews(tmp_path: Path) -> None:
    with create(tmp_path / "fine.tif", Grid(512, 512), {"count": 1, **CREATION}) as dst:
        dst.write(np.zeros((1, 512, 512), np.uint8))
    assert build_overviews(tmp_path / "fine.tif", lambda name: tmp_path / name, CREATION) == ()


def test_memory_does_not_grow_with_the_width(tmp_path: Path) -> None:
    width = 60_000
    with create(tmp_path / "fine.tif", Grid(600, width), {"count": 1, "sparse_ok": True, **CREATION}):
        pass
    compiled()
    tracemalloc.start()
    try:
        made = build_overviews(tmp_path / "fine.tif", lambda name: tmp_path / name, CREATION)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(made) == 7
    assert peak < 24 << 20  # 512 rows of the whole width alone would be 30 MiB


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5))
def test_small_blocks_show_every_border(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, height: int, width: int, columns: int
) -> None:
    """The same code with blocks of 16 pixels and columns of up to 5 blocks, on many sizes."""
    monkeypatch.setattr(overviews, "BLOCK", 16)
    monkeypatch.setattr(overviews, "MOST_BYTES", 256 * columns)
    fine = np.random.default_rng(height).integers(0, 4, (1, 3 * height, 5 * width)).astype(np.uint8)
    with create(tmp_path / "fine.tif", Grid(*fine.shape[1:]), {"count": 1, **CREATION}) as dst:
        dst.write(fine)
    for path in build_overviews(tmp_path / "fine.tif", lambda name: tmp_path / name, CREATION):
        fine = np.stack([halve(band) for band in fine])
        with rasterio.open(path) as src:
            np.testing.assert_array_equal(src.read(), fine)
    assert max(fine.shape) <= 16
