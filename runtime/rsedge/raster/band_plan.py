"""The choice of a raster's bands for a model, the mapping of their values, and the user's nodata settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rsedge.errors import InputError

SCALED_MAX = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}
PALETTE_BANDS = ("red", "green", "blue")
Rgba = tuple[int, int, int, int]


@dataclass(frozen=True)
class Masking:
    """The user's settings of nodata values and alpha, which override the raster's own.

    Raises InputError if a setting is impossible for any raster.
    """

    nodata: tuple[float, ...] | None = None  # one value, or one per model band; None: the raster's own
    alpha: int | Literal["none"] | None = None  # a 1-based band, or "none"; None: the bands tagged as alpha

    def __post_init__(self) -> None:
        if self.nodata is not None and not (
            self.nodata and all(isinstance(v, float | int) for v in self.nodata)
        ):
            raise InputError(f"nodata {self.nodata!r} is invalid. Give one number, or one per band")
        if not (self.alpha in (None, "none") or (isinstance(self.alpha, int) and self.alpha > 0)):
            raise InputError(f"alpha {self.alpha!r} is invalid. Give a 1-based band or none")


AS_TAGGED = Masking()


@dataclass(frozen=True)
class BandPlan:
    """The bands of a raster that feed a model, and the mapping of their values.

    Raises InputError if ``scale`` is not LOW,HIGH, finite and ascending.
    """

    indexes: tuple[int, ...]  # 1-based, in the order of the model's bands; one band if there is a palette
    dtype: str  # of the model's input
    scale: tuple[float, float] | None = None  # raster values that become 0 and the dtype's maximum
    notes: tuple[str, ...] = ()
    palette: tuple[Rgba, ...] = ()  # colour of each value of the band, from 0; alpha 0 is nodata
    nodata: tuple[float, ...] | None = None  # a value for each of the bands; None: the raster's own
    alphas: tuple[int, ...] | None = None  # 1-based alpha bands; None: the bands tagged as alpha

    def __post_init__(self) -> None:
        if self.scale is not None and not (np.isfinite(self.scale).all() and self.scale[0] < self.scale[1]):
            raise InputError(f"scale {self.scale[0]:g},{self.scale[1]:g} must be finite with LOW below HIGH")

    @property
    def outputs(self) -> int:
        """Return the number of bands that reading gives."""
        return len(PALETTE_BANDS) if self.palette else len(self.indexes)
