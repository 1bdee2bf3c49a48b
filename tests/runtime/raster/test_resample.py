from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.rpc import RPC
from rasterio.transform import Affine

from rsedge import InputError
from rsedge.raster import BandPlan, Grid, RasterReader, exact_cache, plan_bands
from rsedge.raster.resample import Resampled, open_resampled, resample_factor, scaled_grid, upsample_index
from rsedge.tiling.window import Window
from toys import SHARED, pointwise_manifest, shared

Write = Callable[..., Path]
Noise = Callable[..., np.ndarray]
RGB = BandPlan((1, 2, 3), "uint8")
SIDE = st.integers(1, 40)
FACTOR = st.one_of(st.floats(0.2, 12), st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0, 4.0, 100.0]))


def whole(reader: RasterReader) -> Window:
    return Window(0, 0, reader.grid.height, reader.grid.width)


def shares(source: int, made: int) -> np.ndarray:
    """Return the share of each source pixel (columns) in each new pixel (rows), in units of 1 / (2 source made)."""
    table = [[Fraction(0)] * source for _ in range(made)]
    ratio = Fraction(source, made)
    for i in range(made):
        if made <= source:
            for j in range(source):
                shared_length = min((i + 1) * ratio, Fraction(j + 1)) - max(i * ratio, Fraction(j))
                table[i][j] = max(Fraction(0), shared_length) / ratio
        else:
            centre = (i + Fraction(1, 2)) * ratio - Fraction(1, 2)
            for j in range(-1, source + 1):
                table[i][min(max(j, 0), source - 1)] += max(Fraction(0), 1 - abs(centre - j))
    whole_numbers = [[share * 2 * source * made for share in row] for row in table]
    assert all(share.denominator == 1 for row in whole_numbers for share in row)
    return np.array(whole_numbers, dtype=np.int64)


def expected_of(
    pixels: np.ndarray, holds: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of (bands, h, w) over valid pixels, and a mask of half or more valid; exact fractions."""
    down, along = shares(holds.shape[0], size[0]), shares(holds.shape[1], size[1]).T
    weight = down @ holds.astype(np.int64) @ along
    sums = np.stack([down @ np.where(holds, band, 0).astype(np.int64) @ along for band in pixels])
    total = 2 * holds.shape[0] * size[0] * 2 * holds.shape[1] * size[1]
    return sums / np.maximum(weight, 1), 2 * weight >= total


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    height=SIDE, width=SIDE, factor=FACTOR, missing=st.sampled_from([0, 0.2, 0.6]), seed=st.integers(0, 99)
)
def test_pixels_are_the_means_of_what_they_cover(
    write_raster: Write, height: int, width: int, factor: float, missing: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(1, 256, (3, height, width), np.uint8)
    holds = rng.random((height, width)) >= missing
    raster = write_raster(np.where(holds, pixels, 0), nodata=0)
    with open_resampled(raster, factor) as reader:
        size = reader.grid.height, reader.grid.width
        assert size == (max(1, round(height / factor)), max(1, round(width / factor)))
        image, valid = reader.read(whole(reader), RGB)
    expected, expected_valid = expected_of(pixels, holds, size)
    np.testing.assert_array_equal(valid, expected_valid)
    assert np.abs(image - expected)[:, valid].max(initial=0) <= 0.5 + 1e-6


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    height=SIDE,
    width=SIDE,
    factor=FACTOR,
    kind=st.sampled_from(["uint8", "nodata", "float32", "scale"]),
    cuts=st.tuples(*[st.integers(0, 10**6)] * 4),
    most_rows=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_a_window_gives_what_the_whole_gives(
    write_raster: Write,
    monkeypatch_module: pytest.MonkeyPatch,
    height: int,
    width: int,
    factor: float,
    kind: str,
    cuts: tuple[int, ...],
    most_rows: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.normal(0, 1e3, (3, height, width)).astype(np.float32)
    pixels[:, rng.random((height, width)) < 0.2] = np.nan
    plan = BandPlan((1, 2, 3), "uint8" if kind == "scale" else kind, (-3e3, 3e3) if kind == "scale" else None)
    if kind in {"uint8", "nodata"}:
        pixels, plan = np.clip(np.nan_to_num(pixels), 0, 255).astype(np.uint8), RGB
    raster = write_raster(pixels, nodata=0 if kind == "nodata" else None)
    with open_resampled(raster, factor) as reader:
        image, valid = reader.read(whole(reader), plan)
        row, col = cuts[0] % reader.grid.height, cuts[1] % reader.grid.width
        window = Window(
            row, col, 1 + cuts[2] % (reader.grid.height - row), 1 + cuts[3] % (reader.grid.width - col)
        )
        monkeypatch_module.setattr("rsedge.raster.resample.blocks.MOST_ROWS", most_rows)
        part, part_valid = reader.read(window, plan)
        again = [reader.read(strip, plan) for strip in reader.row_strips(whole(reader), most_rows)]
        monkeypatch_module.undo()
    here = np.s_[row : window.row_end, col : window.col_end]
    np.testing.assert_array_equal(part_valid, valid[here])
    np.testing.assert_array_equal(part[:, part_valid], image[(slice(None), *here)][:, part_valid])
    np.testing.assert_array_equal(np.concatenate([v for _, v in again]), valid)
    np.testing.assert_array_equal(np.concatenate([i for i, _ in again], 1)[:, valid], image[:, valid])


@pytest.fixture(scope="module")
def monkeypatch_module() -> pytest.MonkeyPatch:
    return pytest.MonkeyPatch()


@pytest.mark.parametrize("factor", [2, 4])
def test_whole_factors_are_gdals_average(write_raster: Write, noise: Noise, factor: int) -> None:
    raster = write_raster(noise(64, 96))
    with rasterio.open(raster) as src:
        gdals = src.read(out_shape=(3, 64 // factor, 96 // factor), resampling=Resampling.average)
    with open_resampled(raster, factor) as reader:
        image, valid = reader.read(whole(reader), RGB)
    assert valid.all()
    assert np.abs(image.astype(int) - gdals).max() <= 1  # halves are rounded otherwise


def test_a_factor_of_one_changes_nothing(write_raster: Write, noise: Noise) -> None:
    pixels = noise(30, 41)
    with open_resampled(write_raster(pixels), 1) as reader:
        np.testing.assert_array_equal(reader.read(whole(reader), RGB)[0], pixels)
        assert reader.grid == reader.source_grid


@pytest.mark.parametrize("factor", [0.3, 0.5, 1.7, 3, 1000])
def test_the_outline_stays(write_raster: Write, noise: Noise, factor: float) -> None:
    turned = Affine(0.4, 0.2, 5e5, 0.2, -0.4, 5.4e6)
    with open_resampled(write_raster(noise(50, 70), transform=turned), factor) as reader:
        old, new = reader.source_grid, reader.grid
    assert new.crs == old.crs
    down, along = old.height / new.height, old.width / new.width
    scales = np.array([along, down, 1, along, down, 1])
    assert list(new.transform)[:6] == (np.array(old.transform[:6]) * scales).tolist()
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
        np.testing.assert_allclose(place(new, corner), place(old, corner), rtol=1e-15)


def place(grid: Grid, corner: tuple[int, int]) -> np.ndarray:
    """Return the ground position of a corner, given in sides of the raster."""
    matrix = np.array(grid.transform).reshape(3, 3)
    return matrix @ (corner[0] * grid.width, corner[1] * grid.height, 1)


def test_control_points_and_rpcs_are_those_of_the_new_pixels() -> None:
    points = tuple(GroundControlPoint(r, c, 4.0 + c, 52.0 - r) for r, c in ((0, 0), (0, 90), (80, 0)))
    rpcs = RPC(
        100.0,
        50.0,
        52.0,
        1.0,
        [1.0] * 20,
        [2.0] * 20,
        39.5,
        40.0,
        4.0,
        1.0,
        [3.0] * 20,
        [4.0] * 20,
        44.5,
        45.0,
    )
    grid = scaled_grid(Grid(80, 90, CRS.from_epsg(4326), gcps=points, rpcs=rpcs), 2)
    assert (grid.height, grid.width, grid.transform) == (40, 45, Affine.identity())
    assert [(p.row, p.col, p.x, p.y) for p in grid.gcps] == [(p.row / 2, p.col / 2, p.x, p.y) for p in points]
    # The middle of the image, between its middle pixels' centres, stays the middle.
    assert (grid.rpcs.line_off, grid.rpcs.samp_off) == (19.5, 22.0)
    assert (grid.rpcs.line_scale, grid.rpcs.samp_scale) == (20.0, 22.5)
    assert rpcs.line_off == 39.5


def test_without_a_crs_a_factor_will_do(tmp_path: Path, noise: Noise) -> None:
    path, pixels = tmp_path / "plain.png", noise(20, 30)
    facts = {"driver": "PNG", "count": 3, "height": 20, "width": 30, "dtype": "uint8"}
    with pytest.warns(NotGeoreferencedWarning), rasterio.open(path, "w", **facts) as dst:
        dst.write(pixels)
    with open_resampled(path, 2) as reader:
        image, _ = reader.read(whole(reader), RGB)
        assert reader.grid.transform.is_identity
    mean = pixels.reshape(3, 10, 2, 15, 2).mean((2, 4))
    assert np.abs(image - mean).max() <= 0.5
    with RasterReader(path) as reader, pytest.raises(InputError, match="without CRS"):
        resample_factor(reader.grid, 0.5)


def test_the_factor_of_a_gsd(write_raster: Write, noise: Noise) -> None:
    with RasterReader(write_raster(noise(20, 30))) as reader:  # of 0.5 m
        assert resample_factor(reader.grid, 1.25) == pytest.approx(2.5, rel=1e-3)
        for gsd_m in (0, -1, float("nan"), float("inf")):
            with pytest.raises(InputError, match="positive"):
                resample_factor(reader.grid, gsd_m)


@pytest.mark.parametrize("factor", [0, -1, 0.01, float("nan"), float("inf")])
def test_factors_that_cannot_be_meant_are_refused(write_raster: Write, noise: Noise, factor: float) -> None:
    with pytest.raises(InputError, match="the factor to resample"):
        Resampled(write_raster(noise(9, 9)), factor)


def test_colours_of_a_palette_are_averaged_not_its_values(write_raster: Write) -> None:
    raster = write_raster(np.tile(np.array([[[1, 3]]], np.uint8), (1, 4, 4)), photometric="palette")
    with rasterio.open(raster, "r+") as dst:
        dst.write_colormap(1, {1: (10, 20, 30, 255), 2: (0, 0, 0, 255), 3: (30, 60, 90, 255)})
    with open_resampled(raster, 2) as reader:
        image, _ = reader.read(whole(reader), plan_bands(reader, pointwise_manifest()))
    assert image[:, 0, 0].tolist() == [20, 40, 60]


def test_stored_values_are_taken_not_averaged(write_raster: Write, noise: Noise) -> None:
    pixels = noise(30, 39)
    with open_resampled(write_raster(pixels), 3) as reader:
        np.testing.assert_array_equal(reader.read_raw(Window(2, 1, 5, 7)), pixels[:, 7:22:3, 4:25:3])


@given(coarse=st.integers(1, 300), fine=st.integers(1, 300))
def test_a_fine_pixel_belongs_where_its_centre_lies(coarse: int, fine: int) -> None:
    index = upsample_index(coarse, fine)
    assert index.dtype == np.intp
    assert [Fraction(2 * j + 1, 2 * fine) * coarse // 1 for j in range(fine)] == index.tolist()
    assert index.min() >= 0
    assert index.max() < coarse


LAYOUTS = {
    "tiles": {"tiled": True, "blockxsize": 64, "blockysize": 64, "interleave": "pixel"},
    "tiles, bands apart": {"tiled": True, "blockxsize": 64, "blockysize": 64, "interleave": "band"},
    "strips of 37": {"blockysize": 37, "interleave": "band"},
    "strips of 1": {"blockysize": 1, "interleave": "pixel"},
    "one strip": {"blockysize": 1300, "interleave": "pixel"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("factor", [0.7, 2.3])
def test_strips_decode_every_block_once(
    write_raster: Write, monkeypatch: pytest.MonkeyPatch, layout: str, factor: float
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1300, 500), np.uint8)
    raster = write_raster(pixels, compress="deflate", **LAYOUTS[layout])
    monkeypatch.setattr("rsedge.raster.cache.LEAST_BYTES", 100_000)
    taken, really_open = [0], rasterio.open

    class Counted(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            data = super().read(size)
            taken[0] += len(data)
            return data

    monkeypatch.setattr(
        rasterio, "open", lambda path: really_open(path, opener=lambda p, mode="rb", **_: Counted(p, "rb"))
    )
    with open_resampled(raster, factor) as reader, exact_cache(reader.cache_bytes(whole(reader), RGB)):
        taken[0] = 0
        for strip in reader.row_strips(whole(reader), 100):
            reader.read(strip, RGB)
    assert taken[0] < 1.03 * raster.stat().st_size


@shared
def test_a_real_raster_at_half_its_resolution() -> None:
    path = SHARED / "rasters" / "tile7crop_nodata0.tif"
    with rasterio.open(path) as src:
        pixels, valid = src.read([1, 2, 3]), src.dataset_mask() > 0
    halved = pixels.reshape(3, pixels.shape[1] // 2, 2, -1, 2)
    inside = valid.reshape(halved.shape[1:3] + halved.shape[3:]).all((1, 3))
    with open_resampled(path, 2, threads=2) as reader:
        image, holds = reader.read(whole(reader), RGB)
    assert holds[inside].all()
    assert np.abs(image - halved.mean((2, 4)))[:, inside].max() <= 0.5


@pytest.mark.parametrize("factor", [0.5, 1.7, 4.0, 700.0])
@pytest.mark.parametrize("kind", ["plain", "nodata", "scale"])
def test_extra_bytes_bound_what_is_held_beside_a_strip(write_raster: Write, factor: float, kind: str) -> None:
    pixels = np.full((3, 1500, 2000), 7, np.uint16 if kind == "scale" else np.uint8)
    pixels[:, ::50] = 0
    raster = write_raster(pixels, nodata=0 if kind == "nodata" else None, tiled=True)
    plan = BandPlan((1, 2, 3), "uint8", (0.0, 9.0) if kind == "scale" else None)
    with open_resampled(raster, factor) as reader:
        strip = reader.row_strips(whole(reader))[0]
        image, valid = (
            np.empty((3, strip.height, strip.width), np.uint8),
            np.empty((strip.height, strip.width), np.bool_),
        )
        reader.read_into(strip, plan, image, valid)  # the taps are kept
        tracemalloc.start()
        reader.read_into(strip, plan, image, valid)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        bound = reader.extra_bytes(whole(reader), plan)
    assert peak <= bound
    assert bound <= 2.5 * peak + 4e6
