"""Checks on a small sample of a readable raster for what would make a mask wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.errors import InputError
from rsedge.raster.band_plan import BandPlan
from rsedge.raster.cache import exact_cache
from rsedge.raster.reader import RasterReader
from rsedge.raster.values import Pixels, Valid
from rsedge.tiling.window import Window

ACROSS = 4  # windows along a side, from edge to edge
SIDE, PATCH = 128, 64  # pixels per side of a window, and of a patch of it
FLAT_ROWS = 16  # least height of a window if blocks span the raster's width
WINDOW_BYTES = 4 << 20  # approximate size of such a window
SHARED_BYTES = 16 << 20  # largest row of blocks cached between windows; a run's cache is never smaller
FEW_PIXELS = 4 << 20  # a raster of at most this size may be decoded whole
LEAST_PIXELS = 1024  # least sample from which the range of values is judged
BETWEEN = 0.01  # greatest share of a plain alpha band's values that are neither 0 nor the maximum
REMOVED = 0.25  # share of pixels that an alpha band may remove without a note
COLLAR = 0.04  # least share of the sample that one colour at the edge must fill for a note
DARK = 100  # maximum of an 8-bit raster that suggests values not scaled to 255; percentages end at 100


@dataclass(frozen=True)
class _Patch:
    """A few pixels: the plan's bands as stored (bands, h, w), validity (h, w), and alpha (alphas, h, w)."""

    window: Window
    stored: Pixels
    valid: Valid
    alphas: Pixels

    def colour(self) -> tuple[Any, ...] | None:
        """Return the colour if all pixels share it and hold data, else None."""
        first = self.stored[:, 0, 0]
        is_flat = self.valid.all() and (self.stored == first[:, None, None]).all()
        return tuple(v.item() for v in first) if is_flat else None


def look(reader: RasterReader, plan: BandPlan) -> tuple[str, ...]:
    """Return notes on doubtful alpha bands, values that do not use 8 bits, and borders not marked as nodata.

    At most 16 windows of 128 x 128 pixels are read, spread from edge to edge; if a row cannot be decoded without
    the rows above, only windows at the top. Damaged windows are skipped: the run reports those that it needs.
    """
    patches = list(_patches(reader, plan))
    if not patches:
        return ()
    notes = [*_odd_alpha(plan, patches), _few_values(reader, plan, patches), _collar(reader, patches)]
    return tuple(note for note in notes if note)


def seems_alpha(reader: RasterReader, index: int) -> bool:
    """Return True if a band is 0 or its maximum in nearly every pixel of a sample, as alpha is."""
    plan = BandPlan((index,), reader.dtypes[index - 1], alphas=())
    seen = [patch.stored.ravel() for patch in _patches(reader, plan)]
    return not seen or _between(np.concatenate(seen)) <= BETWEEN


def _patches(reader: RasterReader, plan: BandPlan) -> Iterator[_Patch]:
    plan_alphas = plan.alphas or ()
    held = reader.row_of_blocks_bytes
    with exact_cache(held if held <= SHARED_BYTES else 0):
        for window in _windows(reader):
            try:
                stored, valid = reader.read_stored(window, plan)
                alphas = reader.read_bands(window, plan_alphas) if plan_alphas else stored[:0]
            except InputError:
                continue
            for row, high in _cut(window.height):
                for col, wide in _cut(window.width):
                    place = Window(window.row + row, window.col + col, high, wide)
                    area = (slice(row, row + high), slice(col, col + wide))
                    yield _Patch(
                        place, stored[(slice(None), *area)], valid[area], alphas[(slice(None), *area)]
                    )


def _cut(length: int) -> list[tuple[int, int]]:
    """Return starts and lengths of patches along a side; the last one takes the remainder."""
    starts = range(0, max(1, length - PATCH + 1), PATCH)
    return [(start, PATCH if start != starts[-1] else length - start) for start in starts]


def _windows(reader: RasterReader) -> list[Window]:
    """Return windows spread from edge to edge so that each block that they touch is decoded once."""
    (height, width), block = reader.stored_size, reader.block_shape
    shared = reader.row_of_blocks_bytes <= SHARED_BYTES
    striped = block[1] >= width
    high = WINDOW_BYTES * block[0] // max(1, reader.row_of_blocks_bytes)
    rows = _spread(height, min(SIDE, max(FLAT_ROWS, high)) if striped else SIDE, block[0], shared)
    if reader.decodes_from_start and height * width > FEW_PIXELS:
        rows = rows[:1]
    cols = [(0, width)] if striped else _spread(width, SIDE, block[1], shared)
    return [Window(row, col, high, wide) for row, high in rows for col, wide in cols]


def _spread(length: int, side: int, block: int, shared: bool) -> list[tuple[int, int]]:
    """Return starts and lengths of up to `ACROSS` spans along a side, the first and the last at its ends."""
    side = min(side, length)
    starts = sorted({round(i * (length - side) / (ACROSS - 1)) for i in range(ACROSS)})
    if block >= side:  # all spans but the last are moved into one block each
        last = starts.pop()
        starts = sorted({*(min(s, (s // block + 1) * block - side) for s in starts), last})
    if not shared:
        starts = sorted({s // block: s for s in reversed(starts)}.values())
    return [(start, side) for start in starts]


def _between(alpha: NDArray[Any]) -> float:
    """Return the share of the values that are neither 0 nor the greatest."""
    return float(np.mean((alpha != 0) & (alpha != alpha.max())))


def _odd_alpha(plan: BandPlan, patches: list[_Patch]) -> Iterator[str]:
    for place, index in enumerate(plan.alphas or ()):
        seen = np.concatenate([p.alphas[place].ravel() for p in patches])
        between, removed = _between(seen), float(np.mean(seen == 0))
        if between <= BETWEEN and removed <= REMOVED:
            continue
        odd = (
            f", but {between:.1%} of its values are partly transparent, as in near infrared tagged as alpha"
            if between > BETWEEN
            else ""
        )
        yield (
            f"band {index} is used as alpha and makes {removed:.1%} of a sample nodata{odd}; if the band is not alpha, "
            "give --alpha none"
        )


def _few_values(reader: RasterReader, plan: BandPlan, patches: list[_Patch]) -> str | None:
    """Return a note if an 8-bit model gets unscaled values that use only a part of 0 to 255."""
    if plan.dtype != "uint8" or plan.scale is not None or plan.palette:
        return None
    bits = max(reader.stored_bits[i - 1] for i in plan.indexes)
    if bits < 8:
        return (
            f"the raster's values have {bits} bits (0 to {2**bits - 1}) but the model was trained on 0 to 255: expect "
            f"a wrong mask without --scale 0,{2**bits - 1}"
        )
    seen = [p.stored[:, p.valid].ravel() for p in patches]
    values = np.concatenate(seen)
    if values.size < LEAST_PIXELS * len(plan.indexes) or not 0 < (most := int(values.max())) <= DARK:
        return None
    full = next((2**b - 1 for b in range(1, 7) if most < 2**b), DARK)
    return (
        f"no value of a sample is above {most} but the model was trained on 0 to 255: expect a wrong mask unless "
        f"white is 255 in this raster; otherwise give its range, such as --scale 0,{full}"
    )


def _collar(reader: RasterReader, patches: list[_Patch]) -> str | None:
    """Return a note if one colour fills patches at the raster's edge, or a strip along a side, but not the sample."""
    height, width = reader.stored_size
    found, often = Counter[tuple[Any, ...]](), Counter[tuple[Any, ...]]()
    at_edge = set[tuple[Any, ...]]()
    for patch in patches:
        if (colour := patch.colour()) is not None:
            w = patch.window
            found[colour] += w.height * w.width
            often[colour] += 1
            if w.row == 0 or w.col == 0 or w.row_end == height or w.col_end == width:
                at_edge.add(colour)
    at_edge = {colour for colour in at_edge if often[colour] > 1}
    several = len(found) > 1  # in a picture made of flat areas only greys are likely borders
    strips, sides = _strips(reader.stored_size, patches)
    found.update(strips)
    total = sum(p.valid.size for p in patches)
    for colour, pixels in found.most_common():
        is_grey = len(set(colour)) == 1
        whole = colour in at_edge and (is_grey or not several)
        strip = sides[colour] > (0 if is_grey else 1)
        if (whole or strip) and COLLAR <= pixels / total < 1:
            values = ",".join(f"{v:.9g}" for v in (colour[:1] if is_grey else colour))
            return (
                f"{pixels / total:.0%} of a sample is one colour that begins at the raster's edge and is not marked as "
                f"nodata; if this is a border, give --nodata {values}"
            )
    return None


def _strips(
    size: tuple[int, int], patches: list[_Patch]
) -> tuple[Counter[tuple[Any, ...]], Counter[tuple[Any, ...]]]:
    """Count, for each colour along a whole side, its pixels there in patches that are not flat, and its sides."""
    sides, masks = Counter[tuple[Any, ...]](), dict[tuple[tuple[Any, ...], int], Valid]()
    for is_row in (True, False):
        for is_far in (False, True):

            def turned(array: NDArray[Any], is_row: bool = is_row, is_far: bool = is_far) -> NDArray[Any]:
                """Turn ``array`` so that the side's outermost pixels come first along the last but one axis."""
                array = array if is_row else array.swapaxes(-1, -2)
                return array[..., ::-1, :] if is_far else array

            runs = dict[int, tuple[tuple[Any, ...], int]]()
            for i, patch in enumerate(patches):
                w = patch.window
                ends = (w.row, w.row_end - size[0]) if is_row else (w.col, w.col_end - size[1])
                if ends[is_far] == 0:
                    runs[i] = _run(turned(patch.stored), turned(patch.valid))
            if len({colour for colour, _ in runs.values()}) != 1 or not all(n for _, n in runs.values()):
                continue
            for i, (colour, n) in runs.items():
                mask = masks.setdefault((colour, i), np.zeros(patches[i].valid.shape, bool))
                turned(mask)[:n] = True
            sides[colour] += 1
    pixels = Counter[tuple[Any, ...]]()
    for (colour, i), mask in masks.items():
        if patches[i].colour() is None:
            pixels[colour] += int(np.count_nonzero(mask))
    return pixels, sides


def _run(stored: Pixels, valid: Valid) -> tuple[tuple[Any, ...], int]:
    """Return the colour of the first pixel, and how many rows from the first on are valid and of this colour."""
    first = stored[:, 0, 0]
    flat = (valid & (stored == first[:, None, None]).all(0)).all(1)
    return tuple(v.item() for v in first), len(flat) if flat.all() else int(flat.argmin())
