"""Ground area of a raster's pixels, on the ellipsoid of its CRS.

Only equal-area projections keep areas, so a pixel's area is never taken from its size in the CRS's unit. The area is
measured between the pixel's corners on the ellipsoid, mapped to the sphere of equal area (authalic latitude), on
which neither poles nor the antimeridian are special.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # rasterio.warp raises it, and no public module exports it
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.transform import Affine
from rasterio.warp import transform as transform_points

from rsedge.tiling.window import Window

Floats = NDArray[np.float64]
Measure = Callable[[NDArray[Any], NDArray[Any]], Floats]
FAILURES = (CRSError, RasterioError, CPLE_BaseError, KeyError, TypeError, ValueError)

STEP = 1e-5  # of the ellipsoid's axis, 64 m: least side measured at a node, because rounding shows below
BENT = 4e-4  # greatest deviation of a node from the line of its neighbours; the next line is then 1e-4 off
FAR_BENT, FAR_SHARE = 4e-3, 1e-3  # if more than this share of the nodes deviates more, areas are unknown
MOST_NODES, MOST_ALONG = 70_000, 1025
MOST_PARTLY = 10_000  # nodes if a part lies off the Earth, because each failure costs many calls
PAST_POLE = 0.51  # pixels: a grid may have nodes at the poles; rows further out are not on the Earth
EDGE_NODES = 33  # per side if a part of the raster lies off the Earth, to find that part's outline


@dataclass(frozen=True)
class PixelAreas:
    """Ground area of each pixel of a raster, linear between nodes and extrapolated beyond the outermost.

    ``rows`` (r,) and ``cols`` (c,): positions of the nodes, increasing, in pixels from the raster's upper left corner,
    two columns at least; ``m2`` (r, c): pixel area at the nodes, square metres. Raises ValueError if shapes differ.
    """

    rows: Floats
    cols: Floats
    m2: Floats

    def __post_init__(self) -> None:
        fits = self.m2.shape == (len(self.rows), len(self.cols)) and len(self.cols) > 1
        if (
            not fits or not (self.m2 > 0).all()
        ):  # an area is 0 if pixels are too small, or too far away, to distinguish their corners
            raise ValueError(f"{self.m2.shape} areas for {len(self.rows)} rows and {len(self.cols)} columns")

    def at(self, rows: NDArray[Any], cols: NDArray[Any]) -> Floats:
        """Return the area, m2, of a pixel centred at each of ``rows`` (h,) and ``cols`` (w,): (h, w)."""
        return _between(self.cols, self._at_rows(rows).T, cols).T

    def _at_rows(self, rows: NDArray[Any]) -> Floats:
        """Return the area, m2, of a pixel at each of ``rows`` (h,) and each column of the nodes, (h, c)."""
        return _between(self.rows, self.m2, rows)

    def of(self, window: Window) -> Floats:
        """Return the area of each pixel of a window, m2: (h, w)."""
        rows, cols = np.arange(window.row, window.row_end), np.arange(window.col, window.col_end)
        return self.at(rows + 0.5, cols + 0.5)

    def left_of(self, row: int, rows: int) -> Measure:
        """Return a function that measures areas in ``rows`` rows from ``row`` on.

        For arrays of x and y of one length, it returns the area (m2) of the pixels left of column edge x and above
        row edge y, with rows counted from ``row``.
        """
        begins = np.concatenate(
            [[0.0], self.cols[1:-1]]
        )  # first column of each piece within which areas are linear
        here = self._at_rows(np.arange(row, row + rows) + 0.5)
        slope = np.diff(here) / np.diff(self.cols)
        first = here[:, :-1] + slope * (begins - self.cols[:-1])
        widths = np.diff(begins)
        before = np.cumsum(widths * (first[:, :-1] + slope[:, :-1] * widths / 2), axis=1)
        tables = [
            np.pad(np.cumsum(table, axis=0), ((1, 0), (0, 0)))
            for table in (np.pad(before, ((0, 0), (1, 0))), first, slope)
        ]

        def measure(x: NDArray[Any], y: NDArray[Any]) -> Floats:
            piece = np.searchsorted(begins, x, side="right") - 1
            along = x - begins[piece]
            whole, level, rise = (table[y, piece] for table in tables)
            return np.asarray(whole + along * (level + along / 2 * rise), np.float64)

        return measure


@dataclass(frozen=True)
class Parallels(PixelAreas):
    """Exact areas of a raster whose rows run along parallels; only those of requested rows are computed.

    ``of_rows`` returns the area (m2) of a pixel centred at each of rows (h,).
    """

    of_rows: Callable[[NDArray[Any]], Floats]

    def _at_rows(self, rows: NDArray[Any]) -> Floats:
        return np.repeat(self.of_rows(rows)[:, None], len(self.cols), axis=1)


@lru_cache(maxsize=8)
def pixel_areas(crs: CRS, transform: Affine, height: int, width: int) -> PixelAreas | None:
    """Return the areas of a raster's pixels; None if the CRS has no ellipsoid or the transform is invalid."""
    t = transform
    if not all(map(math.isfinite, t[:6])) or not t.determinant:
        return None
    try:
        earth = _Earth.of(crs)
        if earth is None:
            return None
        if earth.is_plain and not (t.b or t.d):
            far = max(abs(t.f), abs(t.f + t.e * height)) - PAST_POLE * abs(t.e)
            return earth.parallels(t, height, width) if far * earth.radian <= math.pi / 2 else None
        return _measured(earth, t, height, width)
    except FAILURES:
        return None


def name_of(crs: CRS) -> str:
    """Return the name of a CRS."""
    try:
        return str(crs.to_dict(projjson=True)["name"])
    except FAILURES:
        return str(crs.to_string())


@dataclass(frozen=True)
class _Earth:
    """A CRS and the meaning of its coordinates on its own ellipsoid, without a datum shift."""

    crs: CRS
    base: CRS  # geographic
    radian: float  # radians per unit of ``base``
    length: float  # radians per unit of ``crs``, approximately
    axis_m: float
    e2: float
    is_plain: bool  # ``crs`` itself is longitude and latitude

    @classmethod
    @lru_cache(maxsize=8)  # many rasters of one survey
    def of(cls, crs: CRS) -> _Earth | None:
        """Read a CRS; return None if it is neither projected nor geographic, such as a local grid."""
        whole = crs.to_dict(projjson=True)
        facts = horizontal = _horizontal(whole)
        while "base_crs" in facts:
            facts = _horizontal(facts["base_crs"])
        datum = facts.get("datum") or facts.get("datum_ensemble", {})
        if facts.get("coordinate_system", {}).get("subtype") != "ellipsoidal" or "ellipsoid" not in datum:
            return None
        base = _geographic(facts, datum)
        own = crs if horizontal is whole else _read(horizontal)
        axis_m, e2 = _ellipsoid(_meant(whole, datum))
        radian = float(base.units_factor[1])
        length = float(own.units_factor[1]) if own.is_geographic else own.linear_units_factor[1] / axis_m
        return cls(own, base, radian, float(length), axis_m, e2, facts is horizontal)

    def parallels(self, t: Affine, height: int, width: int) -> PixelAreas:
        """Return the exact areas of a raster whose rows run along parallels."""

        def of_rows(rows: NDArray[Any]) -> Floats:
            edges = (t.f + t.e * (np.stack([rows - 0.5, rows + 0.5]))) * self.radian
            sine = self._authalic_sine(np.clip(edges, -math.pi / 2, math.pi / 2))
            return np.asarray(np.abs(np.diff(sine, axis=0)[0] * t.a * self.radian) * self.authalic_m**2)

        ends = np.array([0.5, height - 0.5]) if height > 1 else np.array([0.5])
        return Parallels(ends, np.array([0.0, width]), np.repeat(of_rows(ends)[:, None], 2, axis=1), of_rows)

    @property
    def authalic_m(self) -> float:
        """Return the radius of the sphere of equal area."""
        return self.axis_m * math.sqrt(self._q(np.array(1.0)) / 2)

    def _q(self, sine: Floats) -> Floats:
        """Return twice the area from the equator to the latitude of ``sine``, one radian wide, in squared axes."""
        if not self.e2:
            return 2 * sine
        e = math.sqrt(self.e2)
        return np.asarray((1 - self.e2) * (sine / (1 - self.e2 * sine**2) + np.arctanh(e * sine) / e))

    def _authalic_sine(self, latitude: Floats) -> Floats:
        return np.asarray(self._q(np.sin(latitude)) / self._q(np.array(1.0)))

    def places(self, x: Floats, y: Floats, near: float = math.inf) -> Floats:
        """Return map coordinates (n,) as points (n, 3) on the authalic sphere of radius 1; NaN if off the Earth.

        ``near``: points whose way back ends further away were beyond the map's edge. Raises rasterio's errors.
        """
        at = (
            transform_points(self.crs, self.base, x.tolist(), y.tolist()) if self.crs != self.base else (x, y)
        )
        longitude, latitude = np.array(at) * self.radian
        known = np.isfinite(longitude) & (np.abs(latitude) <= math.pi / 2 + 1e-9)
        if near < math.inf:
            back = transform_points(self.base, self.crs, *(np.where(known, v, 0).tolist() for v in at))
            known &= np.hypot(back[0] - x, back[1] - y) <= near
        longitude, latitude = np.where(known, longitude, np.nan), np.where(known, latitude, np.nan)
        sine = np.clip(self._authalic_sine(latitude), -1, 1)
        cosine = np.sqrt(1 - sine**2)
        return np.column_stack([cosine * np.cos(longitude), cosine * np.sin(longitude), sine])


def _horizontal(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the horizontal part of a CRS's PROJJSON, without heights and transformations to another datum."""
    while "components" in facts or "source_crs" in facts:
        facts = facts["components"][0] if "components" in facts else facts["source_crs"]
    return facts


def _meant(whole: dict[str, Any], datum: dict[str, Any]) -> dict[str, Any]:
    """Return the ellipsoid of longitude and latitude, PROJJSON.

    Old Web Mercator names a sphere, but with ``nadgrids=@null`` its degrees are those of the target, WGS 84.
    """
    while "components" in whole:
        whole = whole["components"][0]
    parameters = whole.get("transformation", {}).get("parameters", ())
    is_null = any(parameter["value"] == "@null" for parameter in parameters)
    if is_null or datum["name"].startswith("Popular Visualisation"):  # EPSG's name of the sphere
        facts = _horizontal(whole["target_crs"]) if is_null else CRS.from_epsg(4326).to_dict(projjson=True)
        datum = facts.get("datum") or facts["datum_ensemble"]
    return dict(datum["ellipsoid"])


def _geographic(facts: dict[str, Any], datum: dict[str, Any]) -> CRS:
    """Read the geographic CRS of PROJJSON by its code if it has one, because PROJ reads definitions slowly."""
    if "id" in facts:
        try:
            return CRS.from_user_input(f"{facts['id']['authority']}:{facts['id']['code']}")
        except CRSError:  # PROJ does not know the authority
            pass
    kept = {key: facts[key] for key in ("name", "coordinate_system")}
    # A datum ensemble is left out, because PROJ looks up its members one by one.
    alone = {key: datum[key] for key in ("name", "ellipsoid", "prime_meridian") if key in datum}
    return _read({"type": "GeographicCRS", **kept, "datum": {"type": "GeodeticReferenceFrame", **alone}})


def _read(facts: dict[str, Any]) -> CRS:
    return CRS.from_user_input(json.dumps(facts))


def _ellipsoid(ellipsoid: dict[str, Any]) -> tuple[float, float]:
    """Return the semi-major axis in metres and the squared eccentricity of an ellipsoid in PROJJSON."""
    if "radius" in ellipsoid:
        return _metres(ellipsoid["radius"]), 0.0
    axis_m = _metres(ellipsoid["semi_major_axis"])
    if "semi_minor_axis" in ellipsoid:
        return axis_m, 1 - (_metres(ellipsoid["semi_minor_axis"]) / axis_m) ** 2
    f = 1 / float(ellipsoid["inverse_flattening"])
    return axis_m, f * (2 - f)


def _metres(value: Any) -> float:
    if not isinstance(value, dict):
        return float(value)
    unit = value["unit"]
    return float(value["value"]) * (unit["conversion_factor"] if isinstance(unit, dict) else 1.0)


def _measured(earth: _Earth, t: Affine, height: int, width: int) -> PixelAreas | None:
    """Return areas measured at nodes; None if they change too fast for linear interpolation."""
    side = math.sqrt(abs(t.determinant))
    step = max(1.0, STEP / (side * earth.length))  # pixels
    # Some projections map points beyond the edge of a world map to its other side, so their nodes are dropped.
    for near in (math.inf, side * step / 100):
        rows, cols, m2 = _nodes(_Sampler(earth, t, step, near), height, width)
        if near < math.inf:
            m2 = _without_edge(m2)
        if not np.isfinite(m2).any():
            return None
        bends = [_bend(lines) for lines, size in ((m2, height), (m2.T, width)) if len(lines) < size]
        if all(np.count_nonzero(bend > FAR_BENT) <= FAR_SHARE * bend.size for bend in bends):
            return PixelAreas(rows, *_at_least_two(cols, _filled(m2), width))
    return None


def _nodes(sampler: _Sampler, height: int, width: int) -> tuple[Floats, Floats, Floats]:
    """Return rows (r,), columns (c,) and areas (r, c), refined until lines between the nodes are close enough."""
    counts = [min(3, height), min(3, width)]
    while True:
        rows, cols = (
            np.linspace(sampler.step / 2, size - sampler.step / 2, count)
            if size > sampler.step
            else np.array([size / 2])
            for count, size in zip(counts, (height, width), strict=True)
        )
        m2 = sampler.areas(rows, cols)
        whole = bool(np.isfinite(m2).all())
        wanted = [
            min(2 * n - 1, size) if _is_bent(lines, whole) else n
            for lines, n, size in zip((m2, m2.T), m2.shape, (height, width), strict=True)
        ]
        most = MOST_NODES if whole else MOST_PARTLY
        if wanted == list(m2.shape) or wanted[0] * wanted[1] > most or max(wanted) > MOST_ALONG:
            return rows, cols, m2
        counts = wanted


def _at_least_two(cols: Floats, m2: Floats, width: int) -> tuple[Floats, Floats]:
    """Return at least two columns of nodes, so that a line can be drawn."""
    return (cols, m2) if len(cols) > 1 else (np.array([0.0, width]), np.repeat(m2, 2, axis=1))


def _is_bent(m2: Floats, whole: bool) -> bool:
    """Return True if more nodes are needed along the first axis."""
    if not whole and 1 < len(m2) < EDGE_NODES:
        return True
    return bool((_bend(m2) > BENT).any())


def _bend(m2: Floats) -> Floats:
    """Return how far every other node is off the line of its neighbours along the first axis, as a share of it."""
    off = np.abs((m2[:-2:2] + m2[2::2]) / 2 - m2[1:-1:2]) / m2[1:-1:2]
    return np.asarray(off[np.isfinite(off)], np.float64)


@dataclass(frozen=True)
class _Sampler:
    """Measurement of pixel areas at nodes, on a square of ``step`` pixels around each; ``near``: see `places`."""

    earth: _Earth
    transform: Affine
    step: float
    near: float

    def areas(self, rows: Floats, cols: Floats) -> Floats:
        """Return the area of a pixel at each node, m2: (r, c); NaN if it is off the Earth, or its corners coincide.

        If one point fails rasterio returns none, so the nodes are then halved.
        """
        try:
            return self._around(rows, cols)
        except (RasterioError, CPLE_BaseError):
            if len(rows) * len(cols) == 1:
                return np.full((1, 1), np.nan)
        if len(rows) * len(cols) > 9:
            few = [side[np.unique([0, (len(side) - 1) // 2, len(side) - 1])] for side in (rows, cols)]
            if not np.isfinite(self.areas(*few)).any():
                return np.full((len(rows), len(cols)), np.nan)
        half, axis = max(len(rows), len(cols)) // 2, int(len(cols) > len(rows))
        parts = (
            [(rows, cols[:half]), (rows, cols[half:])] if axis else [(rows[:half], cols), (rows[half:], cols)]
        )
        return np.concatenate([self.areas(*part) for part in parts], axis)

    def _around(self, rows: Floats, cols: Floats) -> Floats:
        t, corners = self.transform, np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)]) * self.step / 2
        row = rows[:, None, None] + corners[:, 0] + 0 * cols[None, :, None]
        col = cols[None, :, None] + corners[:, 1] + 0 * rows[:, None, None]
        x, y = t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f
        places = self.earth.places(x.ravel(), y.ravel(), self.near).reshape(*row.shape, 3)
        across = np.cross(places[:, :, 2] - places[:, :, 0], places[:, :, 3] - places[:, :, 1])
        unit = np.linalg.norm(across, axis=2) / 2
        unit[unit == 0] = np.nan
        return np.asarray(unit * (self.earth.authalic_m / self.step) ** 2, np.float64)


def _without_edge(m2: Floats) -> Floats:
    """Clear the nodes beside unknown ones, because part of their square may be beyond the edge."""
    for lines in (m2, m2.T):
        known = np.isfinite(lines)
        lines[1:][~known[:-1]] = np.nan
        lines[:-1][~known[1:]] = np.nan
    return m2


def _filled(m2: Floats) -> Floats:
    """Fill unknown areas with the nearest known area of the row, or else of the column."""
    for lines in (m2, m2.T):
        for line in lines:
            known = np.isfinite(line)
            if known.any() and not known.all():
                line[~known] = np.interp(np.flatnonzero(~known), np.flatnonzero(known), line[known])
    return m2


def _between(nodes: Floats, values: Floats, wanted: NDArray[Any]) -> Floats:
    """Interpolate ``values`` (n, k) at ``nodes`` (n,) linearly at ``wanted`` (m,): (m, k)."""
    if len(nodes) == 1:
        return np.repeat(values, len(wanted), axis=0)
    first = np.clip(np.searchsorted(nodes, wanted, side="right") - 1, 0, len(nodes) - 2)
    part = ((wanted - nodes[first]) / (nodes[first + 1] - nodes[first]))[:, None]
    return np.asarray(values[first] * (1 - part) + values[first + 1] * part, np.float64)
