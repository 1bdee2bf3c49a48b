"""Whether two rasters lie on the same ground."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import CRSError, RasterioError
from rasterio.transform import Affine
from rasterio.warp import transform as transform_points

from rsedge.raster.grid import Grid


def pixels_apart(grid: Grid, other: Grid) -> tuple[float, float] | None:
    """How far the corners of ``other`` lie from those of ``grid``: columns and rows of the farthest, in pixels.

    None where that cannot be asked: one of them has no place, or only one has a CRS. NaN where no distance is
    known, since one CRS cannot be taken to the other.
    """
    if not (_is_placed(grid) and _is_placed(other)) or (grid.crs is None) != (other.crs is None):
        return None
    unknown = math.nan, math.nan
    corners = np.array(
        [(0, 0, 1), (grid.width, 0, 1), (0, grid.height, 1), (grid.width, grid.height, 1)], float
    )
    places = (_matrix(other.transform) @ corners.T)[:2]
    try:
        if grid.crs is not None and other.crs is not None and grid.crs != other.crs:
            places = np.array(transform_points(other.crs, grid.crs, *places.tolist()))
        if not np.isfinite(places).all():
            return unknown
        found = np.linalg.solve(_matrix(grid.transform), np.vstack([places, np.ones(4)]))
    except (CRSError, RasterioError, np.linalg.LinAlgError):
        return unknown
    away = found[:2].T - corners[:, :2]
    across, down = away[np.hypot(*away.T).argmax()].tolist()
    return across, down


def _is_placed(grid: Grid) -> bool:
    return not grid.gcps and not grid.transform.is_identity


def _matrix(transform: Affine) -> NDArray[np.float64]:
    return np.array(tuple(transform), np.float64).reshape(3, 3)
