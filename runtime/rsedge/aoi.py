"""Areas of interest: the part of a raster that is wanted, as a box or polygons in map coordinates.

A pixel is inside when its centre is. Polygons come as GeoJSON, read by the json module, or in any format pyogrio
reads. What overlaps counts once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.errors import InputError
from rsedge.raster.areas import check_placed, map_bounds, parse_crs, ring_in_pixels
from rsedge.raster.grid import Grid
from rsedge.vector_file import read_polygon_file
from rsedge.window import Window

Points = NDArray[np.float64]
Bounds = tuple[float, float, float, float]
JSON_SUFFIXES = (".geojson", ".json")
PIECE_PIXELS = 1 << 18  # of which crossings are counted at a time
SNAP = 1024  # parts of a pixel: PROJ's last digits must not move an edge across a pixel's centre


@dataclass(frozen=True)
class Aoi:
    """The wanted pixels of a grid.

    ``polygons``: each its closed rings, outer and holes, (v, 2) columns and rows. Raises InputError when not one
    pixel's centre is inside of what can be.
    """

    grid: Grid
    polygons: tuple[tuple[Points, ...], ...]

    @classmethod
    def from_bbox(cls, bounds: Bounds, grid: Grid, crs: str | None = None) -> Aoi:
        """West, south, east, north in ``crs``, None: the raster's. Raises InputError where that cannot be."""
        check_placed(grid)
        west, south, east, north = check_bounds(bounds)
        ring = np.array([(west, south), (east, south), (east, north), (west, north), (west, south)])
        return cls._of([[ring]], grid, crs, "the box")

    @classmethod
    def from_file(cls, path: Path | str, grid: Grid, layer: str | None = None) -> Aoi:
        """Polygons of a file. GeoJSON is in EPSG:4326 unless an old "crs" member says otherwise.

        Raises InputError when the file cannot be read, holds anything but polygons or does not touch the raster;
        BackendError when its format needs pyogrio and that is missing.
        """
        path = Path(path)
        check_placed(grid)
        if not path.is_file():
            raise InputError(f"no file at {path}; check the path of the area of interest")
        if path.suffix.lower() in JSON_SUFFIXES:
            if layer is not None:
                raise InputError(f"{path} is GeoJSON, which has no layers; leave out layer {layer!r}")
            geometries, crs = _read_geojson(path)
        else:
            geometries, known = read_polygon_file(path, layer)
            if not known:
                raise InputError(
                    f"{path} does not say its CRS; assign one, e.g. `ogr2ogr -a_srs EPSG:CODE OUT IN`"
                )
            crs = known
        return cls._of(list(_polygons(geometries, path)), grid, crs, str(path))

    @classmethod
    def _of(cls, polygons: Sequence[Sequence[Points]], grid: Grid, crs: str | None, where: str) -> Aoi:
        if not polygons:
            raise InputError(f"{where} holds no polygon")
        of = None if crs is None else parse_crs(crs, where)
        found = []
        for rings in polygons:
            there = [np.round(ring_in_pixels(ring, of, grid, where) * SNAP) / SNAP for ring in rings]
            found.append(tuple(ring for ring in there if len(ring)))
        there_are = [rings for rings in found if rings]
        found = [rings for rings in there_are if _rows_and_cols(rings, grid)]
        if not found and any(_reach(rings, grid) for rings in there_are):
            raise InputError(f"{where} holds no pixel's centre; make it larger")
        if not found:
            every = np.concatenate([ring for rings in polygons for ring in rings])
            raise InputError(
                f"{where} and the raster have no pixel in common: it spans "
                f"{_spelled((*every.min(0), *every.max(0)))} in {of or grid.crs}; the raster "
                f"{_spelled(map_bounds(grid))} in {grid.crs} (west, south, east, north), "
                f"{grid.height} rows and {grid.width} columns"
            )
        return cls(grid, tuple(found))

    @cached_property
    def extent(self) -> Window:
        """The smallest window that holds every pixel whose centre lies within the polygons' bounds."""
        spans = np.array([s for rings in self.polygons if (s := _rows_and_cols(rings, self.grid))])
        if not len(spans):
            raise InputError("the area of interest holds no pixel's centre; make it larger")
        first, end = spans[:, :2].min(0), spans[:, 2:].max(0)
        return Window(int(first[0]), int(first[1]), int(end[0] - first[0]), int(end[1] - first[1]))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the polygons in pixels and of the grid's size: equal where the same pixels are wanted."""
        sums = hashlib.sha256(f"{self.grid.height}x{self.grid.width}".encode())
        for rings in self.polygons:
            sums.update(f"polygon {[len(r) for r in rings]}".encode())
            for ring in rings:
                sums.update(np.ascontiguousarray(ring + 0.0, "<f8").tobytes())  # + 0.0: no negative zero
        return sums.hexdigest()

    def touches(self, window: Window) -> bool:
        """Whether any pixel of the window is inside."""
        return bool(self.inside(window).any()) if _meet(self.extent, window) else False

    def inside(self, window: Window) -> NDArray[np.bool_]:
        """(h, w): pixels whose centre is inside; the same for a pixel in whichever window it is asked."""
        found = np.zeros((window.height, window.width), np.bool_)
        for rings, bounds in zip(self.polygons, self._bounds, strict=True):
            low_col, low_row, high_col, high_row = bounds
            if (
                low_row < window.row_end
                and high_row > window.row
                and low_col < window.col_end
                and high_col > window.col
            ):
                _fill(rings, window, found)
        return found

    @cached_property
    def _bounds(self) -> list[tuple[float, ...]]:
        joined = (np.concatenate(rings) for rings in self.polygons)
        return [(*p.min(0).tolist(), *p.max(0).tolist()) for p in joined]


def parse_bbox(text: str) -> Bounds:
    """ "W,S,E,N" as numbers. Raises InputError when they are not four or not in that order."""
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"box {text!r} is not W,S,E,N: four numbers with commas between") from error
    return check_bounds((west, south, east, north))


def check_bounds(bounds: Bounds) -> Bounds:
    """The same bounds. Raises InputError when they are not finite, west to east and south to north."""
    west, south, east, north = bounds
    if not np.isfinite(bounds).all() or west >= east or south >= north:
        raise InputError(
            f"box {_spelled(bounds)} is not west, south, east, north with west below east and south below north; "
            "one across the antimeridian must be asked for as two"
        )
    return bounds


def _fill(rings: tuple[Points, ...], window: Window, found: NDArray[np.bool_]) -> None:
    """Set ``found``, (h, w) of the window, by the even-odd rule, a few rows at a time.

    A pixel is inside when an odd number of edges cross its row left of its centre. Crossings are computed from
    the edge and the row's number alone, so they do not depend on the window.
    """
    begin = np.concatenate([r[:-1] for r in rings])
    end = np.concatenate([r[1:] for r in rings])
    down = begin[:, 1] < end[:, 1]
    upper, lower = np.where(down[:, None], begin, end), np.where(down[:, None], end, begin)
    spans = np.stack([np.ceil(end[:, 1] - 0.5) for end in (upper, lower)], 1)
    spans = np.clip(spans, window.row, window.row_end).astype(np.int64)
    used = spans[:, 0] < spans[:, 1]
    upper, lower, spans = upper[used], lower[used], spans[used]
    step = max(1, PIECE_PIXELS // window.width)
    for row in range(window.row, window.row_end, step):
        piece = Window(row, window.col, min(step, window.row_end - row), window.width)
        cut = np.clip(spans, piece.row, piece.row_end)
        some = np.flatnonzero(cut[:, 0] < cut[:, 1])
        if len(some):
            rows = slice(row - window.row, piece.row_end - window.row)
            found[rows] |= _parity(upper[some], lower[some], cut[some], piece)


def _parity(a: Points, b: Points, spans: NDArray[np.int64], window: Window) -> NDArray[np.bool_]:
    """Whether a pixel, (h, w), lies right of an odd number of the edges from ``a`` down to ``b``.

    ``spans``: first row of the window that each edge crosses, and the one after the last.
    """
    first, count = spans[:, 0], spans[:, 1] - spans[:, 0]
    edge = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    a, b = a[edge], b[edge]
    x = a[:, 0] + (row + 0.5 - a[:, 1]) * (b[:, 0] - a[:, 0]) / (b[:, 1] - a[:, 1])
    col = np.clip(np.ceil(x - 0.5), window.col, window.col_end).astype(np.int64)
    place = (row - window.row) * (window.width + 1) + col - window.col
    places, times = np.unique(place, return_counts=True)
    flips = np.zeros(window.height * (window.width + 1), np.uint8)
    flips[places[times % 2 == 1]] = 1
    parity = np.bitwise_xor.accumulate(flips.reshape(window.height, window.width + 1)[:, :-1], 1)
    return np.asarray(parity.view(np.bool_))


def _reach(rings: Sequence[Points], grid: Grid) -> bool:
    """Whether the bounds of the rings and the grid's outline overlap."""
    points = np.concatenate(rings)
    return bool((points.min(0) < (grid.width, grid.height)).all() and (points.max(0) > 0).all())


def _rows_and_cols(rings: Sequence[Points], grid: Grid) -> tuple[int, int, int, int] | None:
    """Row, column, row end and column end of the pixels whose centres lie within the bounds; None: none do."""
    points = np.concatenate(rings)
    most = np.array([grid.width, grid.height])
    col, row = np.clip(np.ceil(points.min(0) - 0.5), 0, most).astype(int).tolist()
    col_end, row_end = np.clip(np.ceil(points.max(0) - 0.5), 0, most).astype(int).tolist()
    return (row, col, row_end, col_end) if row < row_end and col < col_end else None


def _meet(a: Window, b: Window) -> bool:
    return a.row < b.row_end and b.row < a.row_end and a.col < b.col_end and b.col < a.col_end


def _spelled(bounds: Sequence[float]) -> str:
    return ", ".join(f"{v:.10g}" for v in bounds)


def _read_geojson(path: Path) -> tuple[list[Any], str]:
    """Geometries of a FeatureCollection, a Feature or a geometry, and their CRS."""
    try:
        root = json.loads(path.read_text(encoding="utf-8-sig"))
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
        raise InputError(f"{path} is not GeoJSON: a FeatureCollection, a Feature or a geometry is expected")
    return [f.get("geometry") for f in features], _geojson_crs(root, path)


def _geojson_crs(root: dict[str, Any], path: Path) -> str:
    if "crs" not in root:
        return "EPSG:4326"
    try:
        return str(root["crs"]["properties"]["name"])
    except (TypeError, KeyError) as error:
        raise InputError(
            f'{path} has a "crs" member without a name; remove it if the coordinates are longitudes and latitudes'
        ) from error


def _polygons(geometries: Sequence[Any], path: Path) -> Iterator[list[Points]]:
    """Rings of every polygon. Raises InputError for anything else, and where a ring is none."""
    for number, geometry in enumerate(geometries, 1):
        if geometry is None:
            continue
        kind = geometry.get("type") if isinstance(geometry, dict) else None
        if kind not in {"Polygon", "MultiPolygon"}:
            raise InputError(
                f"{path}: feature {number} is a {kind}; an area of interest is made of polygons only"
            )
        polygons = geometry.get("coordinates") or []
        for rings in polygons if kind == "MultiPolygon" else [polygons]:
            if len(rings):
                yield [_ring(ring, f"{path}: feature {number}") for ring in rings]


def _ring(ring: Any, where: str) -> Points:
    try:
        points = np.array([position[:2] for position in ring], np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where} has a ring that is no list of positions") from error
    if len(points) < 3 or not np.isfinite(points).all():
        raise InputError(f"{where} has a ring of {len(points)} positions that bounds nothing")
    return points if (points[0] == points[-1]).all() else np.concatenate([points, points[:1]])
