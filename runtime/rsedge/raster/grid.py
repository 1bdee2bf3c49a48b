"""Where a raster's pixels lie on the Earth."""

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

    def pixel_areas(self) -> PixelAreas | None:
        """Ground area of each pixel, on the ellipsoid of the CRS; None where it cannot be known."""
        if self.crs is None or self.gcps or self.transform.is_identity:
            return None
        return pixel_areas(self.crs, self.transform, self.height, self.width)

    @property
    def why_no_areas(self) -> str:
        """What `pixel_areas` lacks where it is None, after "the raster"."""
        if self.crs is None:
            return "has no CRS"
        if self.gcps:
            return "is placed by ground control points"
        if self.transform.is_identity:
            return "has no geotransform"
        return f"has the CRS {name_of(self.crs)!r}, which does not say what lies where on the Earth here"

    @property
    def gsd_m(self) -> float | None:
        """Ground sampling distance in the middle, metres a pixel; None where it cannot be known."""
        areas = self.pixel_areas()
        if areas is None:
            return None
        return math.sqrt(areas.at(np.array([self.height / 2]), np.array([self.width / 2]))[0, 0])

    def facts(self) -> dict[str, Any]:
        """The grid as plain JSON values."""
        return {
            "height": self.height,
            "width": self.width,
            "crs": self.crs.to_string() if self.crs else None,
            "transform": list(self.transform)[:6],
            "gsd_m": self.gsd_m,
        }
