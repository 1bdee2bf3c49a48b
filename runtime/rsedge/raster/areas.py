"""Windows of a grid, and polygons of another CRS in the grid's pixels."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace

import attr
import numpy as np
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # rasterio.warp raises it, and no public module exports it
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.transform import Affine
from rasterio.warp import transform as transform_points
from rasterio.warp import transform_bounds

from rsedge.errors import InputError
from rsedge.raster.grid import Grid
from rsedge.tiling.window import Window

Points = NDArray[np.float64]
# A code or URN, WKT, PROJJSON, a PROJ string without files, or a datum's name such as WGS84.
CRS_TEXT = re.compile(
    r"\s*(?:[A-Za-z][\w.-]*:[\w.:,+-]+|[A-Za-z]\w*\s*[\[(].*|\{.*|\+proj=(?!.*(?:/|init|grids|geoid)).*|[A-Z]{2,5}\d{2})\s*$",
    re.DOTALL,
)
OGC_CRS = re.compile(
    r"https?://(?:www\.)?opengis\.net/def/crs/(\w+)/[\w.]+/(\w+)"
)  # taken as a name: GDAL would fetch the URL
STRAIGHT_PX = 0.05  # greatest distance of a reprojected edge from the straight line that replaces it
MOST_HALVINGS = 24
MARGIN = 0.1  # share of the raster's size: polygons of another CRS are clipped this far outside the raster


def cropped_grid(grid: Grid, window: Window) -> Grid:
    """Return the grid of one window of ``grid``; every pixel keeps its place on the ground.

    The transform's origin, the rows and columns of control points and the offsets of RPCs are shifted. A grid
    without georeference stays without one. Raises InputError if the window exceeds the grid.
    """
    if window.row_end > grid.height or window.col_end > grid.width:
        raise InputError(f"{window} exceeds a raster of {grid.height} rows and {grid.width} columns")
    t = grid.transform
    if not t.is_identity:
        x = t.a * window.col + t.b * window.row + t.c
        y = t.d * window.col + t.e * window.row + t.f
        t = Affine(t.a, t.b, x, t.d, t.e, y)
    gcps = tuple(
        GroundControlPoint(p.row - window.row, p.col - window.col, p.x, p.y, p.z, p.id, p.info)
        for p in grid.gcps
    )
    rpcs = grid.rpcs
    if rpcs is not None:
        rpcs = attr.evolve(rpcs, line_off=rpcs.line_off - window.row, samp_off=rpcs.samp_off - window.col)
    return replace(grid, height=window.height, width=window.width, transform=t, gcps=gcps, rpcs=rpcs)


def parse_crs(text: str, where: str) -> CRS:
    """Return the CRS of a user's text: AUTHORITY:CODE, URN, WKT, PROJJSON or a PROJ string.

    Raises InputError, naming ``where``, if PROJ does not know the CRS, or if the text names a server or a file,
    which GDAL would fetch.
    """
    if of_ogc := OGC_CRS.fullmatch(text.strip()):
        text = f"{of_ogc[1]}:{of_ogc[2]}"
    if not CRS_TEXT.match(text) or os.path.exists(text):
        raise InputError(f"{where}: {text[:80]!r} is not the text of a CRS. Give one such as EPSG:32631")
    try:
        return CRS.from_user_input(text)
    except (CRSError, ValueError) as error:
        raise InputError(f"{where}: PROJ does not know CRS {text!r}. Give one such as EPSG:32631") from error


def check_placed(grid: Grid) -> None:
    """Raise InputError if map coordinates mean nothing on the grid: no CRS, or control points only."""
    if grid.gcps:
        raise InputError(
            "the raster is georeferenced by ground control points, so map coordinates do not name its pixels. "
            "Rectify the raster first with `gdalwarp IN OUT`"
        )
    if grid.crs is None or grid.transform.is_identity:
        raise InputError(
            "the raster has no CRS or no geotransform, so map coordinates do not name its pixels. Set both with "
            "`gdal_translate -a_srs EPSG:CODE -a_ullr W N E S IN OUT`, or crop by pixels with "
            "`gdal_translate -srcwin COL ROW WIDTH HEIGHT IN OUT`"
        )


def map_bounds(grid: Grid) -> tuple[float, float, float, float]:
    """Return west, south, east and north of a grid in its CRS."""
    t = grid.transform
    corners = np.array([(0, 0), (grid.width, 0), (grid.width, grid.height), (0, grid.height)], np.float64)
    x = t.a * corners[:, 0] + t.b * corners[:, 1] + t.c
    y = t.d * corners[:, 0] + t.e * corners[:, 1] + t.f
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def rings_in_pixels(rings: Sequence[Points], crs: CRS | None, grid: Grid, where: str) -> list[Points]:
    """Convert closed rings (v, 2) of x, y in ``crs`` (None: the grid's) to columns and rows of ``grid``.

    Rings in another CRS are clipped to the raster's surroundings; a ring outside becomes empty, (0, 2).

    Edges are straight in their own CRS, as GIS programs draw them: an edge that bends in the grid's CRS is halved
    until no part is off by more than STRAIGHT_PX. Raises InputError, naming ``where``, if a point has no place in
    the grid's CRS.
    """
    if crs is None or crs == grid.crs:
        with np.errstate(over="ignore", invalid="ignore"):
            pixels = _to_pixels(np.concatenate(rings), grid)
        if not np.isfinite(pixels).all():
            raise InputError(f"{where}: coordinates overflow. Clip polygons to the raster's surroundings")
        return _apart(pixels, [len(ring) for ring in rings])
    rings = _all_clipped(rings, _surroundings(grid, crs))
    owner = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    points = np.concatenate(rings)
    if not len(points):
        return list(rings)
    pixels = _project(points, crs, grid, where)
    open_edges = owner[:-1] == owner[1:]  # from one ring to the next there is no edge
    for _ in range(MOST_HALVINGS):
        edge = np.flatnonzero(open_edges)
        if not len(edge):
            break
        # The thirds are tested too, because a curve that swings to both sides crosses its chord in the middle.
        at = np.array([1 / 3, 1 / 2, 2 / 3])[:, None, None]
        inner = points[edge] + at * (points[edge + 1] - points[edge])
        there = _project(inner.reshape(-1, 2), crs, grid, where).reshape(inner.shape)
        chord = pixels[edge] + at * (pixels[edge + 1] - pixels[edge])
        bent = (np.abs(there - chord) > STRAIGHT_PX).any((0, 2))
        split = edge[bent]
        points = np.insert(points, split + 1, inner[1, bent], axis=0)
        pixels = np.insert(pixels, split + 1, there[1, bent], axis=0)
        owner = np.insert(owner, split + 1, owner[split])
        halves = np.zeros(len(open_edges), np.int64)
        halves[split] = 1
        open_edges = np.repeat(halves > 0, halves + 1)
    return _apart(pixels, np.bincount(owner, minlength=len(rings)))


def _apart(points: Points, sizes: Sequence[int] | NDArray[np.int64]) -> list[Points]:
    return np.split(points, np.cumsum(sizes)[:-1])


def _all_clipped(rings: Sequence[Points], bounds: tuple[float, float, float, float]) -> list[Points]:
    """Clip every ring to the bounds; rings wholly inside or outside skip `_clipped`, which is slower."""
    begins = np.cumsum([0, *map(len, rings)])[:-1]
    every = np.concatenate(rings)
    low, high = np.minimum.reduceat(every, begins), np.maximum.reduceat(every, begins)
    within = np.asarray((low >= bounds[:2]).all(1) & (high <= bounds[2:]).all(1))
    outside = np.asarray((low > bounds[2:]).any(1) | (high < bounds[:2]).any(1))
    nothing = np.zeros((0, 2))
    return [
        ring if is_within else nothing if is_outside else _clipped(ring, bounds)
        for ring, is_within, is_outside in zip(rings, within, outside, strict=True)
    ]


def _surroundings(grid: Grid, crs: CRS) -> tuple[float, float, float, float]:
    """Return bounds in ``crs`` that hold the grid and a margin; infinite if unknown."""
    everywhere = (-np.inf, -np.inf, np.inf, np.inf)
    try:
        west, south, east, north = transform_bounds(grid.crs, crs, *map_bounds(grid))
    except (RasterioError, CPLE_BaseError):
        return everywhere
    x, y = (east - west) * MARGIN, (north - south) * MARGIN
    bounds = west - x, south - y, east + x, north + y
    return bounds if west < east and south < north and np.isfinite(bounds).all() else everywhere


def _clipped(ring: Points, bounds: tuple[float, float, float, float]) -> Points:
    """Return the part of a closed ring within the bounds, closed along them; empty if the ring is outside.

    Far from its area of use a projection fails or folds, so distant points must not be projected.
    """
    west, south, east, north = bounds
    for axis, limit, sign in ((0, west, 1), (0, east, -1), (1, south, 1), (1, north, -1)):
        if np.isfinite(limit) and len(ring):
            depth = sign * (ring[:, axis] - limit)
            a, b = depth[:-1], depth[1:]
            crosses = (a >= 0) != (b >= 0)
            along = np.divide(a, a - b, out=np.zeros_like(a), where=crosses)[:, None]
            corners = np.stack([ring[:-1] + along * (ring[1:] - ring[:-1]), ring[1:]], 1)
            kept = corners[np.column_stack([crosses, b >= 0])]
            ring = np.concatenate([kept, kept[:1]])
    return ring


def _project(points: Points, crs: CRS, grid: Grid, where: str) -> Points:
    try:
        x, y = transform_points(crs, grid.crs, points[:, 0].tolist(), points[:, 1].tolist())
    except (RasterioError, CPLE_BaseError) as error:
        raise InputError(
            f"{where}, in {crs}, cannot be transformed to the raster's CRS, {grid.crs} ({error}). "
            "Clip the polygons to the raster's surroundings"
        ) from error
    found = np.column_stack([x, y])
    if not np.isfinite(found).all():
        odd = points[~np.isfinite(found).all(1)][0]
        raise InputError(
            f"{where} has the point ({odd[0]:g}, {odd[1]:g}) in {crs}, which has no place in the raster's CRS, "
            f"{grid.crs}. Clip the polygons to the raster's surroundings"
        )
    return _to_pixels(found, grid)


def _to_pixels(points: Points, grid: Grid) -> Points:
    t = grid.transform
    # The origin is subtracted first, because metres from the equator would use up the digits.
    x, y = points[:, 0] - t.c, points[:, 1] - t.f
    return np.asarray(np.column_stack([t.e * x - t.b * y, t.a * y - t.d * x]) / t.determinant, np.float64)
