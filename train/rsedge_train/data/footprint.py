"""Ground footprint of a raster, for finding overlaps."""

from __future__ import annotations

from dataclasses import dataclass

from rsedge.raster import Grid
from rsedge_sample.files import CRS_EPSG, EAST_M, NORTH_M


@dataclass(frozen=True)
class Footprint:
    """Bounding box of a raster in its CRS, and half a pixel as tolerance."""

    crs: str
    box: tuple[float, float, float, float]  # west, south, east, north
    slack: float


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
