"""Where a raster lies, to see whether two share ground."""

from __future__ import annotations

from dataclasses import dataclass

from rsedge.raster import Grid
from rsedge_sample.files import CRS_EPSG, EAST_M, NORTH_M


@dataclass(frozen=True)
class Footprint:
    """Where a raster lies: the box around it in its CRS, and half a pixel there."""

    crs: str
    box: tuple[float, float, float, float]  # west, south, east, north
    slack: float


def footprint(grid: Grid) -> Footprint | None:
    """Where a raster lies; None where it does not say it or lies at the invented place of sample scenes."""
    t = grid.transform
    if grid.crs is None or grid.gcps or t.is_identity:
        return None
    if grid.crs.to_epsg() == CRS_EPSG and (t.c, t.f) == (EAST_M, NORTH_M):
        return None
    corners = ((0, 0), (grid.width, 0), (0, grid.height), (grid.width, grid.height))
    xs = [t.a * col + t.b * row + t.c for col, row in corners]
    ys = [t.d * col + t.e * row + t.f for col, row in corners]
    return Footprint(grid.crs.to_wkt(), (min(xs), min(ys), max(xs), max(ys)), abs(t.determinant) ** 0.5 / 2)
