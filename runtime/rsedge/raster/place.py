"""Distance between the grids of two rasters."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import CRSError, RasterioError
from rasterio.transform import Affine
from rasterio.warp import transform as transform_points

from rsedge.raster.grid import Grid

ALIKE = 0.02  # share of a pixel's side: pixels of two CRSs do not agree so well by chance


def pixels_apart(grid: Grid, other: Grid) -> tuple[float, float] | None:
    """Return how far the corners of ``other`` lie from those of ``grid``: columns and rows of the farthest, pixels.

    None if the grids cannot be compared: one has no geotransform, or only one has a CRS and the pixels differ in
    size or shape, so that the missing CRS may be another. NaN if one CRS cannot be transformed to the other.
    """
    if not (_is_placed(grid) and _is_placed(other)):
        return None
    if (grid.crs is None) != (other.crs is None) and not _may_share_crs(grid, other):
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


def _may_share_crs(grid: Grid, other: Grid) -> bool:
    """Return True if both transforms may be of one CRS: pixels alike, and neither merely counts rows and columns."""
    bare = grid if grid.crs is None else other
    along = np.abs([bare.transform.c, bare.transform.f])
    steps = _matrix(bare.transform)[:2, :2]
    if (np.abs(steps) == np.eye(2)).all() and along[0] == 0 and along[1] in {0, bare.height}:
        return False
    mine, others = (_matrix(g.transform)[:2, :2] for g in (grid, other))
    return bool(np.abs(mine - others).max() <= ALIKE * np.abs(mine).max())


def _is_placed(grid: Grid) -> bool:
    return not grid.gcps and not grid.transform.is_identity


def _matrix(transform: Affine) -> NDArray[np.float64]:
    return np.array(tuple(transform), np.float64).reshape(3, 3)
