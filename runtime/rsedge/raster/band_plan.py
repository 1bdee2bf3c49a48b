"""Which bands of a raster feed a model and how their values are mapped: what was chosen, by `bands`, or asked for."""

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
    """What the user says of pixels without data, in place of what a raster says itself.

    Raises InputError where it says nothing that a raster could hold.
    """

    nodata: tuple[float, ...] | None = None  # one value, or one a band that feeds the model
    alpha: int | Literal["none"] | None = None  # a band, 1-based, or none; None: those that are tagged so

    def __post_init__(self) -> None:
        if self.nodata is not None and not (
            self.nodata and all(isinstance(v, float | int) for v in self.nodata)
        ):
            raise InputError(f"nodata {self.nodata!r} is not numbers such as (0,), one or one a band")
        if not (self.alpha in (None, "none") or (isinstance(self.alpha, int) and self.alpha > 0)):
            raise InputError(f"alpha {self.alpha!r} is neither a 1-based band nor none")


AS_TAGGED = Masking()


@dataclass(frozen=True)
class BandPlan:
    """Which bands of a raster feed a model and how their values are mapped.

    Raises InputError where ``scale`` is not LOW,HIGH, finite and ascending.
    """

    indexes: tuple[int, ...]  # 1-based, in the order of the model's bands; one band where there is a palette
    dtype: str  # of the model's input
    scale: tuple[float, float] | None = None  # raster values that become 0 and the dtype's maximum
    notes: tuple[str, ...] = ()
    palette: tuple[Rgba, ...] = ()  # colour of each value of the band, from 0; alpha 0 is no data
    nodata: tuple[float, ...] | None = None  # a value for each of the bands; None: the raster's own
    alphas: tuple[int, ...] | None = None  # 1-based bands that say where data are; None: those tagged so

    def __post_init__(self) -> None:
        if self.scale is not None and not (np.isfinite(self.scale).all() and self.scale[0] < self.scale[1]):
            raise InputError(f"scale {self.scale[0]:g},{self.scale[1]:g} is not LOW,HIGH with LOW below HIGH")

    @property
    def outputs(self) -> int:
        """Bands that reading gives."""
        return len(PALETTE_BANDS) if self.palette else len(self.indexes)
