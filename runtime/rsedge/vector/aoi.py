"""Areas of interest: the part of a raster to process, as a box or polygons in map coordinates.

A pixel is inside if its centre is. Polygons are read from GeoJSON with the json module, or from any other format
with pyogrio. Overlapping polygons count once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.documents import parse_json, read_bytes
from rsedge.errors import InputError
from rsedge.raster.areas import check_placed, map_bounds, parse_crs, rings_in_pixels
from rsedge.raster.grid import Grid
from rsedge.tiling.window import Window
from rsedge.vector.file import head_of, read_polygon_file
from rsedge.vector.fill import Edges

Points = NDArray[np.float64]
Bounds = tuple[float, float, float, float]
JSON_SUFFIXES = (".geojson", ".json")
MOST_JSON_BYTES = 256 << 20  # a city's buildings take some tens of MiB; larger sets belong in a GeoPackage
BLANK = b"\xef\xbb\xbf \t\r\n"  # byte order mark and white space
SNAP = 1024  # steps per pixel, so that PROJ's last digits do not move an edge across a pixel's centre


@dataclass(frozen=True)
class Aoi:
    """An area of interest: a selection of a grid's pixels.

    ``polygons``: closed rings of each, outer ring and holes, (v, 2) columns and rows. Raises InputError if the
    polygons' bounds hold no pixel's centre.
    """

    grid: Grid
    polygons: tuple[tuple[Points, ...], ...]

    @classmethod
    def from_bbox(cls, bounds: Bounds, grid: Grid, crs: str | None = None) -> Aoi:
        """Make an area from west, south, east, north in ``crs`` (None: the raster's). Raises InputError."""
        check_placed(grid)
        west, south, east, north = check_bounds(bounds)
        ring = np.array([(west, south), (east, south), (east, north), (west, north), (west, south)])
        return cls._of([[ring]], grid, crs, "the box")

    @classmethod
    def from_file(cls, path: Path | str, grid: Grid, layer: str | None = None) -> Aoi:
        """Read the polygons of a file. GeoJSON is in EPSG:4326 unless an old "crs" member names another CRS.

        Raises InputError if the file cannot be read, holds other geometries than polygons or does not touch the
        raster; BackendError if the format needs pyogrio, which is not installed.
        """
        path = Path(path)
        check_placed(grid)
        if not path.is_file():
            raise InputError(f"{path} not found. Check the path of the area of interest")
        if path.suffix.lower() in JSON_SUFFIXES or head_of(path).lstrip(BLANK).startswith(
            b"{"
        ):  # read without GDAL, which would fetch its CRS
            if layer is not None:
                raise InputError(f"{path} is GeoJSON, which has no layers. Leave out layer {layer!r}")
            geometries, crs = _read_geojson(path)
        else:
            geometries, known = read_polygon_file(path, layer)
            if not known:
                raise InputError(
                    f"{path} has no CRS. Assign one, for example with `ogr2ogr -a_srs EPSG:CODE OUT IN`"
                )
            crs = known
        return cls._of(list(_polygons(geometries, path)), grid, crs, str(path))

    @classmethod
    def _of(cls, polygons: Sequence[Sequence[Points]], grid: Grid, crs: str | None, where: str) -> Aoi:
        if not polygons:
            raise InputError(f"{where} holds no polygon")
        of = None if crs is None else parse_crs(crs, where)
        sizes = [len(rings) for rings in polygons]
        there = rings_in_pixels([ring for rings in polygons for ring in rings], of, grid, where)
        found = list[tuple[Points, ...]]()
        begin = 0
        for size in sizes:
            some = [np.round(ring * SNAP) / SNAP for ring in there[begin : begin + size] if len(ring)]
            begin += size
            if some:
                found.append(tuple(some))
        low, high = _bounds(found)
        holding = _spans(low, high, grid)[0]
        if not holding.any() and ((low < (grid.width, grid.height)) & (high > 0)).all(1).any():
            raise InputError(f"{where} contains no pixel's centre. Make the area larger")
        if not holding.any():
            every = np.concatenate([ring for rings in polygons for ring in rings])
            raise InputError(
                f"{where} and the raster do not overlap: the area spans "
                f"{_spelled((*every.min(0), *every.max(0)))} in {of or grid.crs}, the raster "
                f"{_spelled(map_bounds(grid))} in {grid.crs} (west, south, east, north), "
                f"{grid.height} rows and {grid.width} columns"
            )
        return cls(grid, tuple(rings for rings, holds in zip(found, holding, strict=True) if holds))

    @cached_property
    def extent(self) -> Window:
        """The smallest window that holds every pixel whose centre lies within the polygons' bounds."""
        holding, first, end = _spans(*_bounds(self.polygons), self.grid)
        if not holding.any():
            raise InputError("the area of interest contains no pixel's centre. Make the area larger")
        col, row = first[holding].min(0).tolist()
        col_end, row_end = end[holding].max(0).tolist()
        return Window(row, col, row_end - row, col_end - col)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the polygons in pixels and of the grid's size; equal digests select the same pixels."""
        sums = hashlib.sha256(f"{self.grid.height}x{self.grid.width}".encode())
        for rings in self.polygons:
            sums.update(f"polygon {[len(r) for r in rings]}".encode())
            for ring in rings:
                sums.update(np.ascontiguousarray(ring + 0.0, "<f8").tobytes())  # + 0.0: no negative zero
        return sums.hexdigest()

    def touches(self, window: Window) -> bool:
        """Return True if any pixel of ``window`` is inside."""
        return bool(self.inside(window).any()) if _meet(self.extent, window) else False

    def inside(self, window: Window) -> NDArray[np.bool_]:
        """Return a boolean mask (h, w), True for pixels whose centre is inside, independent of the window."""
        return self._edges.inside(window)

    @property
    def filling_bytes(self) -> int:
        """Return the bytes that `inside` needs besides its result, including stored edges."""
        return self._edges.filling_bytes

    @cached_property
    def _edges(self) -> Edges:
        return Edges.of(self.polygons, self.grid.height)


def parse_bbox(text: str) -> Bounds:
    """Parse "W,S,E,N" into numbers. Raises InputError if they are not four or not in that order."""
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"box {text!r} is not W,S,E,N, four numbers separated by commas") from error
    return check_bounds((west, south, east, north))


def check_bounds(bounds: Bounds) -> Bounds:
    """Return the same bounds. Raises InputError if they are not finite, west to east and south to north."""
    west, south, east, north = bounds
    if not np.isfinite(bounds).all() or west >= east or south >= north:
        raise InputError(
            f"box {_spelled(bounds)} is not west, south, east, north with west below east and south below north. "
            "Split a box across the antimeridian into two"
        )
    return bounds


def _bounds(polygons: Sequence[Sequence[Points]]) -> tuple[Points, Points]:
    """Return the lowest and the highest column and row of each polygon, (p, 2) each."""
    if not polygons:
        return np.zeros((0, 2)), np.zeros((0, 2))
    points = np.concatenate([ring for rings in polygons for ring in rings])
    begins = np.cumsum([0, *(sum(map(len, rings)) for rings in polygons)])[:-1]
    return np.minimum.reduceat(points, begins), np.maximum.reduceat(points, begins)


def _spans(low: Points, high: Points, grid: Grid) -> tuple[NDArray[np.bool_], NDArray[Any], NDArray[Any]]:
    """Return if each polygon's bounds hold centres, their first column and row, and those after the last."""
    most = np.array([grid.width, grid.height])
    first, end = (np.clip(np.ceil(side - 0.5), 0, most).astype(np.int64) for side in (low, high))
    return np.asarray((first < end).all(1)), first, end


def _meet(a: Window, b: Window) -> bool:
    return a.row < b.row_end and b.row < a.row_end and a.col < b.col_end and b.col < a.col_end


def _spelled(bounds: Sequence[float]) -> str:
    return ", ".join(f"{v:.10g}" for v in bounds)


def _read_geojson(path: Path) -> tuple[list[Any], str]:
    """Read the geometries of a FeatureCollection, a Feature or a geometry, and their CRS."""
    try:
        root = parse_json(read_bytes(path, MOST_JSON_BYTES), MOST_JSON_BYTES)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as GeoJSON: {error}") from error
    kind = root.get("type") if isinstance(root, dict) else None
    if kind == "FeatureCollection":
        features = root.get("features")
    elif kind == "Feature":
        features = [root]
    else:
        features = [{"geometry": root}]
    if kind is None or not isinstance(features, list) or not all(isinstance(f, dict) for f in features):
        raise InputError(f"{path} is not GeoJSON: expected a FeatureCollection, a Feature or a geometry")
    return [f.get("geometry") for f in features], _geojson_crs(root, path)


def _geojson_crs(root: dict[str, Any], path: Path) -> str:
    if "crs" not in root:
        return "EPSG:4326"
    try:
        return str(root["crs"]["properties"]["name"])
    except (TypeError, KeyError) as error:
        raise InputError(
            f'{path} has a "crs" member without a name. Remove it if the coordinates are longitudes and latitudes'
        ) from error


def _polygons(geometries: Sequence[Any], path: Path) -> Iterator[list[Points]]:
    """Yield the rings of every polygon. Raises InputError for other geometries and invalid rings."""
    for number, geometry in enumerate(geometries, 1):
        if geometry is None:
            continue
        kind = geometry.get("type") if isinstance(geometry, dict) else None
        if kind not in ("Polygon", "MultiPolygon"):
            raise InputError(
                f"{path}: feature {number} is a {kind!s:.60}, but an area of interest takes polygons only"
            )
        polygons = geometry.get("coordinates") or []
        if not isinstance(polygons, list | tuple):
            raise InputError(f"{path}: feature {number} has no list of coordinates")
        for rings in polygons if kind == "MultiPolygon" else [polygons]:
            if not isinstance(rings, list | tuple):
                raise InputError(f"{path}: feature {number} has a polygon that is not a list of rings")
            if rings:
                yield [_ring(ring, f"{path}: feature {number}") for ring in rings]


def _ring(ring: Any, where: str) -> Points:
    try:
        points = np.array([position[:2] for position in ring], np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where} has a ring that is not a list of positions") from error
    if len(points) < 3 or not np.isfinite(points).all():
        raise InputError(f"{where} has an invalid ring of {len(points)} positions: 3 finite ones are needed")
    return points if (points[0] == points[-1]).all() else np.concatenate([points, points[:1]])
