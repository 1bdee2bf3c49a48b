"""A coarse grid of cells over a raster, cut along its rows and columns, for figures instead of pixels."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import CRSError

from rsedge.errors import InputError
from rsedge.raster.grid import Grid

Unit = Literal["m", "px"]
USUAL = 100  # cells at most, if no side was given
UNIT_EXACT = 0.01  # relative difference of ground and map below which a projected metre counts as one
E2 = 0.00669438  # squared eccentricity of WGS 84; other ellipsoids' differ too little to matter in a cell
NOT_PLACED = "cells are counted in pixels from the upper left corner: the raster {why}"
TURNED = "cells are counted in pixels from the upper left corner: the raster's rows do not run along its CRS"


@dataclass(frozen=True)
class Side:
    """Length of a cell's sides: metres on the ground, or pixels. Raises InputError if it is not above 0."""

    value: float
    unit: Unit

    def __post_init__(self) -> None:
        if not 0 < self.value < math.inf:
            raise InputError(
                f"a summary cell of {self.value:g} {self.unit} is impossible; give one such as 1km"
            )

    @classmethod
    def parse(cls, text: str) -> Side:
        """Parse ``"1km"``, ``"500m"`` or ``"256px"``. Raises InputError."""
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(km|m|px)\s*", text)
        if not found:
            raise InputError(f"summary cell {text!r} is not a length such as 1km, 500m or 256px")
        return cls(float(found[1]) * (1000 if found[2] == "km" else 1), "px" if found[2] == "px" else "m")

    def __str__(self) -> str:
        """Return the length as ``parse`` takes it."""
        if self.unit == "m" and self.value >= 1000:
            return f"{self.value / 1000:g}km"
        return f"{self.value:g}{self.unit}"


@dataclass(frozen=True)
class Cells:
    """Cells of a raster: cell (i, j) holds the pixels whose centres lie in it.

    ``rows`` (r + 1,) and ``cols`` (c + 1,): pixel edges of the cells, increasing from 0. ``i`` (c,), ``j`` (r,): x from
    ``i * size[0]`` to ``(i + 1) * size[0]``, y alike, in the CRS, or in columns and rows if ``in_pixels``.
    """

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    i: NDArray[np.int64]
    j: NDArray[np.int64]
    size: tuple[float, float]
    side: Side
    in_pixels: bool
    note: str | None = None

    def facts(self) -> dict[str, Any]:
        """Return size and meaning of the cells as plain JSON values."""
        unit = "pixels: columns, rows" if self.in_pixels else "units of the CRS: x, y"
        asked = str(self.side)
        return {"side": asked, "size": list(self.size), "unit": unit, "note": self.note}


def cells_of(grid: Grid, side: Side | None, most: int) -> Cells:
    """Lay cells over ``grid``, at most ``most``; without ``side`` in a round size of which at most USUAL fit.

    On a raster placed on the Earth, cells are metres of ground at its centre, at multiples of their size in its CRS,
    so those of two rasters of one survey meet. Else they are counted in pixels, and ``note`` says why.

    Raises InputError if there would be more, if they are smaller than a pixel, or if metres are asked of a raster
    whose ground is unknown.
    """
    areas, t = grid.pixel_areas(), grid.transform
    if areas is None and side is not None and side.unit == "m":
        raise InputError(
            f"a summary cell of {side} is impossible: the raster {grid.why_no_areas}. Give it in pixels, such as "
            "--summary-cell 512px"
        )
    in_metres = areas is not None and (side is None or side.unit == "m")
    sides = [side] if side else _round_sides("m" if in_metres else "px", grid, min(USUAL, most))
    for wanted in sides:
        axes = _axes(grid, wanted, in_metres and not (t.b or t.d))
        count = axes[0].count * axes[1].count
        if side is None and count > min(USUAL, most):
            continue
        if min(axis.size / abs(axis.step) for axis in axes) < 1:
            raise InputError(
                f"a summary cell of {wanted} is smaller than a pixel; give a larger --summary-cell"
            )
        if count > most:
            raise InputError(
                f"a summary of {axes[1].count} x {axes[0].count} cells of {wanted} is too large: at most {most} cells "
                f"fit. Give --summary-cell {cells_of(grid, None, most).side} or more, or --crop to an area"
            )
        return _laid(grid, wanted, axes, in_metres)
    raise AssertionError("sides grow until one cell holds the raster")


@dataclass(frozen=True)
class _Axis:
    """One axis of a grid: ``length`` pixels of ``step`` units from ``origin``, in cells of ``size`` units."""

    origin: float
    step: float
    length: int
    size: float

    @property
    def ends(self) -> tuple[int, int]:
        """Return the lowest and highest number of a cell, those of the first and the last pixel's centre."""
        centres = self.origin + self.step / 2, self.origin + self.step * (self.length - 0.5)
        low, high = (math.floor(c / self.size) for c in sorted(centres))
        return low, high

    @property
    def count(self) -> int:
        return self.ends[1] - self.ends[0] + 1

    def cut(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the pixel edges of the cells (n + 1,) and their numbers (n,)."""
        low, high = self.ends
        at = (np.arange(low + 1, high + 1) * self.size - self.origin) / self.step - 0.5
        first = np.ceil(at) if self.step > 0 else np.floor(at) + 1  # the first pixel beyond each line
        edges = np.unique(np.clip([0, *first, self.length], 0, self.length)).astype(np.int64)
        middles = self.origin + self.step * (edges[:-1] + edges[1:]) / 2
        return edges, np.floor(middles / self.size).astype(np.int64)


def _axes(grid: Grid, side: Side, in_crs: bool) -> tuple[_Axis, _Axis]:
    """Return the axes x and y."""
    t = grid.transform
    if in_crs:
        sizes = [float(f"{side.value / scale:.9g}") for scale in _scales(grid)]
        return _Axis(t.c, t.a, grid.width, sizes[0]), _Axis(t.f, t.e, grid.height, sizes[1])
    pixels = side.value if side.unit == "px" else side.value / (grid.gsd_m or 1)
    pixels = float(max(1, round(pixels))) if pixels >= 1 else pixels
    return _Axis(0, 1, grid.width, pixels), _Axis(0, 1, grid.height, pixels)


def _scales(grid: Grid) -> tuple[float, float]:
    """Return metres of ground per unit of the CRS along x and y at the centre of a north-up grid.

    A projection's unit counts as it is named where the ground is within UNIT_EXACT of it: metres of UTM are metres.
    """
    t, gsd_m, crs = grid.transform, grid.gsd_m, grid.crs
    assert crs is not None
    assert gsd_m is not None
    mean = gsd_m / math.sqrt(abs(t.a * t.e))
    if crs.is_geographic:
        latitude = min(abs(t.f + t.e * grid.height / 2) * crs.units_factor[1], math.pi / 2 - 1e-6)
        along = (1 - E2) / (1 - E2 * math.sin(latitude) ** 2)  # of a meridian, over the same across it
        ratio = math.sqrt(along / math.cos(latitude))
        return mean / ratio, mean * ratio
    try:
        named = float(crs.linear_units_factor[1])
    except CRSError:
        return mean, mean
    return (named, named) if abs(mean / named - 1) <= UNIT_EXACT else (mean, mean)


def _round_sides(unit: Unit, grid: Grid, most: int) -> list[Side]:
    """Return round lengths, from one of which more than ``most`` may fit to one that holds the raster."""
    pixel = (grid.gsd_m or 1) if unit == "m" else 1.0
    least = max(pixel, pixel * math.sqrt(grid.height * grid.width / most) / 10)
    first = math.floor(math.log10(least))
    sides = [k * 10.0**n for n in range(first, first + 16) for k in (1, 2, 5)]
    return [Side(s if unit == "m" else max(1, round(s)), unit) for s in sides if s >= least]


def _laid(grid: Grid, side: Side, axes: tuple[_Axis, _Axis], in_metres: bool) -> Cells:
    t = grid.transform
    in_crs = in_metres and not (t.b or t.d)
    note = None
    if grid.pixel_areas() is None:
        note = NOT_PLACED.format(why=grid.why_no_areas)
    elif in_metres and not in_crs:
        note = TURNED
    (cols, i), (rows, j) = (axis.cut() for axis in axes)
    return Cells(rows, cols, i, j, (axes[0].size, axes[1].size), side, not in_crs, note)
