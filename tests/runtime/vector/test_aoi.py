from __future__ import annotations

import importlib.util
import json
import os
import threading
import tracemalloc
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyogrio.raw
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.rpc import RPC
from rasterio.transform import Affine
from rasterio.warp import transform as transform_points

from rsedge.errors import BackendError, InputError
from rsedge.raster.areas import cropped_grid
from rsedge.raster.grid import Grid
from rsedge.tiling.window import Window
from rsedge.vector import fill
from rsedge.vector.aoi import Aoi, parse_bbox

UTM = CRS.from_epsg(32631)
GRID = Grid(40, 60, UTM, Affine(0.5, 0, 500000, 0, -0.5, 5400000))
TURNED = Grid(40, 60, UTM, Affine(0.4, 0.3, 500000, 0.3, -0.4, 5400000))
WHOLE = Window(0, 0, 40, 60)


def on_map(pixels: np.ndarray, grid: Grid) -> np.ndarray:
    t = grid.transform
    x, y = np.asarray(pixels, float).T
    return np.column_stack([t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f])


def geojson(path: Path, polygons: list[list[np.ndarray]], crs: str | None = "EPSG:32631") -> Path:
    features = [
        {
            "type": "Feature",
            "properties": {},
            "geometry": {"type": "Polygon", "coordinates": [np.asarray(r).tolist() for r in rings]},
        }
        for rings in polygons
    ]
    root: dict[str, object] = {"type": "FeatureCollection", "features": features}
    if crs:
        root["crs"] = {"type": "name", "properties": {"name": crs}}
    path.write_text(json.dumps(root))
    return path


def centres_inside(polygon: shapely.Geometry, grid: Grid) -> np.ndarray:
    rows, cols = np.mgrid[: grid.height, : grid.width] + 0.5
    return shapely.contains_xy(polygon, cols, rows)


# Odd 64ths: no edge runs through a pixel's centre, so no rule for ties is needed to compare.
coordinate = st.integers(-800, 4600).map(lambda n: (2 * n + 1) / 128)
triangles = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=3, unique=True)
windows = st.tuples(st.integers(0, 39), st.integers(0, 59), st.integers(1, 40), st.integers(1, 60)).map(
    lambda t: Window(t[0], t[1], min(t[2], 40 - t[0]), min(t[3], 60 - t[1]))
)


def closed(points: list[tuple[float, float]]) -> np.ndarray:
    return np.array([*points, points[0]])


@settings(max_examples=300, deadline=None)
@given(st.lists(triangles, min_size=1, max_size=3), windows)
def test_inside_is_by_centres_whatever_the_window(shapes: list, window: Window):
    aoi = Aoi(GRID, tuple((closed(s),) for s in shapes))
    polygons = [shapely.Polygon(s) for s in shapes]
    rows, cols = np.mgrid[:40, :60] + 0.5
    # Even-odd and shapely agree on triangles; what lies on a border to 1e-9 px is left out.
    sure = (
        shapely.distance(shapely.union_all([p.boundary for p in polygons]), shapely.points(cols, rows)) > 1e-9
    )
    expected = np.any([centres_inside(p, GRID) for p in polygons], axis=0)
    whole = aoi.inside(WHOLE)
    assert (whole == expected)[sure].all()
    part = aoi.inside(window)
    assert (part == whole[window.row : window.row_end, window.col : window.col_end]).all()
    if whole.any():
        assert aoi.touches(window) == part.any()
        extent = aoi.extent
        outside = whole.copy()
        outside[extent.row : extent.row_end, extent.col : extent.col_end] = False
        assert not outside.any()


@settings(max_examples=50, deadline=None)
@given(
    shapes=st.lists(triangles, min_size=1, max_size=6),
    window=windows,
    pixels=st.integers(1, 500),
    crossings=st.integers(1, 60),
)
def test_inside_does_not_depend_on_the_pieces(shapes: list, window: Window, pixels: int, crossings: int):
    area = Aoi(GRID, tuple((closed(points),) for points in shapes))
    expected = area.inside(window)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fill, "PIECE_PIXELS", pixels)
        patch.setattr(fill, "PIECE_CROSSINGS", crossings)
        np.testing.assert_array_equal(area.inside(window), expected)


def test_inside_takes_little_beside_its_result():
    grid = Grid(512, 20_000, UTM, Affine(0.5, 0, 500000, 0, -0.5, 5400000))
    angle = np.linspace(0, 2 * np.pi, 1000)
    ring = np.stack([10_000 + 9_000 * np.cos(angle), 256 + 300 * np.sin(angle)], 1)
    area, window = Aoi(grid, ((ring,),)), Window(0, 0, 512, 20_000)
    tracemalloc.start()
    found = area.inside(window)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * found.nbytes
    assert found.any()


def test_holes_are_outside_and_overlaps_count_once():
    def square(low: float, high: float) -> np.ndarray:
        return closed([(low, low), (high, low), (high, high), (low, high)])

    aoi = Aoi(GRID, ((square(2, 20), square(5, 10)), (square(8, 30),)))
    expected = np.zeros((40, 60), bool)
    expected[2:20, 2:20] = True
    expected[5:10, 5:10] = False
    expected[8:30, 8:30] = True
    assert (aoi.inside(WHOLE) == expected).all()
    assert aoi.extent == Window(2, 2, 28, 28)


def test_neighbours_share_no_pixel_on_a_common_border_through_centres():
    left = Aoi(GRID, ((closed([(3.5, 3.5), (9.5, 3.5), (9.5, 9.5), (3.5, 9.5)]),),)).inside(WHOLE)
    right = Aoi(GRID, ((closed([(9.5, 3.5), (12.5, 3.5), (12.5, 9.5), (9.5, 9.5)]),),)).inside(WHOLE)
    assert not (left & right).any()
    assert (left | right)[3:9, 3:12].all()
    assert np.count_nonzero(left | right) == 6 * 9


def test_a_box_in_the_rasters_crs():
    west, north = 500000 + 0.5 * 7, 5400000 - 0.5 * 4
    aoi = Aoi.from_bbox((west, north - 0.5 * 10, west + 0.5 * 20, north), GRID)
    assert aoi.extent == Window(4, 7, 10, 20)
    assert aoi.inside(aoi.extent).all()
    assert np.count_nonzero(aoi.inside(WHOLE)) == 200
    assert aoi.touches(Window(13, 26, 5, 5))
    assert not aoi.touches(Window(14, 0, 26, 60))
    assert Aoi.from_bbox((0, 0, 1e6, 1e7), GRID).extent == WHOLE


def test_a_box_on_a_rotated_grid():
    middle = on_map([(30, 20)], TURNED)[0]
    aoi = Aoi.from_bbox((*(middle - 3), *(middle + 3)), TURNED)
    rows, cols = np.mgrid[:40, :60] + 0.5
    centres = on_map(np.column_stack([cols.ravel(), rows.ravel()]), TURNED)
    expected = (np.abs(centres - middle) < 3).all(1).reshape(40, 60)
    clear = (np.abs(np.abs(centres - middle) - 3) > 0.01).all(1).reshape(40, 60)
    assert expected.sum() > 100
    assert (aoi.inside(WHOLE) == expected)[clear].all()


def test_a_box_in_another_crs_is_bent_as_the_projection_bends_it():
    grid = Grid(2000, 3000, CRS.from_epsg(3035), Affine(100, 0, 4.2e6, 0, -100, 3.2e6))
    west, south, east, north = box = (8.0, 50.2, 11.0, 51.4)
    aoi = Aoi.from_bbox(box, grid, "EPSG:4326")
    window = Window(0, 0, 2000, 3000)
    rows, cols = np.mgrid[:2000:7, :3000:7] + 0.5
    centres = on_map(np.column_stack([cols.ravel(), rows.ravel()]), grid)
    longitude, latitude = map(np.array, transform_points(grid.crs, "EPSG:4326", *centres.T.tolist()))
    expected = (longitude > west) & (longitude < east) & (latitude > south) & (latitude < north)
    # A tenth of a pixel: 10 m, about 1e-4 degrees.
    near = [
        np.abs(longitude - west),
        np.abs(longitude - east),
        np.abs(latitude - south),
        np.abs(latitude - north),
    ]
    clear = (np.array(near) > 2e-4).all(0)
    found = aoi.inside(window)[::7, ::7].ravel()
    assert 0.2 < expected.mean() < 0.8
    assert clear.mean() > 0.99
    assert (found == expected)[clear].all()
    assert len(aoi.polygons[0][0]) > 5  # four straight edges would be off by several pixels


@pytest.mark.parametrize(
    "box", [(-180, -90, 180, 90), (-180, -90, 180, 91), (2, 40, 10, 60), (-90, 0, 95, 85)]
)
def test_boxes_far_larger_than_the_raster_hold_it_all(box):
    assert Aoi.from_bbox(box, GRID, "EPSG:4326").inside(WHOLE).all()


def test_what_lies_far_off_does_not_fold_into_the_raster():
    """Transverse Mercator maps the far side of the Earth onto the near side."""
    with pytest.raises(InputError, match="do not overlap"):
        Aoi.from_bbox((170, -60, 180, 60), GRID, "EPSG:4326")
    hemisphere = Aoi.from_bbox((3.0001, -90, 183.0001, 90), GRID, "EPSG:4326").inside(WHOLE)
    column = (
        0.0001 * 73500 / 0.5
    )  # the central meridian is the left edge; a degree is 73.5 km at latitude 48.75
    assert (hemisphere == (np.arange(60) + 0.5 > column)[None]).all()


def test_geojson_is_in_longitudes_and_latitudes(tmp_path):
    ring = on_map(closed([(10, 5), (30, 5), (30, 25), (10, 25)]), GRID)
    lonlat = np.column_stack(transform_points(UTM, "EPSG:4326", *ring.T.tolist()))
    aoi = Aoi.from_file(geojson(tmp_path / "a.geojson", [[lonlat]], crs=None), GRID)
    named = Aoi.from_file(
        geojson(tmp_path / "b.geojson", [[lonlat]], crs="urn:ogc:def:crs:OGC:1.3:CRS84"), GRID
    )
    for found in (aoi, named):
        assert (found.inside(WHOLE)[5:25, 10:30]).all()
        assert np.count_nonzero(found.inside(WHOLE)) == 400
    geometry = {"type": "MultiPolygon", "coordinates": [[[[*p, 12.0] for p in lonlat.tolist()]]]}
    for name, root in (("c", geometry), ("d", {"type": "Feature", "geometry": geometry, "properties": None})):
        path = tmp_path / f"{name}.json"
        path.write_text("\ufeff" + json.dumps(root))
        assert Aoi.from_file(path, GRID).digest == aoi.digest


@pytest.mark.parametrize("name", ["a.gpkg", "a.shp", "a.fgb"])
def test_other_formats(tmp_path, name):
    holed = shapely.Polygon(
        on_map(closed([(10, 5), (30, 5), (30, 25), (10, 25)]), GRID),
        [on_map(closed([(15, 10), (20, 10), (20, 20)]), GRID)],
    )
    pyogrio.raw.write(
        tmp_path / name,
        np.array([shapely.to_wkb(holed)], object),
        [np.array([1])],
        ["id"],
        geometry_type="Polygon",
        crs="EPSG:32631",
    )
    aoi = Aoi.from_file(tmp_path / name, GRID)
    t = GRID.transform
    expected = rasterize([holed], (40, 60), transform=t) == 1
    found = aoi.inside(WHOLE)
    assert np.count_nonzero(found != expected) <= 10  # the hole's slope runs through centres
    assert found[12, 12]
    assert not found[11, 18]


def test_layers_are_chosen_by_name(tmp_path):
    path = tmp_path / "a.gpkg"
    for layer, size in (("small", 5), ("large", 20)):
        ring = on_map(closed([(0, 0), (size, 0), (size, size), (0, size)]), GRID)
        pyogrio.raw.write(
            path,
            np.array([shapely.to_wkb(shapely.Polygon(ring))], object),
            [np.array([1])],
            ["id"],
            layer=layer,
            geometry_type="Polygon",
            crs="EPSG:32631",
            driver="GPKG",
        )
    assert Aoi.from_file(path, GRID, "large").extent == Window(0, 0, 20, 20)
    with pytest.raises(InputError, match="layers small, large"):
        Aoi.from_file(path, GRID)
    with pytest.raises(InputError, match="no layer 'middle'. Choose one of small, large"):
        Aoi.from_file(path, GRID, "middle")


def test_the_digest_is_of_the_pixels(tmp_path):
    box = (500005.0, 5399990.0, 500015.0, 5399995.0)
    ring = np.array(
        [(box[0], box[1]), (box[2], box[1]), (box[2], box[3]), (box[0], box[3]), (box[0], box[1])]
    )
    aoi = Aoi.from_bbox(box, GRID)
    assert Aoi.from_file(geojson(tmp_path / "a.geojson", [[ring + 1e-6]]), GRID).digest == aoi.digest
    assert (
        Aoi.from_file(geojson(tmp_path / "b.geojson", [[ring[:-1]]]), GRID).digest == aoi.digest
    )  # not closed
    assert Aoi.from_file(geojson(tmp_path / "c.geojson", [[ring + 0.5]]), GRID).digest != aoi.digest
    assert Aoi.from_bbox(box, Grid(41, 60, UTM, GRID.transform)).digest != aoi.digest


@pytest.mark.parametrize("text", ["1,2,3", "a,2,3,4", "3,2,1,4", "1,4,3,2", "1,2,nan,4", "1,2,1,4", ""])
def test_boxes_that_are_none(text):
    with pytest.raises(InputError, match="box"):
        parse_bbox(text)


def test_a_box_is_parsed():
    assert parse_bbox("-1.5, 2,3e2,4") == (-1.5, 2, 300, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as GeoJSON"),
        ("[]", "is not GeoJSON"),
        ('{"type": "FeatureCollection", "features": []}', "holds no polygon"),
        ('{"type": "Feature", "geometry": null}', "holds no polygon"),
        ('{"type": "Point", "coordinates": [3, 48]}', "feature 1 is a Point"),
        ('{"type": "Polygon", "coordinates": [[[3, 48], [4, 48]]]}', "2 positions"),
        ('{"type": "Polygon", "coordinates": [[[3, 48], [4, "x"], [5, 6]]]}', "not a list of positions"),
        ('{"type": "Polygon", "coordinates": [3]}', "not a list of positions"),
        ('{"type": "Polygon", "crs": null, "coordinates": []}', "without a name"),
        (
            '{"type": "Polygon", "crs": {"properties": {"name": "EPSG:99999"}}, "coordinates": [[[0,0],[1,0],[1,1]]]}',
            "EPSG:99999",
        ),
        (
            '{"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1]]]}',
            "500000, 5399980, 500030, 5400000",
        ),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1]]]}', "spans 0, 0, 1, 1 in EPSG:4326"),
    ],
)
def test_files_that_cannot_be(tmp_path, text, message):
    path = tmp_path / "a.geojson"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        Aoi.from_file(path, GRID)


def test_other_errors(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="none.geojson not found"):
        Aoi.from_file(tmp_path / "none.geojson", GRID)
    with pytest.raises(InputError, match="no layers. Leave out"):
        Aoi.from_file(geojson(tmp_path / "a.geojson", []), GRID, "x")
    with pytest.raises(InputError, match="the box contains no pixel's centre. Make"):
        Aoi.from_bbox((500000.01, 5399999.99, 500000.02, 5399999.995), GRID)  # between centres
    with pytest.raises(InputError, match="EPSG:99999"):
        Aoi.from_bbox((0, 0, 1, 1), GRID, "EPSG:99999")
    with pytest.raises(InputError, match="no CRS"):
        Aoi.from_bbox((0, 0, 1, 1), Grid(40, 60))
    with pytest.raises(InputError, match="gdalwarp"):
        Aoi.from_bbox((0, 0, 1, 1), Grid(40, 60, UTM, gcps=(GroundControlPoint(0, 0, 2.0, 48.0),)))
    text = tmp_path / "a.gpkg"
    text.write_text("no database")
    with pytest.raises(InputError, match="cannot be read as a vector file"):
        Aoi.from_file(text, GRID)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "pyogrio" else find(n))
    with pytest.raises(BackendError, match=r'pip install "rsedge\[polygons\]"'):
        Aoi.from_file(text, GRID)


@given(windows, st.tuples(st.integers(0, 50), st.integers(0, 50)))
def test_a_cropped_grid_keeps_every_pixel_where_it_was(window: Window, at: tuple[int, int]):
    for grid in (GRID, TURNED):
        crop = cropped_grid(grid, window)
        assert (crop.height, crop.width, crop.crs) == (window.height, window.width, UTM)
        np.testing.assert_allclose(
            on_map([at], crop), on_map([(at[0] + window.col, at[1] + window.row)], grid), rtol=0, atol=4e-9
        )


def test_control_points_and_rpcs_are_shifted():
    rpc = RPC(0, 1, 2, 3, [1.0], [2.0], 500, 600, 4, 5, [3.0], [4.0], 700, 800)
    point = GroundControlPoint(10, 20, 2.0, 48.0, 7.0, "a", "corner")
    crop = cropped_grid(Grid(40, 60, UTM, gcps=(point,), rpcs=rpc), Window(3, 8, 10, 11))
    found = crop.gcps[0]
    assert (found.row, found.col, found.x, found.y, found.z, found.id, found.info) == (
        7,
        12,
        2,
        48,
        7,
        "a",
        "corner",
    )
    assert (crop.rpcs.line_off, crop.rpcs.samp_off) == (497, 692)
    assert (rpc.line_off, rpc.samp_off, crop.rpcs.line_scale) == (500, 700, 600)
    assert crop.transform.is_identity
    with pytest.raises(InputError, match="exceeds a raster"):
        cropped_grid(GRID, Window(30, 0, 11, 5))


def zigzag(rows: int, width: int, teeth: int) -> np.ndarray:
    """Return a ring of which every edge crosses all rows."""
    across = np.linspace(1, width - 1, 2 * teeth + 1)
    down = np.where(np.arange(len(across)) % 2, rows - 0.3, 0.3)
    return closed([*zip(across, down, strict=True), (width - 1, -5.0), (1.0, -5.0)])


def test_edges_that_cross_every_row_take_little_memory():
    grid = Grid(4000, 3000, UTM, Affine(0.5, 0, 500000, 0, -0.5, 5400000))
    area, window = Aoi(grid, ((zigzag(4000, 3000, 3000),),)), Window(1000, 0, 512, 3000)
    area.inside(Window(0, 0, 1, 1))
    tracemalloc.start()
    found = area.inside(window)
    peak_bytes = tracemalloc.get_traced_memory()[1] - found.nbytes
    tracemalloc.stop()
    assert peak_bytes < area.filling_bytes < 12 << 20
    expected = area.inside(Window(1200, 0, 3, 3000))
    np.testing.assert_array_equal(found[200:203], expected)
    assert 0.3 < found.mean() < 0.7


def test_a_citys_buildings_are_found_by_their_rows(tmp_path):
    """Work grows with the polygons in reach, counted in edges visited, independent of the machine's speed."""
    grid, count = Grid(20_000, 20_000, UTM, Affine(0.5, 0, 500000, 0, -0.5, 5400000)), 20_000
    rng = np.random.default_rng(1)
    at = rng.integers(0, 19_980, (count, 2)) + 0.25
    squares = [[closed([(x, y), (x + 9, y), (x + 9, y + 9), (x, y + 9)])] for x, y in at]
    lonlat = [
        np.column_stack(transform_points(UTM, "EPSG:4326", *on_map(s, grid).T.tolist())) for (s,) in squares
    ]
    area = Aoi.from_file(geojson(tmp_path / "city.geojson", [[ring] for ring in lonlat], crs=None), grid)
    window = Window(7000, 3000, 200, 9000)
    expected = np.zeros((200, 9000), bool)
    for x, y in at - 0.25:
        top, left = int(y) - 7000, int(x) - 3000
        expected[max(top, 0) : max(top + 9, 0), max(left, 0) : max(left + 9, 0)] = True
    found = area.inside(window)
    assert np.count_nonzero(found != expected) <= found.size * 1e-4  # where PROJ's way back is off
    edges = area._edges
    assert np.searchsorted(edges.tops, 7200) - np.searchsorted(edges.bottoms, 7000, side="right") < count / 50


@pytest.mark.parametrize(
    "name",
    [
        "http://127.0.0.1:9/crs.wkt",
        "/etc/passwd",
        "a.prj",
        "ftp://x/y",
        "{x",
        "+init=/etc/x:y",
        "SRS from a friend",
    ],
)
def test_a_crs_is_a_text_and_no_address(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.prj").write_text(UTM.to_wkt())
    asked = []
    stub = SimpleNamespace(from_user_input=lambda text: asked.append(text) or CRS.from_user_input(text))
    monkeypatch.setattr("rsedge.raster.areas.CRS", stub)
    ring = closed([(0, 0), (1, 0), (1, 1)])
    with pytest.raises(InputError, match="CRS"):
        Aoi.from_file(geojson(tmp_path / "a.geojson", [[ring]], crs=name), GRID)
    assert asked in ([], ["{x"])


@pytest.mark.parametrize(
    "name",
    [
        "EPSG:32631", "urn:ogc:def:crs:EPSG::32631", "+proj=utm +zone=31 +datum=WGS84", UTM.to_wkt(),
        "http://www.opengis.net/def/crs/EPSG/0/32631", json.dumps(UTM.to_dict(projjson=True)),
    ],
)  # fmt: skip
def test_ways_to_write_a_crs(tmp_path, name):
    ring = on_map(closed([(0, 0), (20, 0), (20, 20), (0, 20)]), GRID)
    area = Aoi.from_file(geojson(tmp_path / "a.geojson", [[ring]], crs=name), GRID)
    assert area.extent == Window(0, 0, 20, 20)


@pytest.mark.parametrize(
    "coordinates", ["5", "[5]", "[[5]]", '"x"', "[[[0, 0], [1, 0], [1e400, 1]]]", f"[[[0, 0], [{10**400}, 0], [1, 1]]]",
                    "[" * 100_000],
)  # fmt: skip
def test_coordinates_that_are_none(tmp_path, coordinates):
    (path := tmp_path / "a.json").write_text(f'{{"type": "Polygon", "coordinates": {coordinates}}}')
    with pytest.raises(InputError):
        Aoi.from_file(path, GRID)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "cannot be read as GeoJSON"),
        ('{"type": "Polygon", "a": ' + "[" * 150 + "]" * 150 + "}", "nested deeper"),
        ('{"type": "Polygon", "coordinates": [[[NaN, 0], [1, 0], [1, 1]]]}', "an invalid ring of"),
        ('{"type": [], "coordinates": []}', "is a \\[\\]"),
        ('{"type": "Polygon", "crs": {"properties": {"name": "EPSG:32631"}}, "coordinates": [[[0, 0], [1e308, 0], '
         "[1, 1]]]}", "coordinates overflow"),
        (" " * 2000, "at most 1000 are allowed"),
    ],
    ids=["endless", "deep", "nan", "type", "far", "large"],
)  # fmt: skip
def test_json_of_every_kind_is_an_input_error(tmp_path, monkeypatch, text, said):
    if text.isspace():
        monkeypatch.setattr("rsedge.vector.aoi.MOST_JSON_BYTES", 1000)
    (path := tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=said):
        Aoi.from_file(path, GRID)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(path := tmp_path / "a.json")
    with pytest.raises(InputError, match="not found. Check the path"):
        Aoi.from_file(path, GRID)


@pytest.fixture
def server():
    """A web server that records its requests."""
    asked = []

    class Asked(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_):
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Asked) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}", asked
        running.shutdown()
        thread.join()


LAYER = "<OGRVRTDataSource><OGRVRTLayer name='x'><SrcDataSource>{}</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>"


@pytest.mark.parametrize("name", ["a.gpkg", "a.shp", "a.vrt", "a.json5", "a.zip"])
@pytest.mark.parametrize(
    "text",
    [
        LAYER.format("/vsicurl/URL/x.geojson"),
        LAYER.format("/vsigzip//vsicurl/URL/x.gz"),
        "\n<!-- -->" + LAYER.format("URL/x.json"),
        '{"type": "FeatureCollection", "features": [], "crs": {"type": "url", "properties": {"url": "URL/crs"}}}',
    ],
)
def test_an_area_of_interest_asks_nobody(tmp_path, monkeypatch, server, name, text):
    url, asked = server
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    path, text = tmp_path / name, text.replace("URL", url)
    if name.endswith(".zip"):
        if text.startswith("{"):
            pytest.skip("GDAL's reader of JSON knows no setting that keeps it from a CRS's address")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.vrt", text.replace("URL/x.json", "/vsicurl/URL/x"))
    else:
        path.write_text(text)
    if name.endswith(".zip") and "vsi" not in text:
        pytest.skip("only the command leaves the driver out")
    with pytest.raises(InputError):
        Aoi.from_file(path, GRID)
    assert asked == []
