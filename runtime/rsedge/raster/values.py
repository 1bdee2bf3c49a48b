"""What stored values mean: which hold data, and how they become a model's. Numpy only, in bounded pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.errors import InputError
from rsedge.raster.bands import PALETTE_BANDS, SCALED_MAX, BandPlan

Pixels = NDArray[Any]
Valid = NDArray[np.bool_]
PIECE_PIXELS = 1 << 19  # of temporaries at a time
SOME_CLIPPED, MANY_CLIPPED = 0.02, 0.5  # shares of values outside the declared scale: a note, an error
LITTLE_USED = 0.05  # a share of the declared scale: with less, an image is nearly one colour to the model


def pieces(height: int, width: int) -> Iterator[slice]:
    """Slices of rows with at most `PIECE_PIXELS` pixels, or one row."""
    rows = max(1, PIECE_PIXELS // width)
    for row in range(0, height, rows):
        yield slice(row, min(row + rows, height))


def piece_pixels(height: int, width: int) -> int:
    """The most pixels in one of the `pieces`."""
    return min(height, max(1, PIECE_PIXELS // width)) * width


def stored_nodata(value: float | None, dtype: str) -> Any:
    """A nodata value as a scalar of ``dtype``; None where no stored value can equal it.

    A float64 array the size of the image would come of comparing integers with Python's floats.
    """
    if value is None or np.isnan(value) or dtype.startswith("complex"):
        return None
    kind = np.dtype(dtype)
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            return kind.type(value)
    limits = np.iinfo(kind)
    return kind.type(int(value)) if float(value).is_integer() and limits.min <= value <= limits.max else None


def drop_nodata(stored: Pixels, nodata: Sequence[Any], valid: Valid) -> None:
    """Clear ``valid`` (h, w) where every band of ``stored`` (bands, h, w) has its value of ``nodata``."""
    for rows in pieces(*valid.shape):
        empty = stored[0, rows] == nodata[0]
        for band, value in zip(stored[1:], nodata[1:], strict=True):
            if not empty.any():
                break
            empty &= band[rows] == value
        valid[rows] &= ~empty


def drop_not_finite(stored: Pixels, valid: Valid) -> None:
    """Clear ``valid`` (h, w) where a band of ``stored`` (bands, h, w) is NaN or infinite."""
    for band in stored:
        for rows in pieces(*valid.shape):
            valid[rows] &= np.isfinite(band[rows])


def expand_palette(stored: Pixels, plan: BandPlan, image: Pixels, valid: Valid | None) -> None:
    """Colours of ``stored`` (1, h, w) into ``image`` (3, h, w).

    Clears ``valid`` where they are transparent; None says that no colour is.
    """
    table = palette_table(plan)
    for rows in pieces(*stored.shape[1:]):
        for band, colors in zip(image, table.T, strict=False):
            np.take(colors, stored[0, rows], out=band[rows], mode="clip")
        if valid is not None:
            valid[rows] &= np.take(table[:, len(PALETTE_BANDS)], stored[0, rows], mode="clip") > 0


def palette_table(plan: BandPlan) -> NDArray[np.uint8]:
    """RGBA by value, (n, 4); its last line, transparent, is for values that the palette does not list."""
    return np.array([*plan.palette, (0, 0, 0, 0)], np.uint8)


@dataclass
class Scaling:
    """Maps values by a declared scale, and keeps count of how well it fits."""

    clipped: int = 0  # values outside the declared scale
    scaled: int = 0  # all seen
    lowest: float = field(default=np.inf)  # of the values seen, as stored
    highest: float = field(default=-np.inf)

    def apply(self, stored: Pixels, plan: BandPlan, image: Pixels, valid: Valid | None) -> None:
        """Values of ``stored`` (bands, h, w) mapped into ``image``; ``valid`` None says all are valid."""
        assert plan.scale is not None
        for rows in pieces(*stored.shape[1:]):
            self._apply(stored[:, rows], plan.scale, image[:, rows], None if valid is None else valid[rows])

    def add(self, other: Scaling) -> None:
        """Add what was counted elsewhere, of other parts of the raster."""
        self.clipped, self.scaled = self.clipped + other.clipped, self.scaled + other.scaled
        self.lowest, self.highest = min(self.lowest, other.lowest), max(self.highest, other.highest)

    def _apply(self, stored: Pixels, scale: tuple[float, float], image: Pixels, valid: Valid | None) -> None:
        (low, high), top = scale, SCALED_MAX[image.dtype.name]
        for band, out in zip(stored, image, strict=True):
            known = band.astype(np.float64)
            seen = known if valid is None else known[valid]
            if seen.size:
                self.lowest = min(self.lowest, float(seen.min()))
                self.highest = max(self.highest, float(seen.max()))
            self.scaled += seen.size
            if valid is not None:
                known[~valid] = low  # a nodata value may overflow
            known -= low
            known *= top / (high - low)
            self.clipped += int(np.count_nonzero((known < 0) | (known > top)))
            np.clip(known, 0, top, out=known)
            out[...] = known if out.dtype.kind == "f" else np.rint(known, out=known)

    def check(self, scale: tuple[float, float], among: str = "") -> str | None:
        """After reading: a note where the declared scale looks wrong.

        ``among``: what was read, to begin the note with, where that is not the whole raster.

        Raises InputError where most values lie outside: it cannot be right.
        """
        if not self.scaled:
            return None
        clipped = self.clipped / self.scaled
        if clipped > MANY_CLIPPED:
            raise InputError(f"{among}{clipped:.0%} of the values lie outside --scale: {self._range()}")
        used = (self.highest - self.lowest) / (scale[1] - scale[0])
        if used < LITTLE_USED:
            return (
                f"{among}the values use only {used:.1%} of --scale {scale[0]:g},{scale[1]:g}: {self._range()}"
            )
        return (
            f"{among}{clipped:.1%} of the values lie outside --scale and were clipped"
            if clipped > SOME_CLIPPED
            else None
        )

    def _range(self) -> str:
        return (
            f"they run from {self.lowest:g} to {self.highest:g}; expect a wrong mask unless --scale fits them"
        )
