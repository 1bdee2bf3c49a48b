"""Size and georeference of rasters."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from rsedge.raster.ground import PixelAreas, name_of, pixel_areas

UNREFERENCED = Affine.identity()


@contextmanager
def unreferenced_allowed() -> Iterator[None]:
    """Silence rasterio's warning of rasters without georeference; rsedge allows them and prints its own note."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@dataclass(frozen=True)
class Grid:
    """Size and georeference of a raster, which the output shares with the input bit for bit."""

    height: int
    width: int
    crs: CRS | None = None
    transform: Affine = UNREFERENCED
    gcps: tuple[Any, ...] = ()  # rasterio GroundControlPoints; if there are any, ``crs`` is theirs
    rpcs: Any = None

    @property
    def is_referenced(self) -> bool:
        """Return True if the CRS is known."""
        return self.crs is not None

    def pixel_areas(self) -> PixelAreas | None:
        """Return the ground area of each pixel, on the ellipsoid of the CRS; None if unknown."""
        if self.crs is None or self.gcps or self.transform.is_identity:
            return None
        return pixel_areas(self.crs, self.transform, self.height, self.width)

    @property
    def why_no_areas(self) -> str:
        """Return why `pixel_areas` is None, as a phrase that follows "the raster"."""
        if self.crs is None:
            return "has no CRS"
        if self.gcps:
            return "is georeferenced by ground control points"
        if self.transform.is_identity:
            return "has no geotransform"
        return f"has the CRS {name_of(self.crs)!r}, which does not locate its pixels on the Earth"

    @property
    def gsd_m(self) -> float | None:
        """Return the ground sampling distance at the raster's centre, metres per pixel; None if unknown."""
        areas = self.pixel_areas()
        if areas is None:
            return None
        return math.sqrt(areas.at(np.array([self.height / 2]), np.array([self.width / 2]))[0, 0])

    def facts(self) -> dict[str, Any]:
        """Return the grid as plain JSON values."""
        return {
            "height": self.height,
            "width": self.width,
            "crs": self.crs.to_string() if self.crs else None,
            "transform": list(self.transform)[:6],
            "gsd_m": self.gsd_m,
        }
