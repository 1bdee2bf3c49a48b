"""Ground areas against an independent method: Green's theorem in longitude and latitude, on the ellipsoid."""

import json
import math
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform as transform_points

from rsedge.infer.part_sink import count_classes
from rsedge.raster import Grid
from rsedge.raster.ground import PixelAreas, pixel_areas
from rsedge.tiling.window import Window

WGS84 = 6378137.0, 298.257223563
EARTH_M2 = 5.10065621724e14  # of WGS 84, as published
KM_UNITS = (
    'PROJCRS["x",BASEGEOGCRS["WGS 84",DATUM["World Geodetic System 1984",ELLIPSOID["WGS 84",6378137,298.257223563]]],'
    'CONVERSION["c",METHOD["Transverse Mercator"],PARAMETER["Latitude of natural origin",0],'
    'PARAMETER["Longitude of natural origin",9],PARAMETER["Scale factor at natural origin",0.9996],'
    'PARAMETER["False easting",500,LENGTHUNIT["kilometre",1000]],PARAMETER["False northing",0]],CS[Cartesian,2],'
    'AXIS["easting",east],AXIS["northing",north],LENGTHUNIT["kilometre",1000]]'
)
LOCAL = 'LOCAL_CS["site grid",UNIT["metre",1]]'
# CRS, transform, height, width, ellipsoid of the CRS
PLACES = {
    "degrees": ("EPSG:4326", Affine(1e-5, 0, 25, 0, -1e-5, 60.2), 400, 500, WGS84),
    "degrees, three axes": ("EPSG:4979", Affine(1e-5, 0, 25, 0, -1e-5, 60.2), 400, 500, WGS84),
    "degrees, turned": ("EPSG:4326", Affine(1e-3, 5e-4, 25, 5e-4, -1e-3, 60.2), 400, 500, WGS84),
    "degrees, south up": ("EPSG:4326", Affine(1e-3, 0, 25, 0, 1e-3, -60.2), 400, 500, WGS84),
    "plate carree": ("EPSG:4087", Affine(1, 0, 2782987, 0, -1, 6701400), 400, 500, WGS84),
    "Web Mercator": ("EPSG:3857", Affine(1, 0, 2.7e6, 0, -1, 8.4e6), 400, 500, WGS84),
    "Web Mercator, continent": ("EPSG:3857", Affine(2000, 0, 0, 0, -2000, 1.2e7), 5000, 2000, WGS84),
    "Web Mercator, turned": ("EPSG:3857", Affine(30, 40, 2.7e6, 40, -30, 8.4e6), 4000, 500, WGS84),
    "Mercator": ("EPSG:3395", Affine(10, 0, 2.7e6, 0, -10, 8.4e6), 4000, 500, WGS84),
    "UTM": ("EPSG:32632", Affine(0.5, 0, 500000, 0, -0.5, 5e6), 400, 500, WGS84),
    "UTM, Sentinel's tile": ("EPSG:32633", Affine(10, 0, 300000, 0, -10, 5e6), 10980, 10980, WGS84),
    "UTM, far from its meridian": ("EPSG:32632", Affine(0.5, 0, 1.4e6, 0, -0.5, 5e6), 400, 500, WGS84),
    "UTM, turned": ("EPSG:32632", Affine(0.3, 0.4, 500000, 0.4, -0.3, 5e6), 400, 500, WGS84),
    "UTM, oblong": ("EPSG:32632", Affine(0.5, 0, 500000, 0, -2.0, 5e6), 400, 500, WGS84),
    "UTM, centimetres": ("EPSG:32632", Affine(0.01, 0, 300000, 0, -0.01, 5e6), 60, 90, WGS84),
    "UTM with heights": ("EPSG:32632+5773", Affine(0.5, 0, 500000, 0, -0.5, 5e6), 400, 500, WGS84),
    "UTM at the antimeridian": ("EPSG:32601", Affine(10, 0, 100000, 0, -10, 6e6), 4000, 4000, WGS84),
    "kilometres": (KM_UNITS, Affine(5e-4, 0, 500, 0, -5e-4, 5000), 400, 500, WGS84),
    "Lambert conformal": ("EPSG:2154", Affine(100, 0, 1e5, 0, -100, 7.1e6), 9000, 9000, (6378137, 298.257222101)),
    "Lambert equal-area": ("EPSG:3035", Affine(1e3, 0, 2.5e6, 0, -1e3, 5e6), 3000, 3000, (6378137, 298.257222101)),
    "grads of Paris": ("EPSG:27572", Affine(10, 0, 6e5, 0, -10, 2.2e6), 500, 500, (6378249.2, 293.466021293627)),
    "polar, 60 N": ("EPSG:3413", Affine(10, 0, 5e5, 0, -10, -3.2e6), 400, 500, WGS84),
    "polar, the Arctic": ("EPSG:3413", Affine(5e3, 0, -4e6, 0, -5e3, 4e6), 1600, 1600, WGS84),
    "polar, the Antarctic": ("EPSG:3031", Affine(25e3, 0, -3.95e6, 0, -25e3, 4.35e6), 332, 316, WGS84),
    "US feet": ("EPSG:3734", Affine(1 / 3, 0, 2.2e6, 0, -1 / 3, 650000), 400, 500, (6378137, 298.257222101)),
    "feet": ("EPSG:2223", Affine(1, 0, 7e5, 0, -1, 9e5), 400, 500, (6378137, 298.257222101)),
    "Clarke's feet": ("EPSG:2314", Affine(1, 0, 283800, 0, -1, 214500), 400, 500, (6378293.645, 294.260676369)),
    "to another datum": (
        "+proj=tmerc +lat_0=0 +lon_0=9 +k=1 +x_0=3500000 +y_0=0 +ellps=bessel "
        "+towgs84=598.1,73.7,418.2,0.202,0.045,-2.455,6.7 +units=m",
        Affine(1, 0, 3.6e6, 0, -1, 5.5e6), 500, 500, (6377397.155, 299.1528128),
    ),
    "oblique": ("EPSG:5514", Affine(10, 0, -7e5, 0, -10, -1.1e6), 500, 500, (6377397.155, 299.1528128)),
    "the Moon": ("IAU_2015:30110", Affine(100, 0, 25, 0, -100, 2e6), 400, 500, (1737400.0, math.inf)),
}  # fmt: skip


def strip_m2(latitude: np.ndarray, axis_m: float, inverse_f: float) -> np.ndarray:
    """Return the area from the equator to latitudes (radians), one radian wide: M N cos integrated by Gauss's rule."""
    f = 1 / inverse_f
    e2 = f * (2 - f)
    at, weight = np.polynomial.legendre.leggauss(12)
    inner = latitude[:, None] / 2 * (at + 1)
    density = np.cos(inner) / (1 - e2 * np.sin(inner) ** 2) ** 2
    return axis_m**2 * (1 - e2) * (density * weight).sum(1) * latitude / 2


def true_m2(crs: str, t: Affine, window: Window, ellipsoid: tuple[float, float], scale: float = 1.0) -> float:
    """Return the ground area inside a window's outline, without a pole. ``scale``: enlargement of the window."""
    along = np.linspace(0, 1, 200, endpoint=False)
    ones = np.ones(200)
    u, v = (
        np.concatenate([along, ones, 1 - along, 0 * ones]),
        np.concatenate([0 * ones, along, ones, 1 - along]),
    )
    col = window.col + window.width * (0.5 + scale * (u - 0.5))
    row = window.row + window.height * (0.5 + scale * (v - 0.5))
    x, y = t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f
    own = CRS.from_user_input(crs)
    facts = own.to_dict(projjson=True)
    while "base_crs" in facts or "components" in facts or "source_crs" in facts:
        facts = facts.get("base_crs") or facts.get("source_crs") or facts["components"][0]
    base = CRS.from_user_input(json.dumps(facts))
    unit = base.units_factor[1]
    if own.is_projected:
        x, y = transform_points(own, base, x.tolist(), y.tolist())
    longitude, latitude = np.unwrap(np.array(x) * unit), np.array(y) * unit
    area = strip_m2(latitude, *ellipsoid)
    ring = np.append(longitude, longitude[0])
    assert abs(np.unwrap(ring)[-1] - longitude[0]) < 1  # not around a pole
    middle = (area + np.roll(area, -1)) / 2
    return abs(float((middle * np.diff(ring)).sum())) / scale**2


def parts_of(height: int, width: int, side: int) -> list[Window]:
    """Return windows in the corners and between them."""
    rows = sorted({0, height // 3, height - min(side, height)})
    cols = sorted({0, width // 4, width - min(side, width)})
    return [Window(r, c, min(side, height), min(side, width)) for r in rows for c in cols]


def areas_of(place: str) -> PixelAreas:
    crs, t, height, width, _ = PLACES[place]
    areas = pixel_areas(CRS.from_user_input(crs), t, height, width)
    assert areas is not None
    return areas


@pytest.mark.parametrize("place", PLACES)
def test_areas_are_the_ellipsoids(place: str):
    crs, t, height, width, ellipsoid = PLACES[place]
    areas = areas_of(place)
    # What is centimetres long goes through a projection's rounding; blown up it does not.
    tiny = abs(t.determinant) < 1e-3 and CRS.from_user_input(crs).is_projected
    for window in parts_of(height, width, 20):
        truth = true_m2(crs, t, window, ellipsoid, 50.0 if tiny and place != "kilometres" else 1.0)
        assert areas.of(window).sum() == pytest.approx(truth, rel=3e-4), window


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["EPSG:32632", "EPSG:3413", "EPSG:3857", "EPSG:4087", "EPSG:3034"]),
    st.floats(-8, 28),
    st.floats(48, 71),
    st.floats(0.3, 3000),
    st.floats(0, 360),
    st.integers(1, 700),
    st.integers(1, 700),
)
def test_wherever_and_however_it_lies(
    crs: str, lon: float, lat: float, size: float, angle: float, height: int, width: int
):
    (x,), (y,) = transform_points(CRS.from_epsg(4326), CRS.from_user_input(crs), [lon], [lat])
    # Around its middle, so that the place is one where the CRS is used.
    a, b = size * math.cos(math.radians(angle)), size * math.sin(math.radians(angle))
    t = Affine(a, b, x - (a * width + b * height) / 2, b, -a, y - (b * width - a * height) / 2)
    areas = pixel_areas(CRS.from_user_input(crs), t, height, width)
    assert areas is not None
    for window in parts_of(height, width, 9):
        ellipsoid = (6378137.0, 298.257222101) if crs == "EPSG:3034" else WGS84
        truth = true_m2(crs, t, window, ellipsoid, max(1.0, 60 / size / window.height))
        assert areas.of(window).sum() == pytest.approx(truth, rel=5e-4)


@pytest.mark.parametrize(
    ("crs", "t", "height", "width"),
    [
        ("EPSG:4326", Affine(0.5, 0, -180, 0, -0.5, 90), 360, 720),
        ("EPSG:4326", Affine(0.5, 0, -0.25, 0, -0.5, 90.25), 361, 720),  # pixels centred on the poles
        (
            "EPSG:4087",
            Affine(20037508.34 / 500, 0, -20037508.34, 0, -10018754.17 / 250, 10018754.17),
            500,
            1000,
        ),
    ],
)
def test_the_whole_earth(crs: str, t: Affine, height: int, width: int):
    areas = pixel_areas(CRS.from_user_input(crs), t, height, width)
    assert areas is not None
    assert areas.of(Window(0, 0, height, width)).sum() == pytest.approx(EARTH_M2, rel=3e-4)


def test_a_world_map_that_does_not_fill_its_raster():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what lies off the Earth is no surprise
        areas = pixel_areas(
            CRS.from_user_input("ESRI:54009"), Affine(2e4, 0, -1.804e7, 0, -2e4, 9.02e6), 902, 1804
        )
    assert areas is not None
    assert areas.of(Window(440, 850, 20, 100)).mean() == pytest.approx(4e8, rel=8e-3)


def test_an_equal_area_crs_on_a_sphere_keeps_its_nominal_areas():
    areas = pixel_areas(
        CRS.from_user_input("+proj=sinu +R=6371007.181 +units=m"), Affine(463.3, 0, 0, 0, -463.3, 5e6), 99, 99
    )
    assert areas is not None
    assert areas.of(Window(0, 0, 99, 99)) == pytest.approx(463.3**2, rel=1e-5)


@pytest.mark.parametrize(
    ("crs", "t"),
    [
        (LOCAL, Affine(0.5, 0, 0, 0, -0.5, 200)),
        ('LOCAL_CS["site grid",UNIT["US survey foot",0.304800609601219]]', Affine(1, 0, 0, 0, -1, 200)),
        ("EPSG:4978", Affine(0.5, 0, 0, 0, -0.5, 200)),  # from the Earth's middle
        ("EPSG:5773", Affine(0.5, 0, 0, 0, -0.5, 200)),  # heights only
        ("EPSG:32632", Affine(0.5, 0, 1e9, 0, -0.5, 1e9)),
        ("EPSG:32632", Affine(math.nan, 0, 5e5, 0, -0.5, 5e6)),
        ("EPSG:32632", Affine(0, 0, 5e5, 0, -0.5, 5e6)),
        ("+proj=ortho +lat_0=40 +lon_0=-100", Affine(5000, 0, -6.4e6, 0, -5000, 6.4e6)),  # infinite at its rim
    ],
)  # fmt: skip
def test_there_are_none_where_none_can_be_had(crs: str, t: Affine):
    assert pixel_areas(CRS.from_user_input(crs), t, 2560, 2560) is None


def test_a_grid_says_why_it_has_no_areas():
    utm, t = CRS.from_epsg(32632), Affine(0.5, 0, 5e5, 0, -0.5, 5e6)
    for grid, why in (
        (Grid(9, 9), "no CRS"),
        (Grid(9, 9, utm), "no geotransform"),
        (Grid(9, 9, utm, t, (GroundControlPoint(0, 0, 1, 2),)), "control points"),
        (Grid(9, 9, CRS.from_user_input(LOCAL), t), "'site grid'"),
    ):
        assert grid.pixel_areas() is None
        assert grid.gsd_m is None
        assert why in grid.why_no_areas


def test_the_gsd_is_the_grounds():
    plate_carree = Grid(400, 500, CRS.from_epsg(4087), Affine(1, 0, 2782987, 0, -1, 6701400))
    assert plate_carree.gsd_m == pytest.approx(math.sqrt(0.49869), rel=1e-3)
    mercator = Grid(2, 2, CRS.from_epsg(3857), Affine(1, 0, 0, 0, -1, 8399737.9))  # 60 N
    assert mercator.gsd_m == pytest.approx(0.5, rel=4e-3)
    assert Grid(9, 9, CRS.from_epsg(3734), Affine(1, 0, 2.2e6, 0, -1, 650000)).gsd_m == pytest.approx(
        0.3048, rel=1e-3
    )


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(PLACES)),
    st.integers(1, 200), st.integers(1, 300), st.floats(0, 1), st.floats(0, 1), st.integers(0, 99),
)  # fmt: skip
def test_classes_are_counted_with_the_area_of_each_pixel(
    place: str, height: int, width: int, down: float, along: float, seed: int
):
    _, _, rows, cols, _ = PLACES[place]
    height, width = min(height, rows), min(width, cols)
    area = Window(int(down * (rows - height)), int(along * (cols - width)), height, width)
    mask = np.random.default_rng(seed).choice(np.array([0, 1, 2, 255], np.uint8), (height, width))
    ground = areas_of(place)
    pixels, area_m2 = count_classes(mask, area, 3, ground)
    each = ground.of(area)
    assert pixels == tuple(np.count_nonzero(mask == k) for k in range(3))
    assert area_m2 == pytest.approx([each[mask == k].sum() for k in range(3)], rel=1e-4, abs=1e-9)
    assert count_classes(mask, area, 3, None) == (pixels, None)


def test_what_does_not_fit_is_refused():
    for m2 in (np.ones((2, 2)), np.full((1, 2), -1.0), np.full((1, 2), np.nan)):
        with pytest.raises(ValueError, match="areas for 1 rows"):
            PixelAreas(np.array([0.5]), np.array([0.0, 9.0]), m2)
    with pytest.raises(ValueError, match="1 columns"):
        PixelAreas(np.array([0.5]), np.array([0.0]), np.ones((1, 1)))


def test_a_raster_of_any_height_takes_no_memory_of_its_own() -> None:
    for height in (10**9, 2**31 - 1):
        tracemalloc.start()
        areas = pixel_areas(CRS.from_epsg(4326), Affine(1e-9, 0, 5, 0, -1e-9, 1), height, 1)
        assert areas is not None
        rows = areas.of(Window(height - 10, 0, 10, 1))
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < 5 << 20
        assert rows.shape == (10, 1)
        assert (rows > 0).all()


@pytest.mark.parametrize(("top", "step"), [(5_000_000.0, -0.5), (140.0, -0.5), (-89.0, -0.01), (91.0, -0.1)])
def test_rows_beyond_the_poles_leave_no_areas(top: float, step: float):
    """The CRS is longitude and latitude but the coordinates are, for example, metres."""
    grid = Grid(400, 300, CRS.from_epsg(4326), Affine(abs(step), 0, 10, 0, step, top))
    assert grid.pixel_areas() is None
    assert grid.gsd_m is None
    assert "'WGS 84'" in grid.why_no_areas


def test_nodes_at_the_poles_are_no_rows_beyond_them():
    step = 0.25
    rows, cols = 721, 1440
    ground = pixel_areas(CRS.from_epsg(4326), Affine(step, 0, -180, 0, -step, 90 + step / 2), rows, cols)
    assert ground is not None
    m2 = ground.of(Window(0, 0, rows, 1))
    assert (m2 > 0).all()
    assert m2.sum() * cols == pytest.approx(510_065_621_724_088, rel=1e-6)  # of the Earth
    pixels, area_m2 = count_classes(np.zeros((1, cols), np.uint8), Window(0, 0, 1, cols), 1, ground)
    assert pixels == (cols,)
    assert area_m2 == pytest.approx([m2[0, 0] * cols])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("+proj=merc +a=6378137 +b=6378137 +nadgrids=@null +wktext", "EPSG:3857"),
        ("+proj=merc +a=6378137 +b=6378137 +nadgrids=@null +type=crs", "EPSG:3857"),
        ("ESRI:102113", "EPSG:3857"),
        ("+proj=longlat +a=6378137 +b=6378137 +nadgrids=@null", "EPSG:4326"),
    ],
)
def test_a_sphere_that_stands_for_wgs84_is_measured_as_it(old: str, new: str):
    is_plain = "longlat" in old
    t = Affine(1e-4, 0, 24, 0, -1e-4, 60) if is_plain else Affine(10, 0, 2.7e6, 0, -10, 8.4e6)
    found, expected = (pixel_areas(CRS.from_user_input(crs), t, 400, 500) for crs in (old, new))
    assert found is not None
    assert expected is not None
    window = Window(100, 100, 50, 50)
    np.testing.assert_allclose(found.of(window), expected.of(window), rtol=1e-6)


def test_a_sphere_that_says_no_more_stays_one():
    t = Affine(10, 0, 2.7e6, 0, -10, 8.4e6)
    a, b = (
        pixel_areas(CRS.from_user_input(f"+proj=merc +a=6378137 +b=6378137{more}"), t, 400, 500)
        for more in ("", " +nadgrids=@null")
    )
    assert a is not None
    assert b is not None
    assert abs(a.m2.mean() / b.m2.mean() - 1) > 2e-3


@pytest.mark.parametrize(
    ("epsg", "transform"),
    [
        (32631, Affine(0.5, 0, 500000, 0, -0.5, 3.5e96)),
        (3857, Affine(0.5, 0, 500000, 0, -0.5, 1e9)),
        (32631, Affine(1e-300, 0, 500000, 0, -1e-300, 5.4e6)),
        (4326, Affine(1e-30, 0, 5, 0, -1e-30, 50)),
    ],
)
def test_pixels_whose_corners_are_one_place_have_no_known_area(epsg: int, transform: Affine) -> None:
    """The area is unknown, not 0 m2, because rounding loses the size of the pixels."""
    grid = Grid(90, 130, CRS.from_epsg(epsg), transform)
    assert grid.pixel_areas() is None
    assert grid.gsd_m is None
    assert "does not locate its pixels" in grid.why_no_areas
