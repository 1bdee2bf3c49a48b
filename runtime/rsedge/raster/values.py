"""Valid pixels, and the mapping of stored values to model values. Numpy only, in bounded pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.raster.band_plan import PALETTE_BANDS, SCALED_MAX, BandPlan

Pixels = NDArray[Any]
Valid = NDArray[np.bool_]
Range = tuple[Any, Any]  # of stored values, both ends included
PIECE_PIXELS = 1 << 19  # of temporaries at a time
SHORT = [np.dtype(d) for d in ("u1", "i1", "u2", "i2")]  # dtypes with few enough values for a table


def pieces(height: int, width: int) -> Iterator[slice]:
    """Yield slices of rows with at most `PIECE_PIXELS` pixels, or one row."""
    rows = max(1, PIECE_PIXELS // width)
    for row in range(0, height, rows):
        yield slice(row, min(row + rows, height))


def piece_pixels(height: int, width: int) -> int:
    """Return the most pixels in one of the `pieces`."""
    return min(height, max(1, PIECE_PIXELS // width)) * width


@lru_cache(maxsize=256)
def stored_nodata(value: float | None, dtype: str) -> Range | None:
    """Return the least and greatest stored value that are nodata if a file's tag is ``value``; None if none is.

    Follows GDAL's mask: tags are decimals, often rounded, so floats match within a few units of the last place
    of float32. For integers the tag's fraction is dropped. NaN is always nodata, with or without a tag.
    """
    if value is None or np.isnan(value) or dtype.startswith("complex"):
        return None
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return _close_to(value, kind)
    limits = np.iinfo(kind)
    if not limits.min <= value <= limits.max:
        return None
    whole = kind.type(int(value))  # a Python int would make comparisons cast to float64
    return whole, whole


def _close_to(value: float, kind: np.dtype[Any]) -> Range:
    with np.errstate(over="ignore"):
        tag = kind.type(value)
        if not np.isfinite(tag):  # rounded beyond the largest float: GDAL reads infinity and masks nothing
            least, greatest = sorted((tag, kind.type(np.copysign(np.finfo(kind).max, tag))))
            return least, greatest
        most = _place(np.finfo(kind).max)
        ends = [_last_alike(tag, _place(tag), far) for far in (-most, most)]
    return ends[0], ends[1]


def _last_alike(tag: Any, near: int, far: int) -> Any:
    """Return the float furthest from ``tag`` towards the place ``far`` that GDAL takes as equal (ARE_REAL_EQUAL)."""
    kind, work = type(tag), np.float64 if tag.itemsize == 8 else np.float32
    b = work(tag)

    def is_alike(place: int) -> bool:
        a = work(_at(place, kind))  # in this dtype the sum of two very large values is infinite, as in GDAL
        return bool(a == b or abs(a - b) < work(np.finfo(np.float32).eps) * abs(a + b) * work(2))

    # Equal floats adjoin the tag. Only for the largest tags do they reach ``far``; others may have more far away.
    reach = 1 << 33 if tag.itemsize == 8 else 16
    step = max(near - reach, far) if far < near else min(near + reach, far)
    far = far if is_alike(step) else step
    while abs(far - near) > 1:
        middle = (near + far) // 2
        near, far = (middle, far) if is_alike(middle) else (near, middle)
    return _at(far if is_alike(far) else near, kind)


def _place(value: Any) -> int:
    """Return the rank of a float among all floats of its dtype, in order; 0.0 has rank 0."""
    bits = int(abs(value).view(f"u{value.itemsize}"))
    return -bits if value < 0 else bits


def _at(place: int, kind: Any) -> Any:
    found = np.array(abs(place), f"u{kind().itemsize}").view(kind)[()]
    return -found if place < 0 else found


def is_nodata(stored: NDArray[Any], nodata: Range) -> NDArray[np.bool_]:
    """Return a mask, True where ``stored`` lies in the range ``nodata`` of `stored_nodata`."""
    least, greatest = nodata
    if least == greatest:
        return np.asarray(stored == least)
    found = np.asarray(stored >= least)
    found &= stored <= greatest
    return found


def drop_nodata(stored: Pixels, nodata: Sequence[Range], valid: Valid) -> None:
    """Clear ``valid`` (h, w) where every band of ``stored`` (bands, h, w) lies in its range of ``nodata``."""
    for rows in pieces(*valid.shape):
        empty = is_nodata(stored[0, rows], nodata[0])
        for band, value in zip(stored[1:], nodata[1:], strict=True):
            if not empty.any():
                break
            empty &= is_nodata(band[rows], value)
        valid[rows] &= ~empty


def drop_not_finite(stored: Pixels, valid: Valid) -> None:
    """Clear ``valid`` (h, w) where a band of ``stored`` (bands, h, w) is NaN or infinite."""
    for band in stored:
        for rows in pieces(*valid.shape):
            valid[rows] &= np.isfinite(band[rows])


def expand_palette(stored: Pixels, plan: BandPlan, image: Pixels, valid: Valid | None) -> None:
    """Write the palette colours of ``stored`` (1, h, w) into ``image`` (3, h, w).

    Clears ``valid`` where a colour is transparent; None if no colour is.
    """
    table = palette_table(plan)
    for rows in pieces(*stored.shape[1:]):
        for band, colors in zip(image, table.T, strict=False):
            np.take(colors, stored[0, rows], out=band[rows], mode="clip")
        if valid is not None:
            valid[rows] &= np.take(table[:, len(PALETTE_BANDS)], stored[0, rows], mode="clip") > 0


def palette_table(plan: BandPlan) -> NDArray[np.uint8]:
    """Return RGBA by value, (n, 4); the last row, transparent, is for values that the palette does not list."""
    return np.array([*plan.palette, (0, 0, 0, 0)], np.uint8)


def map_scale(stored: Pixels, plan: BandPlan, image: Pixels, valid: Valid | None) -> None:
    """Map ``stored`` (bands, h, w) by the plan's scale into ``image``: to 0 .. `SCALED_MAX` of its dtype, clipped.

    Where ``valid`` (h, w) is False the image is 0; None if all pixels are valid.
    """
    assert plan.scale is not None
    low, high = plan.scale
    table = None
    if stored.dtype in SHORT:
        table = _scale_table(stored.dtype.str, (float(low), float(high)), image.dtype.str)
    for rows in pieces(*stored.shape[1:]):
        empty = None if valid is None else ~valid[rows]
        for band, out in zip(stored[:, rows], image[:, rows], strict=True):
            if table is not None:
                np.take(table, band.view(f"u{band.itemsize}"), out=out, mode="clip")  # clips nothing
                if empty is not None:
                    out[empty] = 0
            else:
                out[...] = _scaled(band, plan.scale, out.dtype, empty)


@lru_cache(maxsize=8)
def _scale_table(stored: str, scale: tuple[float, float], dtype: str) -> Pixels:
    """Return the mapped value of each value of a short integer, indexed by its bits."""
    kind = np.dtype(stored)
    values = np.arange(1 << 8 * kind.itemsize, dtype=f"u{kind.itemsize}").view(kind)
    return _scaled(values, scale, np.dtype(dtype)).astype(dtype)


def _scaled(
    values: Pixels, scale: tuple[float, float], dtype: np.dtype[Any], empty: Valid | None = None
) -> NDArray[np.float64]:
    (low, high), top = scale, SCALED_MAX[dtype.name]
    known = values.astype(np.float64)
    if empty is not None:
        known[empty] = low  # NaN fits no integer, and a nodata value may overflow
    known -= low
    known *= top / (high - low)
    np.clip(known, 0, top, out=known)
    return known if dtype.kind == "f" else np.rint(known, out=known)
