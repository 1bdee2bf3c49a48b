"""Ground footprint of a raster, for finding overlaps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rasterio._err import CPLE_BaseError  # rasterio.warp raises it, and no public module exports it
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform, transform_bounds

from rsedge.raster import Grid
from rsedge_sample.files import CRS_EPSG, EAST_M, NORTH_M

NODES = 65  # points along a side that are looked up in another CRS
Box = tuple[float, float, float, float]
"""West, south, east, north."""


@dataclass(frozen=True)
class Footprint:
    """Bounding box of a raster in its CRS, and half a pixel as tolerance."""

    crs: str
    box: Box
    slack: float

    def box_in(self, crs: str) -> Box | None:
        """Return a box in another CRS around the footprint; None if it cannot be projected there."""
        try:
            west, south, east, north = transform_bounds(CRS.from_wkt(self.crs), CRS.from_wkt(crs), *self.box)
        except (RasterioError, CPLE_BaseError):
            return None
        return (west, south, east, north) if np.isfinite([west, south, east, north]).all() else None

    def shares_ground(self, other: Footprint) -> bool:
        """Return True if a point of a grid over one footprint lies in the other, in any CRS.

        An overlap of less than a 64th of both rasters' sides may be missed.
        """
        return self._reaches(other) or other._reaches(self)

    def _reaches(self, other: Footprint) -> bool:
        west, south, east, north = self.box
        xs = np.linspace(west + self.slack, east - self.slack, NODES)
        ys = np.linspace(south + self.slack, north - self.slack, NODES)
        grid = [axis.ravel() for axis in np.meshgrid(xs, ys)]
        try:
            x, y = (np.array(v) for v in transform(CRS.from_wkt(self.crs), CRS.from_wkt(other.crs), *grid))
        except (RasterioError, CPLE_BaseError):
            return False
        west, south, east, north = other.box
        slack = other.slack
        inside = (x > west + slack) & (x < east - slack) & (y > south + slack) & (y < north - slack)
        return bool(inside.any())


def footprint(grid: Grid) -> Footprint | None:
    """Return the footprint, or None if the raster has no georeference or uses the invented place of samples."""
    t = grid.transform
    if grid.crs is None or grid.gcps or t.is_identity:
        return None
    if grid.crs.to_epsg() == CRS_EPSG and (t.c, t.f) == (EAST_M, NORTH_M):
        return None
    corners = ((0, 0), (grid.width, 0), (0, grid.height), (grid.width, grid.height))
    xs = [t.a * col + t.b * row + t.c for col, row in corners]
    ys = [t.d * col + t.e * row + t.f for col, row in corners]
    return Footprint(grid.crs.to_wkt(), (min(xs), min(ys), max(xs), max(ys)), abs(t.determinant) ** 0.5 / 2)
