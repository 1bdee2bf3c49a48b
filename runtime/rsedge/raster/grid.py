"""Where a raster's pixels lie on the Earth."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine
from rasterio.warp import transform as transform_points

UNREFERENCED = Affine.identity()
WGS84_A_M = 6378137.0
WGS84_E2 = 0.0066943799901413165


@contextmanager
def unreferenced_allowed() -> Iterator[None]:
    """rasterio warns of rasters without georeference; here they are allowed, with a note of our own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@dataclass(frozen=True)
class Grid:
    """Size and georeference of a raster: what the output must share with the input to the last bit."""

    height: int
    width: int
    crs: CRS | None = None
    transform: Affine = UNREFERENCED
    gcps: tuple[Any, ...] = ()  # rasterio GroundControlPoints; the CRS is theirs where there are any
    rpcs: Any = None

    @property
    def is_referenced(self) -> bool:
        """Whether a CRS is known."""
        return self.crs is not None

    def row_area_m2(self) -> NDArray[np.float64] | None:
        """Area of one pixel of each row in square metres, (height,); None where it cannot be known.

        Geographic and Mercator grids: the exact area on the WGS 84 ellipsoid between the row's two
        parallels (Mercator's own units are 1 / cos(latitude) too long). Other projected grids: the
        pixel's size in the CRS's unit.
        """
        t = self.transform
        if self.crs is None or self.gcps or t.is_identity:
            return None
        try:
            if self.crs.is_projected and not _is_mercator(self.crs):
                unit_m = float(self.crs.linear_units_factor[1])
                return np.full(self.height, abs(t.determinant) * unit_m**2)
            if t.b or t.d:
                return None
            if self.crs.is_geographic:
                unit = float(self.crs.units_factor[1])  # radians
                latitudes, width = (t.f + t.e * np.arange(self.height + 1)) * unit, t.a * unit
            elif self.crs.is_projected:
                latitudes, width = _mercator_rows(self.crs, t, self.height)
            else:
                return None
        except (CRSError, RasterioError):
            return None
        latitudes = np.clip(latitudes, -math.pi / 2, math.pi / 2)
        return np.asarray(np.abs(np.diff(_area_per_radian(latitudes)) * width), np.float64)

    @property
    def gsd_m(self) -> float | None:
        """Ground sampling distance at the middle row, metres a pixel; None where it cannot be known."""
        area = self.row_area_m2()
        return None if area is None else math.sqrt(area[self.height // 2])

    def facts(self) -> dict[str, Any]:
        """The grid as plain JSON values."""
        return {
            "height": self.height,
            "width": self.width,
            "crs": self.crs.to_string() if self.crs else None,
            "transform": list(self.transform)[:6],
            "gsd_m": self.gsd_m,
        }


def _is_mercator(crs: CRS) -> bool:
    return 'PROJECTION["Mercator' in crs.to_wkt()


def _mercator_rows(crs: CRS, t: Affine, height: int) -> tuple[NDArray[np.float64], float]:
    """Latitudes of the rows' edges and the longitude a pixel spans, both in radians."""
    edges = t.f + t.e * np.arange(height + 1)
    longitudes, latitudes = transform_points(
        crs, CRS.from_epsg(4326), [t.c, t.c + t.a, *[t.c] * (height - 1)], edges.tolist()
    )
    return np.radians(latitudes), math.radians(longitudes[1] - longitudes[0])


def _area_per_radian(latitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area from the equator to a latitude, a radian of longitude wide, on WGS 84 (m2)."""
    e, sine = math.sqrt(WGS84_E2), np.sin(latitude)
    b2 = WGS84_A_M**2 * (1 - WGS84_E2)
    area = b2 / 2 * (sine / (1 - WGS84_E2 * sine**2) + np.arctanh(e * sine) / e)
    return np.asarray(area, np.float64)
