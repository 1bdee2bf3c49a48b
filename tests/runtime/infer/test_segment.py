from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.warp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.transform import Affine

from rsedge import InputError, Options, open_model, segment
from rsedge.backends import Backend
from rsedge.model.manifest import NODATA
from toys import CLASSES, TILE, make_bundle, pointwise_graph, pointwise_manifest, read, strongest

Write = Callable[..., Path]
Noise = Callable[..., np.ndarray]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    height=st.integers(1, 3 * TILE),
    width=st.integers(1, 3 * TILE),
    overlap=st.floats(0, 0.75),
    seam=st.sampled_from(["blend", "crop"]),
    hole=st.tuples(*[st.integers(0, 3 * TILE)] * 4),
)
def test_a_pixelwise_model_gives_the_mask_it_gives_without_tiling(
    model: Backend,
    write_raster: Write,
    noise: Noise,
    tmp_path: Path,
    height: int,
    width: int,
    overlap: float,
    seam: str,
    hole: tuple[int, ...],
) -> None:
    pixels = noise(height, width)
    row, col, rows, cols = hole
    pixels[:, row : row + rows, col : col + cols] = 0
    expected = np.where((pixels == 0).all(0), NODATA, strongest(pixels))
    raster = write_raster(pixels, nodata=0)
    result = segment(
        model, raster, tmp_path / "mask.tif", Options(overlap=overlap, seam=seam, format="gtiff")
    )
    np.testing.assert_array_equal(read(tmp_path / "mask.tif"), expected)
    assert result.nodata_pixels == (expected == NODATA).sum()
    assert [c.pixels for c in result.classes] == [(expected == i).sum() for i in range(3)]


LAYOUTS = {
    "striped": {},
    "one row a strip": {"blockysize": 1},
    "one block": {"blockysize": 150},
    "tiled": {"tiled": True, "blockxsize": 32, "blockysize": 48},
    "pixel interleaved": {
        "interleave": "pixel",
        "compress": "deflate",
        "tiled": True,
        "blockxsize": 64,
        "blockysize": 64,
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("file_format", ["cog", "gtiff"])
def test_every_layout_gives_the_same_mask(
    model: Backend, write_raster: Write, noise: Noise, tmp_path: Path, layout: str, file_format: str
) -> None:
    pixels = noise(150, 170)
    segment(
        model, write_raster(pixels, **LAYOUTS[layout]), tmp_path / "mask.tif", Options(format=file_format)
    )
    np.testing.assert_array_equal(read(tmp_path / "mask.tif"), strongest(pixels))


def test_the_output_is_what_a_gis_expects(
    model: Backend, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    raster, out = write_raster(noise(700, 600), nodata=0), tmp_path / "mask.tif"
    segment(model, raster, out)
    with rasterio.open(raster) as src, rasterio.open(out) as dst:
        assert (dst.crs, dst.transform, dst.shape) == (src.crs, src.transform, src.shape)
        assert (dst.count, dst.dtypes[0], dst.nodata) == (1, "uint8", NODATA)
        assert dst.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dst.compression.name == "zstd"
        assert dst.block_shapes == [(512, 512)]
        assert dst.overviews(1) == [2]
        assert [dst.colormap(1)[i][:3] for i in range(3)] == [c.color for c in CLASSES]
        tags = dst.tags()
    assert json.loads(tags["RSEDGE_CLASSES"]) == {"0": "red", "1": "green", "2": "blue"}
    assert tags["RSEDGE_MODEL_SHA256"] == model.bundle.sha256
    assert "<Category>green</Category>" in out.with_name("mask.tif.aux.xml").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mask.tif", "mask.tif.aux.xml", "raster.tif"]


@pytest.mark.parametrize("file_format", ["cog", "gtiff"])
def test_ground_control_points_are_carried_through(
    model: Backend, noise: Noise, tmp_path: Path, file_format: str
) -> None:
    path = tmp_path / "gcps.tif"
    points = [
        GroundControlPoint(r, c, 4 + c / 1e4, 52 - r / 1e4) for r, c in ((0, 0), (0, 90), (80, 0), (80, 90))
    ]
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=3,
        height=80,
        width=90,
        dtype="uint8",
        gcps=points,
        crs=CRS.from_epsg(4326),
    ) as dst:
        dst.write(noise(80, 90))
    result = segment(model, path, tmp_path / "mask.tif", Options(format=file_format))
    with rasterio.open(tmp_path / "mask.tif") as dst:
        found, crs = dst.gcps
    assert crs == CRS.from_epsg(4326)
    assert [(p.row, p.col, p.x, p.y) for p in found] == [(p.row, p.col, p.x, p.y) for p in points]
    assert result.classes[0].area_m2 is None


def test_control_points_without_a_crs_are_carried_through(
    model: Backend, noise: Noise, tmp_path: Path
) -> None:
    points = [
        GroundControlPoint(r, c, 4 + c / 1e4, 52 - r / 1e4) for r, c in ((0, 0), (0, 90), (80, 0), (80, 90))
    ]
    path, facts = tmp_path / "gcps.tif", {"count": 3, "height": 80, "width": 90, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", gcps=points, crs=CRS(), **facts) as dst:
        dst.write(noise(80, 90))
    segment(model, path, tmp_path / "mask.tif")
    with rasterio.open(tmp_path / "mask.tif") as dst:
        assert len(dst.gcps[0]) == 4


def test_a_rotated_grid_is_carried_through(
    model: Backend, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    cos, sin = 0.5 * np.cos(0.5), 0.5 * np.sin(0.5)
    turned = Affine(cos, sin, 5e5, sin, -cos, 5.4e6)
    result = segment(model, write_raster(noise(80, 90), transform=turned), tmp_path / "mask.tif")
    with rasterio.open(tmp_path / "mask.tif") as dst:
        assert dst.transform.almost_equals(turned, 1e-9)
    # UTM is 0.9996 of true length on its meridian.
    assert sum(c.area_m2 or 0 for c in result.classes) == pytest.approx(80 * 90 * 0.25 / 0.9996**2)


def test_alpha_marks_pixels_without_data(
    model: Backend, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    pixels = noise(100, 100)
    alpha = np.full((1, 100, 100), 255, np.uint8)
    alpha[:, 20:70, 30:90] = 0
    raster = write_raster(np.concatenate([pixels, alpha]), photometric="rgb", alpha="yes")
    segment(model, raster, tmp_path / "mask.tif")
    np.testing.assert_array_equal(read(tmp_path / "mask.tif"), np.where(alpha[0], strongest(pixels), NODATA))


@pytest.mark.parametrize("layout", ["five bands", "nodata 0", "nodata 255", "float32"])
def test_alpha_is_honoured_beside_other_bands_nodata_and_floats(
    model: Backend, write_raster: Write, noise: Noise, tmp_path: Path, layout: str
) -> None:
    pixels, alpha = noise(70, 70), np.full((1, 70, 70), 255, np.uint8)
    alpha[:, :, :35] = 0
    extra = noise(70, 70)[:1] if layout == "five bands" else np.empty((0, 70, 70), np.uint8)
    stack = np.concatenate([pixels, extra, alpha])
    options = {"nodata": int(layout.split()[1])} if layout.startswith("nodata") else {}
    raster = write_raster(stack.astype(np.float32) if layout == "float32" else stack, **options)
    with rasterio.open(raster, "r+") as dst:
        colors = ["red", "green", "blue", *["undefined"] * len(extra), "alpha"]
        dst.colorinterp = [rasterio.enums.ColorInterp[c] for c in colors]
    segment(model, raster, tmp_path / "m.tif", Options(scale=(0, 255) if layout == "float32" else None))
    np.testing.assert_array_equal(read(tmp_path / "m.tif"), np.where(alpha[0], strongest(pixels), NODATA))


def test_other_colours_are_taken_in_order_with_a_note(
    model: Backend, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    raster = write_raster(noise(70, 70))
    with rasterio.open(raster, "r+") as dst:
        dst.colorinterp = [rasterio.enums.ColorInterp[c] for c in ("undefined", "red", "green")]
    result = segment(model, raster, tmp_path / "mask.tif")
    assert result.bands == (1, 2, 3)
    assert any("choose others with --bands" in note for note in result.notes)


def test_an_internal_mask_marks_pixels_without_data(
    model: Backend, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    pixels, valid = noise(100, 100), np.zeros((100, 100), bool)
    valid[:, 40:] = True
    raster = write_raster(pixels)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(raster, "r+") as dst:
        dst.write_mask(valid)
    segment(model, raster, tmp_path / "mask.tif")
    np.testing.assert_array_equal(read(tmp_path / "mask.tif"), np.where(valid, strongest(pixels), NODATA))


def test_windows_without_data_are_not_inferred(model: Backend, write_raster: Write, tmp_path: Path) -> None:
    result = segment(model, write_raster(np.zeros((3, 200, 200), np.uint8), nodata=0), tmp_path / "mask.tif")
    assert result.windows_skipped == result.windows
    assert (read(tmp_path / "mask.tif") == NODATA).all()
    assert any("no valid pixel" in note for note in result.notes)


def test_bands_are_taken_in_the_order_asked_for(
    model: Backend, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    pixels = noise(70, 70)
    five = np.concatenate([np.full((2, 70, 70), 7, np.uint8), pixels])
    segment(model, write_raster(five), tmp_path / "mask.tif", Options(bands=(5, 4, 3)))
    np.testing.assert_array_equal(read(tmp_path / "mask.tif"), strongest(pixels[::-1]))


def test_bands_are_found_by_colour(model: Backend, write_raster: Write, noise: Noise, tmp_path: Path) -> None:
    pixels = noise(70, 70)
    raster = write_raster(pixels[::-1])
    with rasterio.open(raster, "r+") as dst:
        dst.colorinterp = [rasterio.enums.ColorInterp[c] for c in ("blue", "green", "red")]
    result = segment(model, raster, tmp_path / "mask.tif")
    assert result.bands == (3, 2, 1)
    np.testing.assert_array_equal(read(tmp_path / "mask.tif"), strongest(pixels))


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64"])
def test_a_declared_scale_maps_other_dtypes(
    model: Backend, write_raster: Write, noise: Noise, tmp_path: Path, dtype: str
) -> None:
    pixels = noise(70, 70)
    raster = write_raster((pixels.astype(np.int32) * 10 + 100).astype(dtype))
    segment(model, raster, tmp_path / "mask.tif", Options(scale=(100, 2650)))
    np.testing.assert_array_equal(read(tmp_path / "mask.tif"), strongest(pixels))


def test_nan_is_no_data(model: Backend, write_raster: Write, noise: Noise, tmp_path: Path) -> None:
    pixels = noise(70, 70).astype(np.float32) / 255
    pixels[1, 5:20, 30:60] = np.nan
    pixels[0, 0, 0] = np.inf
    segment(model, write_raster(pixels), tmp_path / "mask.tif", Options(scale=(0, 1)))
    valid = np.isfinite(pixels).all(0)
    expected = np.where(valid, np.nan_to_num(pixels).argmax(0), NODATA)
    np.testing.assert_array_equal(read(tmp_path / "mask.tif"), expected)


def test_a_scale_that_cannot_be_right_is_an_error_and_leaves_nothing(
    model: Backend, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    raster = write_raster(noise(70, 70).astype(np.float32) * 100)
    with pytest.raises(InputError, match="outside --scale"):
        segment(model, raster, tmp_path / "mask.tif", Options(scale=(0, 1)))
    assert [p.name for p in tmp_path.iterdir()] == ["raster.tif"]


def ellipsoid_area(latitudes: np.ndarray) -> float:
    """m2 of one degree of longitude between the first and last latitude (radians), on WGS 84, by quadrature."""
    a, e2 = 6378137.0, 0.00669437999014
    density = a**2 * (1 - e2) * np.cos(latitudes) / (1 - e2 * np.sin(latitudes) ** 2) ** 2
    steps = np.diff(latitudes) * (density[1:] + density[:-1]) / 2
    return float(steps.sum() * np.radians(1))


def test_web_mercator_areas_are_those_on_the_ground(
    model: Backend, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    west, south, east, north = rasterio.warp.transform_bounds(4326, 3857, 10, 60, 11, 61)
    grid = Affine((east - west) / 64, 0, west, 0, (south - north) / 64, north)
    result = segment(
        model, write_raster(noise(64, 64), crs=CRS.from_epsg(3857), transform=grid), tmp_path / "mask.tif"
    )
    expected = ellipsoid_area(np.radians(np.linspace(60, 61, 200001)))
    assert sum(c.area_m2 or 0 for c in result.classes) == pytest.approx(expected, rel=1e-4)


def test_a_scale_that_squeezes_the_values_gives_a_note(
    model: Backend, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    raster = write_raster(noise(70, 70).astype(np.float32) / 255)
    result = segment(model, raster, tmp_path / "mask.tif", Options(scale=(0, 3000)))
    assert any("use only 0.0% of --scale 0,3000" in note for note in result.notes)


def test_areas_are_true_on_projected_and_geographic_grids(
    model: Backend, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    feet = write_raster(noise(64, 64), crs=CRS.from_epsg(2263), transform=Affine(2, 0, 9e5, 0, -2, 2e5))
    result = segment(model, feet, tmp_path / "mask.tif")
    # The Lambert zone is true to 1 in 10,000.
    assert sum(c.area_m2 or 0 for c in result.classes) == pytest.approx(
        64 * 64 * (2 * 1200 / 3937) ** 2, rel=2e-4
    )
    degree = write_raster(
        noise(64, 64), crs=CRS.from_epsg(4326), transform=Affine(1 / 64, 0, 10, 0, -1 / 64, 61)
    )
    result = segment(model, degree, tmp_path / "mask.tif")
    latitudes = np.radians(np.linspace(60, 61, 200001))
    assert sum(c.area_m2 or 0 for c in result.classes) == pytest.approx(ellipsoid_area(latitudes), rel=1e-8)


def test_a_raster_without_crs_is_segmented_with_a_note(model: Backend, noise: Noise, tmp_path: Path) -> None:
    pixels, raster = noise(70, 80), tmp_path / "plain.png"
    with (
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(raster, "w", driver="PNG", count=3, height=70, width=80, dtype="uint8") as dst,
    ):
        dst.write(pixels)
    result = segment(model, raster, tmp_path / "mask.tif")
    assert any("no CRS" in note for note in result.notes)
    assert all(c.area_m2 is None for c in result.classes)


def test_areas_are_the_grounds_where_the_map_stretches(
    model: Backend, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    for epsg, origin, stretch in ((4087, (2782987, 6701400), 0.49869), (3413, (5e5, -3.2e6), 0.9316)):
        raster = write_raster(
            noise(64, 64), crs=CRS.from_epsg(epsg), transform=Affine(1, 0, origin[0], 0, -1, origin[1])
        )
        result = segment(model, raster, tmp_path / "mask.tif")
        assert sum(c.area_m2 or 0 for c in result.classes) == pytest.approx(64 * 64 * stretch, rel=1e-3)
        assert not any("areas" in note for note in result.notes)


def test_a_raster_on_a_local_grid_has_no_areas_and_a_note(
    model: Backend, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    raster = write_raster(noise(64, 64), crs=CRS.from_wkt('LOCAL_CS["site grid",UNIT["metre",1]]'))
    result = segment(model, raster, tmp_path / "mask.tif")
    assert all(c.area_m2 is None for c in result.classes)
    assert any("areas are unknown" in note and "site grid" in note for note in result.notes)


def test_memory_does_not_grow_with_height(model: Backend, write_raster: Write, tmp_path: Path) -> None:
    import tracemalloc

    peaks, heights = [], (17000, 34000)  # a part is 15360 rows of this width
    for height in heights:
        raster = write_raster(np.full((3, height, 256), 9, np.uint8), name=f"{height}.tif")
        tracemalloc.start()  # numpy reports its arrays to it
        segment(model, raster, tmp_path / "mask.tif", Options(format="gtiff"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    held_whole = 3 * 256 * (heights[1] - heights[0])  # what holding the pixels alone would add
    assert peaks[1] - peaks[0] < 0.1 * held_whole


def test_a_rehearsals_model_says_so(write_raster: Write, noise: Noise, tmp_path: Path) -> None:
    manifest = pointwise_manifest(provenance={"training": {"rehearsal": True}})
    bundle = make_bundle(tmp_path / "b.rsedge", manifest, pointwise_graph(manifest))
    with open_model(bundle, threads=1) as model:
        result = segment(model, write_raster(noise(20, 20)), tmp_path / "mask.tif")
    assert any("rehearsal" in note for note in result.notes)
