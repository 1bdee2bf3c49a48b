from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from rasterio.enums import ColorInterp

from rsedge import InputError, Options, segment
from rsedge.backends import Backend
from rsedge.raster import BandPlan, RasterReader, open_resampled
from rsedge.raster.band_plan import Masking
from rsedge.raster.scaling import WINDOW, check_scale, spread_windows, survey_scale
from rsedge.tiling.window import Window
from toys import SHARED, pointwise_manifest, shared

Write = Callable[..., Path]
SIDE = st.integers(1, 5000)


@given(size=st.tuples(SIDE, SIDE), block=st.tuples(SIDE, SIDE), most=st.sampled_from([1, 5, 64]))
def test_windows_are_few_apart_and_inside(size: tuple[int, int], block: tuple[int, int], most: int) -> None:
    windows = spread_windows(size, block, most)
    assert 1 <= len(windows) <= most
    assert all(w.row_end <= size[0] and w.col_end <= size[1] for w in windows)
    assert all(w.height * w.width <= max(WINDOW * WINDOW, size[1]) for w in windows)
    rows, cols = {(w.row, w.row_end) for w in windows}, {(w.col, w.col_end) for w in windows}
    for spans in (sorted(rows), sorted(cols)):
        assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    assert len(rows) * len(cols) == len(windows)


def test_of_a_large_raster_windows_lie_on_blocks_everywhere() -> None:
    windows = spread_windows((40000, 30000), (512, 512), 64)
    assert len(windows) >= 48
    assert {(w.row % 512, w.col % 512, w.height, w.width) for w in windows} == {
        (128, 128, 256, 256)
    }  # of one block
    for corner in ((0, 0), (0, 29999), (39999, 0), (39999, 29999)):
        assert min(np.hypot(w.row - corner[0], w.col - corner[1]) for w in windows) < 5000
    striped = spread_windows((40000, 30000), (1, 30000), 64)
    assert len(striped) == 64
    assert {(w.col, w.width, w.height) for w in striped} == {(0, 30000, 2)}
    assert len(spread_windows((3000, 3000), (3000, 3000), 64)) == 64  # one block, decoded anyway


@pytest.mark.parametrize("profile", [{"blockysize": 1}, {"tiled": True, "blockxsize": 64, "blockysize": 64}])
def test_of_small_rasters_it_is_the_percentile_of_all_valid_pixels(
    write_raster: Write, profile: dict[str, object]
) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.gamma(2, 300, (4, 500, 700)).astype(np.uint16) + 1
    other = rng.gamma(2, 500, (4, 90, 80)).astype(np.uint16) + 1
    pixels[:, :200, :300] = 0
    pixels[0] = 60000  # a band that is not asked for
    paths = [write_raster(p, f"{i}.tif", nodata=0, **profile) for i, p in enumerate((pixels, other))]
    pool = np.concatenate([pixels[1:, (pixels[1:] != 0).any(0)].ravel(), other[1:].ravel()])
    assert survey_scale(paths, (2, 3, 4)) == tuple(np.percentile(pool, (2, 98)))
    assert survey_scale(paths[::-1], (4, 3, 2), 0, 50) == tuple(np.percentile(pool, (0, 50)))


def test_of_a_large_raster_a_sample_is_near_and_small(write_raster: Write) -> None:
    rng = np.random.default_rng(2)
    pixels = rng.normal(0, 1, (1, 6000, 6000)).astype(np.float32)
    pixels += np.linspace(-3, 3, 6000, dtype=np.float32)  # dark in the west, bright in the east
    path = write_raster(pixels, tiled=True, blockxsize=512, blockysize=512)
    tracemalloc.start()
    found = survey_scale([path, path], (1,))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(found, np.percentile(pixels, (2, 98)), atol=0.25)
    assert found == survey_scale([path, path], (1,))
    assert peak < 8 * 4_000_000 * 2


def test_infinities_and_nan_are_not_values(write_raster: Write) -> None:
    pixels = np.linspace(0, 1, 10_000, dtype=np.float32).reshape(1, 100, 100)
    expected = tuple(np.percentile(pixels[:, 2:], (2, 98)))
    pixels[0, 0], pixels[0, 1] = np.nan, np.inf
    assert survey_scale([write_raster(pixels)], (1,)) == pytest.approx(expected)


def test_a_narrow_strip_of_data_is_found(write_raster: Write) -> None:
    """No window of the first sample touches the strip of data."""
    pixels = np.zeros((1, 6000, 6000), np.uint8)
    pixels[0, 3000:3020] = np.arange(6000) % 200 + 1
    blocks = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
    path = write_raster(pixels, nodata=0, **blocks)
    windows = spread_windows((6000, 6000), (256, 256), 64)
    assert not any(pixels[0, w.row : w.row_end, w.col : w.col_end].any() for w in windows)
    low, high = survey_scale([path], (1,))
    assert 1 <= low < 10
    assert 190 < high <= 200


def test_rasters_of_other_band_orders_are_pooled_by_the_models_bands(write_raster: Write) -> None:
    pixels = np.stack([np.full((40, 40), v, np.uint16) for v in (10, 20, 30, 5000)])
    paths = [write_raster(pixels, "a.tif"), write_raster(pixels[::-1], "b.tif")]
    for path, colors in zip(paths, ("red green blue undefined", "undefined blue green red"), strict=True):
        with rasterio.open(path, "r+") as dst:
            dst.colorinterp = [ColorInterp[c] for c in colors.split()]
    assert survey_scale(paths, pointwise_manifest(), 0, 100) == (10, 30)


def test_a_value_that_rules_gives_way_to_the_extremes(write_raster: Write) -> None:
    pixels = np.full((1, 100, 100), 7, np.uint8)
    pixels[0, 0, 0] = 9
    assert survey_scale([write_raster(pixels)], (1,)) == (7, 9)


def test_what_gives_no_scale_is_an_error(write_raster: Write, tmp_path: Path) -> None:
    flat = write_raster(np.full((3, 9, 9), 4, np.uint8), "flat.tif")
    empty = write_raster(np.zeros((3, 9, 9), np.uint8), "empty.tif", nodata=0)
    for paths, options, message in (
        ([flat], {}, "all values are 4"),
        ([empty], {}, "no valid pixel was found in .*empty.tif"),
        ([empty, empty], {}, "any of 2 rasters"),
        ([], {}, "no raster"),
        ([flat], {"low": 98, "high": 2}, "percentiles 98 and 2"),
        ([flat], {"high": 101}, "0..100"),
        ([flat], {"bands": (4,)}, "has no band 4"),
        ([tmp_path / "none.tif"], {}, "none.tif not found"),
    ):
        with pytest.raises(InputError, match=message):
            survey_scale(paths, **{"bands": (1, 2, 3), **options})
    assert survey_scale([flat, empty, write_raster(np.zeros((3, 9, 9), np.uint8), "z.tif")], (1,)) == (0, 4)


@shared
def test_the_scale_of_real_reflectances() -> None:
    path = SHARED / "rasters" / "sentinel2_8band_uint16_striped.tif"
    with rasterio.open(path) as src:
        pixels, valid = src.read([4, 3, 2]), src.dataset_mask() > 0
    expected = np.percentile(pixels[:, valid], (2, 98))
    np.testing.assert_allclose(survey_scale([path], (4, 3, 2)), expected, rtol=0.05)


TILES = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}


def test_a_dark_collar_does_not_make_a_scale_wrong(write_raster: Write) -> None:
    """The collar may lie on any side, and few rows may be read later."""
    pixels = np.random.default_rng(0).integers(500, 2500, (3, 2600, 2600)).astype(np.uint16)
    pixels[:, :700] = 0
    for name, stack in (("top.tif", pixels), ("bottom.tif", pixels[:, ::-1])):
        with RasterReader(write_raster(stack, name, **TILES)) as reader:
            plan = BandPlan((1, 2, 3), "uint8", (400.0, 2600.0))
            note = check_scale(reader, plan)
            image, _ = reader.read(Window(0, 0, 600, 2600), plan)
        assert note is not None
        share = float(note.removeprefix("in a sample, ").partition("%")[0]) / 100
        assert abs(share - 700 / 2600) < 0.1
        assert image.any() == (name == "bottom.tif")


@pytest.mark.parametrize("factor", [None, 0.5, 3.0])
def test_a_wrong_scale_is_an_error_also_where_the_reader_resamples(
    write_raster: Write, factor: float | None
) -> None:
    pixels = np.random.default_rng(0).integers(500, 2500, (3, 300, 200)).astype(np.uint16)
    pixels[:, :200] = 9000  # most valid ones
    pixels[:, :50] = 0
    path = write_raster(pixels, nodata=0)
    bands = (1, 2, 3)
    with open_resampled(path, factor) if factor else RasterReader(path) as reader:
        with pytest.raises(InputError, match=r"in a sample, 60% of the values .* from 500 to 9000"):
            check_scale(reader, BandPlan(bands, "uint8", (0.0, 3000.0)))
        assert check_scale(reader, BandPlan(bands, "uint8", (0.0, 9000.0))) is None
        assert check_scale(reader, BandPlan(bands, "uint8")) is None
        note = check_scale(reader, BandPlan(bands, "uint8", (0.0, 1e6)))
    assert note is not None
    assert "in a sample, the values use only 0.9% of --scale 0,1e+06" in note


def test_without_a_valid_pixel_no_scale_is_wrong(write_raster: Write) -> None:
    with RasterReader(write_raster(np.zeros((3, 90, 90), np.uint16), nodata=0)) as reader:
        assert check_scale(reader, BandPlan((1, 2, 3), "uint8", (5.0, 6.0))) is None


def test_memory_is_found_too_little_before_a_sample_is_read(
    model: Backend, tmp_path: Path, write_raster: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    raster = write_raster(np.full((3, 90, 90), 9, np.uint16))
    read = list[Window]()
    monkeypatch.setattr(RasterReader, "read_stored", lambda _, window, plan: read.append(window))
    with pytest.raises(InputError, match="--max-ram"):
        segment(model, raster, tmp_path / "m.tif", Options(scale=(0, 9), max_ram_bytes=1 << 20))
    assert read == []


@pytest.mark.parametrize(
    ("dtype", "filler", "share"),
    [
        ("float32", -3e8, 0.05),
        ("float32", 1e6, 0.05),
        ("float64", -1e5, 0.01),  # beyond the percentiles: clipped to black, and classified
        ("float32", 1e20, 0.01),
        ("float32", -9999, 0.005),
        ("uint16", 65535, 0.05),
        ("uint16", 65535, 0.005),
        ("int16", 32767, 0.05),
        ("int16", -10000, 0.05),
        ("int16", -32768, 0.4),
        ("int32", -99999, 0.05),
    ],
)
def test_values_that_fill_gaps_are_no_end_of_a_scale(
    write_raster: Write, dtype: str, filler: float, share: float
) -> None:
    rng = np.random.default_rng(3)
    pixels = rng.normal(900, 150, (3, 200, 240)).clip(1, 4000).astype(dtype)
    clean = survey_scale([write_raster(pixels, "clean.tif")], (1, 2, 3))
    pixels[:, rng.random((200, 240)) < share] = filler
    path = write_raster(pixels)
    stored = f"{float(np.dtype(dtype).type(filler)):.9g}"
    with pytest.raises(InputError, match=re.escape(f"--nodata {stored}, else --scale LOW,HIGH")):
        survey_scale([path], (1, 2, 3))
    marked = Masking(nodata=(filler,))
    assert survey_scale([path], (1, 2, 3), masking=marked) == pytest.approx(clean, rel=0.02)


def test_two_fillers_at_once_are_found(write_raster: Write) -> None:
    rng = np.random.default_rng(4)
    pixels = rng.normal(900, 150, (1, 200, 240)).astype(np.float32)
    pixels[:, :10], pixels[:, 10:20] = -1e5, 1e5
    with pytest.raises(InputError, match="--nodata -100000"):
        survey_scale([write_raster(pixels)], (1,))


@pytest.mark.parametrize(
    "kind", ["saturated", "few saturated", "zeros", "lights", "two values", "white on black", "dark collar"]
)
def test_odd_but_measured_values_are_ends_of_a_scale(write_raster: Write, kind: str) -> None:
    rng = np.random.default_rng(5)
    shape = (1, 300, 300)
    pixels = {
        "saturated": lambda: (rng.gamma(2, 12000, shape)).clip(0, 65535).astype(np.uint16),
        "few saturated": lambda: np.where(rng.random(shape) < 5e-4, 65535, rng.normal(900, 90, shape)).astype(
            np.uint16
        ),
        "zeros": lambda: rng.poisson(0.05, shape).astype(np.uint16),
        "lights": lambda: np.where(rng.random(shape) < 0.05, rng.gamma(1, 300, shape), 0).astype(np.float32),
        "two values": lambda: np.where(rng.random(shape) < 0.05, 5000, 10).astype(np.int16),
        "white on black": lambda: np.where(rng.random(shape) < 0.05, 255, rng.integers(0, 9, shape)).astype(
            np.uint8
        ),
        "dark collar": lambda: np.where(np.arange(300) < 60, 0, rng.integers(500, 2500, shape)).astype(
            np.uint16
        ),
    }[kind]()
    low, high = survey_scale([write_raster(pixels)], (1,))
    assert low < high


@shared
@pytest.mark.parametrize("path", sorted((SHARED / "rasters").glob("*.tif")), ids=lambda path: path.stem)
def test_rasters_of_sensors_have_no_fillers(path: Path) -> None:
    with rasterio.open(path) as src:
        count = min(3, src.count)
    if path.stem in {"all-nodata", "RGBA.uint16"}:  # nothing, and one value: no scale, whatever it is
        with pytest.raises(InputError, match="no valid pixel|all values are 10000"):
            survey_scale([path], range(1, count + 1))
    else:
        low, high = survey_scale([path], range(1, count + 1))
        assert low < high


def test_what_the_percentiles_leave_out_gets_no_note(write_raster: Write) -> None:
    pixels = np.random.default_rng(6).normal(900, 150, (3, 300, 300)).clip(1).astype(np.uint16)
    path = write_raster(pixels)
    with RasterReader(path) as reader:
        assert check_scale(reader, BandPlan((1, 2, 3), "uint8", survey_scale([path], (1, 2, 3)))) is None
        low, high = np.percentile(pixels, (5, 95))
        note = check_scale(reader, BandPlan((1, 2, 3), "uint8", (float(low), float(high))))
    assert note is not None
    assert "lie outside --scale" in note
