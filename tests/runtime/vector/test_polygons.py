from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyogrio
import pyogrio.raw
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.features import rasterize, shapes
from rasterio.transform import Affine

from rsedge.errors import BackendError, InputError, OutputError
from rsedge.model.manifest import NODATA
from rsedge.raster.grid import Grid, unreferenced_allowed
from rsedge.tiling.window import Window
from rsedge.vector.outlines import Areas, Minimum, OutlineTracer
from rsedge.vector.polygons import check_polygons_possible, write_polygons
from rsedge.vector.rings import Rings
from toys import CLASSES

UTM = CRS.from_epsg(32631)
HALF_METRE = Affine(0.5, 0, 500000, 0, -0.5, 5400000)
MANY = 10**9

masks = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 0, 1, 2, NODATA]))
)


def traced(mask: np.ndarray, strip_rows: int, most: int = MANY, grid: Grid | None = None, **minimum: float):
    tracer = OutlineTracer(grid or Grid(*mask.shape), strip_rows, most, Minimum(**minimum))
    found = list(tracer.run(mask[r : r + strip_rows] for r in range(0, len(mask), strip_rows)))
    return found, tracer


def polygons_of(areas: Areas) -> list[tuple[int, shapely.Polygon]]:
    """Outer ring first, as they come: built by shapely one by one."""
    rings, found = areas.rings, []
    for i, value in enumerate(areas.value):
        mine = [rings.xy[rings.starts[k] : rings.starts[k + 1]] for k in np.flatnonzero(rings.owner == i)]
        found.append((int(value), shapely.Polygon(mine[0], mine[1:])))
    return found


def alike(polygons: list[tuple[int, shapely.Polygon]]) -> list[tuple[int, str]]:
    return sorted((v, shapely.normalize(p).wkt) for v, p in polygons)


def by_gdal(mask: np.ndarray) -> list[tuple[int, shapely.Polygon]]:
    found = shapes(mask, mask=mask != NODATA, connectivity=4)
    return [(int(v), shapely.Polygon(g["coordinates"][0], g["coordinates"][1:])) for g, v in found]


@settings(max_examples=400, deadline=None)
@given(masks, st.integers(1, 12))
def test_strips_give_the_polygons_of_the_whole_mask(mask: np.ndarray, strip_rows: int):
    found, tracer = traced(mask, strip_rows)
    polygons = [p for areas in found for p in polygons_of(areas)]
    assert all(p.is_valid for _, p in polygons)
    assert alike(polygons) == alike(by_gdal(mask))
    assert (tracer.cut, tracer.dropped) == (0, 0)


@settings(max_examples=200, deadline=None)
@given(masks, st.integers(1, 5), st.integers(0, 30))
def test_cut_areas_still_cover_the_mask_once(mask: np.ndarray, strip_rows: int, most: int):
    found, tracer = traced(mask, strip_rows, most, pixels=3)
    back, covered = np.full(mask.shape, NODATA, np.uint8), np.zeros(mask.shape, np.int64)
    for value, polygon in (p for areas in found for p in polygons_of(areas)):
        assert polygon.is_valid
        pixels = rasterize([polygon], mask.shape) == 1
        back[pixels] = value
        covered += pixels
    assert covered.max() <= 1
    assert (back[covered == 1] == mask[covered == 1]).all()
    # Only whole areas that are small may be missing: a cut never makes one disappear.
    missing = (mask != NODATA) & (covered == 0)
    inside = [rasterize([p], mask.shape) == 1 for _, p in by_gdal(mask)]
    gone = [pixels for pixels in inside if missing[pixels].all()]
    assert all(pixels.sum() < 3 for pixels in gone)
    assert sum(pixels.sum() for pixels in gone) == missing.sum()
    assert tracer.dropped == len(gone)
    if not tracer.cut:
        assert len(gone) == sum(pixels.sum() < 3 for pixels in inside)


UTM_SCALE = 0.9996  # of lengths on its meridian, where these rasters lie
PLACES = {
    "degrees": ("EPSG:4326", Affine(0.01, 0, 5, 0, -0.02, 60)),
    "polar": ("EPSG:3413", Affine(60000, 0, -900000, 0, -60000, -900000)),
    "turned": ("EPSG:4326", Affine(0.01, 0.02, 5, 0.02, -0.01, 60)),
    "UTM": ("EPSG:32632", Affine(0.5, 0, 500000, 0, -0.5, 5e6)),
}


@settings(max_examples=100, deadline=None)
@given(masks, st.integers(1, 12), st.sampled_from(sorted(PLACES)))
def test_areas_are_the_sums_of_the_pixels_areas(mask: np.ndarray, strip_rows: int, place: str):
    crs, transform = PLACES[place]
    grid = Grid(*mask.shape, CRS.from_user_input(crs), transform)
    ground = grid.pixel_areas()
    assert ground is not None
    pixel_m2 = ground.of(Window(0, 0, *mask.shape))
    found, _ = traced(mask, strip_rows, grid=grid)
    for areas in found:
        for (_, polygon), pixels, area in zip(polygons_of(areas), areas.pixels, areas.area_m2, strict=True):
            inside = rasterize([polygon], mask.shape) == 1
            assert pixels == np.count_nonzero(inside)
            # Between nodes and at them areas are the mean of a pixel, not the one of its centre.
            assert area == pytest.approx((inside * pixel_m2).sum(), rel=1e-9 if place == "degrees" else 1e-4)


def test_a_large_noisy_mask_in_strips_is_the_whole_one():
    rng = np.random.default_rng(3)
    mask = (rng.random((150, 170)) < 0.6).astype(np.uint8)  # about where one area runs through everything
    found, _ = traced(mask, 7)
    polygons = [p for areas in found for p in polygons_of(areas)]
    assert max(p.area for _, p in polygons) > 5000
    assert alike(polygons) == alike(by_gdal(mask))


def test_open_areas_stay_below_the_cap():
    mask = np.zeros((200, 40), np.uint8)
    mask[:, ::2] = np.arange(200)[:, None] // 3 % 2  # teeth: many vertices a row
    found, tracer = traced(mask, 10, most=150)
    assert tracer.cut > 3
    assert max(len(a.rings.xy) for a in found) < 1500
    assert sum(int(a.pixels.sum()) for a in found) == mask.size


def test_rings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="1 owners"):
        Rings(np.zeros((4, 2), np.int32), np.array([0, 3]), np.array([0]))


# --- files


@pytest.fixture
def mask_file(write_raster):
    def write(mask: np.ndarray, **profile: object) -> Path:
        return write_raster(mask[None], "mask.tif", **{"nodata": NODATA, **profile})

    return write


@pytest.fixture
def small() -> np.ndarray:
    mask = np.zeros((20, 30), np.uint8)
    mask[5:9, 4:20] = 1
    mask[6:8, 6:8] = 2
    mask[15:, 25:] = NODATA
    return mask


def contents(path: Path):
    meta, _, wkb, columns = pyogrio.raw.read(path, layer="landcover")
    return meta, shapely.from_wkb(wkb), dict(zip(meta["fields"].tolist(), columns, strict=True))


def test_a_geopackage_of_polygons(mask_file, small, tmp_path):
    seen: list[tuple[int, int]] = []
    out = tmp_path / "out.gpkg"
    summary = write_polygons(
        mask_file(small), out, CLASSES, strip_rows=7, progress=lambda done, of: seen.append((done, of))
    )
    meta, geometry, columns = contents(out)
    assert (summary.polygons, summary.dropped, summary.cut, summary.notes) == (3, 0, 0, ())
    assert seen == [(7, 20), (14, 20), (20, 20)]
    assert CRS.from_user_input(meta["crs"]) == UTM
    assert meta["geometry_type"] == "Polygon"
    expected = [
        (v, shapely.transform(p, lambda xy: xy * (0.5, -0.5) + (500000, 5400000))) for v, p in by_gdal(small)
    ]
    found = list(zip(columns["class_id"].tolist(), geometry, strict=True))
    assert alike(found) == alike(expected)
    assert [CLASSES[i].name for i in columns["class_id"]] == columns["class"].tolist()
    np.testing.assert_allclose(columns["area_m2"], shapely.area(geometry) / UTM_SCALE**2, rtol=1e-5)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["mask.tif", "out.gpkg"]


@pytest.mark.parametrize(
    ("minimum", "left"),
    [({"min_pixels": 5}, [0, 1]), ({"min_area_m2": 15.1}, [0]), ({"min_area_m2": 15}, [0, 1])],
)
def test_small_areas_are_dropped(mask_file, small, tmp_path, minimum, left):
    summary = write_polygons(mask_file(small), tmp_path / "out.gpkg", CLASSES, strip_rows=2, **minimum)
    _, _, columns = contents(tmp_path / "out.gpkg")
    assert sorted(columns["class_id"].tolist()) == left
    assert (summary.polygons, summary.dropped) == (len(left), 3 - len(left))


def test_rotated_grids(mask_file, small, tmp_path):
    turned = Affine(0.4, 0.3, 500000, 0.3, -0.4, 5400000)
    write_polygons(mask_file(small, transform=turned), tmp_path / "out.gpkg", CLASSES)
    _, geometry, columns = contents(tmp_path / "out.gpkg")
    ring = shapely.get_coordinates(geometry[columns["class_id"] == 2])
    corners = {
        (turned.a * c + turned.b * r + turned.c, turned.d * c + turned.e * r + turned.f)
        for c in (6, 8)
        for r in (6, 8)
    }
    assert {tuple(np.round(p, 6)) for p in ring} == {tuple(np.round(p, 6)) for p in corners}
    np.testing.assert_allclose(columns["area_m2"], shapely.area(geometry) / UTM_SCALE**2, rtol=1e-5)


def test_without_georeference_coordinates_are_pixels(mask_file, small, tmp_path):
    with unreferenced_allowed():
        mask = mask_file(small, crs=None, transform=None)
    summary = write_polygons(mask, tmp_path / "out.gpkg", CLASSES, min_pixels=5)
    meta, geometry, columns = contents(tmp_path / "out.gpkg")
    assert meta["crs"] is None or "EPSG" not in meta["crs"]
    assert geometry[columns["class_id"] == 1][0].bounds == (4, 5, 20, 9)
    assert np.isnan(columns["area_m2"]).all()
    assert "pixels" in summary.notes[0]
    with pytest.raises(InputError, match="minimum in pixels"):
        write_polygons(mask, tmp_path / "out.gpkg", CLASSES, min_area_m2=5)


def test_a_cut_is_told(mask_file, tmp_path):
    summary = write_polygons(
        mask_file(np.zeros((20, 30), np.uint8)),
        tmp_path / "out.gpkg",
        CLASSES,
        strip_rows=5,
        most_open_vertices=3,
        min_pixels=500,
    )
    assert (summary.polygons, summary.cut, summary.dropped) == (4, 3, 0)
    assert "3 times" in summary.notes[0]


def test_nodata_alone_gives_an_empty_layer(mask_file, tmp_path):
    out = tmp_path / "out.gpkg"
    assert write_polygons(mask_file(np.full((5, 5), NODATA, np.uint8)), out, CLASSES).polygons == 0
    assert pyogrio.read_info(out, layer="landcover")["features"] == 0
    assert write_polygons(mask_file(np.zeros((5, 5), np.uint8)), out, CLASSES).polygons == 1  # ours: replaced


def test_somebody_elses_file_is_kept(mask_file, small, tmp_path):
    out = tmp_path / "out.gpkg"
    point = np.array([shapely.to_wkb(shapely.Point(1, 2))], object)
    pyogrio.raw.write(
        out,
        point,
        [np.array([1])],
        ["id"],
        layer="trees",
        driver="GPKG",
        geometry_type="Point",
        crs="EPSG:4326",
    )
    before = out.read_bytes()
    with pytest.raises(InputError, match="was not written by rsedge"):
        write_polygons(mask_file(small), out, CLASSES)
    assert out.read_bytes() == before
    assert write_polygons(mask_file(small), out, CLASSES, overwrite=True).polygons == 3
    assert pyogrio.list_layers(out)[:, 0].tolist() == ["landcover"]
    text = tmp_path / "notes.gpkg"
    text.write_text("not a database")
    with pytest.raises(InputError, match="was not written by rsedge"):
        check_polygons_possible(text, Grid(5, 5))


def test_a_failed_run_leaves_what_stood_there(mask_file, small, tmp_path, monkeypatch):
    out = tmp_path / "out.gpkg"
    write_polygons(mask_file(small), out, CLASSES)
    before = out.read_bytes()
    bad = small.copy()
    bad[19, 0] = 7
    with pytest.raises(InputError, match="value 7"):
        write_polygons(mask_file(bad), out, CLASSES, strip_rows=4)

    def full(*_: object, **__: object) -> None:
        raise pyogrio.errors.DataSourceError("disk full")

    monkeypatch.setattr(pyogrio.raw, "write", full)
    with pytest.raises(OutputError, match="disk full"):
        write_polygons(mask_file(small), out, CLASSES)
    assert out.read_bytes() == before
    assert sorted(f.name for f in tmp_path.iterdir()) == ["mask.tif", "out.gpkg"]


def test_what_cannot_be_is_said_early(mask_file, small, tmp_path, monkeypatch, write_raster):
    grid = Grid(20, 30, UTM, HALF_METRE)
    with pytest.raises(InputError, match=r"\.gpkg"):
        check_polygons_possible(tmp_path / "out.geojson", grid)
    with pytest.raises(InputError, match="does not exist"):
        check_polygons_possible(tmp_path / "nowhere/out.gpkg", grid)
    points = (GroundControlPoint(0, 0, 2.0, 48.0),)
    with pytest.raises(InputError, match="gdalwarp"):
        check_polygons_possible(tmp_path / "out.gpkg", Grid(20, 30, UTM, gcps=points))
    with pytest.raises(InputError, match="0 or more"):
        Minimum(area_m2=-1)
    with pytest.raises(InputError, match="one band of uint8"):
        rgb = write_raster(np.zeros((3, 8, 8), np.uint8), "rgb.tif")
        write_polygons(rgb, tmp_path / "out.gpkg", CLASSES)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "shapely" else find(n))
    with pytest.raises(BackendError, match=r'shapely. Install with: pip install "rsedge\[polygons\]"'):
        check_polygons_possible(tmp_path / "out.gpkg", grid)


def test_nothing_is_said_of_drivers_that_this_gdal_does_not_have(tmp_path: Path) -> None:
    code = (
        "from rsedge.gdal_settings import restrict_process; restrict_process()\n"
        "from rsedge.vector.file import _import_pyogrio; print(len(_import_pyogrio().list_drivers()))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) > 5
    assert done.stderr == ""
