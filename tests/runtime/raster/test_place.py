"""Distance between two grids, against rasterio's own arithmetic."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.transform import Affine, rowcol

from rsedge.raster import Grid, pixels_apart

UTM, WGS84 = CRS.from_epsg(32633), CRS.from_epsg(4326)


def grid(transform: Affine, crs: CRS | None = UTM, height: int = 40, width: int = 60) -> Grid:
    return Grid(height, width, crs, transform)


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0.01, 100), st.floats(-180, 180), st.floats(0.99, 1.01))
def test_a_moved_and_stretched_grid(
    across: float, down: float, gsd: float, angle: float, stretch: float
) -> None:
    base = Affine.translation(300000, 5200000) @ Affine.rotation(angle) @ Affine.scale(gsd, -gsd)
    other = base @ Affine.translation(across, down) @ Affine.scale(stretch, 1)
    found = pixels_apart(grid(base), grid(other))
    assert found is not None
    ends = [(across + (stretch - 1) * col, down) for col in (0, 60)]
    farthest = max(math.hypot(*end) for end in ends)
    assert math.hypot(*found) == pytest.approx(farthest, abs=1e-4)
    x, y = other @ (60, 40)
    row, col = rowcol(base, [x], [y], op=lambda v: v)
    assert math.hypot(col[0] - 60, row[0] - 40) <= math.hypot(*found) + 1e-4


def test_what_has_no_place_has_no_distance() -> None:
    here = grid(Affine(0.5, 0, 300000, 0, -0.5, 5200000))
    assert pixels_apart(here, grid(Affine.identity(), None)) is None
    assert pixels_apart(here, grid(Affine.identity(), UTM)) is None
    points = (
        GroundControlPoint(0, 0, 10, 50),
        GroundControlPoint(0, 9, 11, 50),
        GroundControlPoint(9, 0, 10, 49),
    )
    assert pixels_apart(here, Grid(40, 60, UTM, here.transform, points)) is None
    world_files = grid(here.transform, None), grid(here.transform @ Affine.translation(3, 0), None)
    assert pixels_apart(*world_files) == pytest.approx((3, 0))


def test_another_crs_is_no_other_place() -> None:
    here = grid(Affine(2e-6, 0, 15, 0, -2e-6, 47), WGS84)
    etrs = grid(here.transform, CRS.from_epsg(4258))
    assert pixels_apart(here, etrs) == pytest.approx((0, 0), abs=0.05)
    found = pixels_apart(here, grid(Affine(0.5, 0, 300000, 0, -0.5, 5200000)))
    assert found is not None
    assert math.hypot(*found) > 1000


def test_a_grid_without_an_area_or_of_another_planet_is_not_near() -> None:
    here = grid(Affine(0.5, 0, 300000, 0, -0.5, 5200000))
    flat = grid(Affine(0, 0, 300000, 0, -0.5, 5200000))
    found = pixels_apart(flat, here)
    assert found is not None
    assert all(map(math.isnan, found))


def test_a_transform_without_a_crs_is_compared_where_it_may_be_of_the_same() -> None:
    here = grid(Affine(0.5, 0, 300000, 0, -0.5, 5200000))
    moved = grid(here.transform @ Affine.translation(40, -7), None)
    assert pixels_apart(here, grid(here.transform, None)) == (0, 0)
    assert pixels_apart(here, moved) == pytest.approx((40, -7))
    assert pixels_apart(moved, here) == pytest.approx((-40, 7))
    assert pixels_apart(here, grid(Affine(5e-6, 0, 15, 0, -5e-6, 47), None)) is None  # degrees
    metre = grid(Affine(1, 0, 300000, 0, -1, 5200000))
    for counting in (
        Affine(1, 0, 0, 0, -1, 0),
        Affine(1, 0, 0, 0, -1, 40),
    ):  # rows from the top or the bottom
        assert pixels_apart(metre, grid(counting, None)) is None
    assert pixels_apart(metre, grid(metre.transform @ Affine.translation(1, 0), None)) == pytest.approx(
        (1, 0)
    )
