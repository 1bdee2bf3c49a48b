"""One scale for a whole survey, from a sample of its values; a scale per tile or raster would cause seams."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.errors import InputError
from rsedge.model.manifest import Manifest
from rsedge.raster.band_plan import AS_TAGGED, BandPlan, Masking
from rsedge.raster.bands import choose_bands, masked
from rsedge.raster.cache import exact_cache
from rsedge.raster.reader import RasterReader
from rsedge.raster.trust import NAMED, Trust
from rsedge.tiling.window import Window

MOST_WINDOWS = (64, 4096)  # per raster; the second if the first find no valid pixel
WINDOW = 256  # pixels a side; in striped rasters as many pixels in full rows
MOST_VALUES = 4_000_000  # in memory at a time
SOME_CLIPPED, MANY_CLIPPED = 0.05, 0.5  # shares of values outside the declared scale: a note, an error
# (percentiles 2 and 98, the defaults of --scale auto, leave out 4 % on purpose)
LITTLE_USED = 0.05  # share of the declared scale: if less is used, the model sees nearly one colour
MOST_DELIVERED = 1e9  # largest value of any sensor, in any unit; larger values are fillers of gaps
FILLERS = {-999.0, -9999.0, -32767.0, -32768.0, -99999.0, -2147483648.0}  # usual values of untagged gaps
RARE = 0.001  # share of the values
FAR = 20  # a value further from all others than this many of their spreads was not measured


@dataclass(frozen=True)
class _Sample:
    """The windows and bands to read from one raster."""

    path: Path | str
    plan: BandPlan
    windows: tuple[Window, ...]
    trust: Trust

    @property
    def values(self) -> int:
        return sum(w.height * w.width for w in self.windows) * len(self.plan.indexes)


def survey_scale(
    paths: Sequence[Path | str],
    bands: Sequence[int] | Manifest,
    low: float = 2,
    high: float = 98,
    masking: Masking = AS_TAGGED,
    trust: Trust = NAMED,
) -> tuple[float, float]:
    """Return one (low, high) for all ``paths``: percentiles of a sample of their valid pixels, all bands pooled.

    ``bands``: 1-based, the same in every raster; or a model's manifest, to take the bands that `plan_bands`
    chooses for each raster. ``low`` and ``high`` are percentiles, 0..100. At most 64 windows of 256 x 256 pixels
    are read from a raster, spread evenly, each of few blocks; if none has data, 4096. Nothing is drawn at
    random. If both percentiles are the same value, the minimum and the maximum replace them.
    ``masking``: nodata values and alpha that override the rasters' own; ``trust``: which files they may open.

    Raises InputError if no pixel is valid, all values are equal, a percentile is a filler of gaps rather than a
    measured value, or a raster cannot be read.
    """
    if not 0 <= low < high <= 100:
        raise InputError(f"percentiles {low:g} and {high:g} must be within 0..100, the lower one first")
    if not paths:
        raise InputError("no raster was given to take a scale from. Name at least one")
    for most in MOST_WINDOWS:
        samples = [_plan(path, bands, most, masking, trust) for path in paths]
        step = -(-sum(s.values for s in samples) // MOST_VALUES) | 1  # odd, to vary the columns by row
        pool = np.concatenate([_values(sample, step) for sample in samples])
        if pool.size:
            return _limits(pool, low, high)
    named = f"{paths[0]}" if len(paths) == 1 else f"any of {len(paths)} rasters"
    raise InputError(f"no valid pixel was found in {named} to take a scale from. Give --scale LOW,HIGH")


def check_scale(reader: RasterReader, plan: BandPlan) -> str | None:
    """Check the plan's scale on the windows that `survey_scale` reads; return a note if the scale may not fit.

    The result does not depend on how the raster is read later: values are those stored, even if the reader
    resamples. None without a scale, or if no sampled pixel holds data.

    Raises InputError if most of the values lie outside the scale.
    """
    if plan.scale is None:
        return None
    for most in MOST_WINDOWS:
        fit = _find_fit(reader, plan, plan.scale, most)
        if fit.values:
            return fit.judge(plan.scale)
    return None


@dataclass
class _Fit:
    """Statistics of the values seen so far, to judge a declared scale."""

    values: int = 0
    clipped: int = 0  # those outside the scale
    lowest: float = math.inf
    highest: float = -math.inf

    def add(self, seen: NDArray[Any], scale: tuple[float, float]) -> None:
        """Count further values, at least one."""
        self.values += seen.size
        self.clipped += int(np.count_nonzero((seen < scale[0]) | (seen > scale[1])))
        self.lowest = min(self.lowest, float(seen.min()))
        self.highest = max(self.highest, float(seen.max()))

    def judge(self, scale: tuple[float, float]) -> str | None:
        """Return a note if the scale looks wrong. Raises InputError if most values lie outside the scale."""
        clipped, used = self.clipped / self.values, (self.highest - self.lowest) / (scale[1] - scale[0])
        runs = f"they run from {self.lowest:g} to {self.highest:g}; expect a wrong mask unless --scale fits"
        if clipped > MANY_CLIPPED:
            raise InputError(f"in a sample, {clipped:.0%} of the values lie outside --scale: {runs}")
        if used < LITTLE_USED:
            return f"in a sample, the values use only {used:.1%} of --scale {scale[0]:g},{scale[1]:g}: {runs}"
        if clipped > SOME_CLIPPED:
            return f"in a sample, {clipped:.1%} of the values lie outside --scale and were clipped"
        return None


def _find_fit(reader: RasterReader, plan: BandPlan, scale: tuple[float, float], most: int) -> _Fit:
    windows, fit = spread_windows(reader.stored_size, reader.block_shape, most), _Fit()
    held = reader.row_of_blocks_bytes if _share_blocks(windows, reader.block_shape) else 0
    with exact_cache(held):
        for window in windows:
            stored, valid = reader.read_stored(window, plan)
            for band in stored:
                if (seen := band[valid]).size:
                    fit.add(seen, scale)
    return fit


def _share_blocks(windows: Sequence[Window], block: tuple[int, int]) -> bool:
    """Return True if two of the windows touch the same block."""
    touched = [
        (row, col)
        for w in windows
        for row in range(w.row // block[0], -(-w.row_end // block[0]))
        for col in range(w.col // block[1], -(-w.col_end // block[1]))
    ]
    return len(set(touched)) < len(touched)


def _plan(
    path: Path | str, bands: Sequence[int] | Manifest, most: int, masking: Masking, trust: Trust
) -> _Sample:
    with RasterReader(path, trust=trust) as reader:
        indexes = (
            choose_bands(reader, bands, masking=masking)[0] if isinstance(bands, Manifest) else tuple(bands)
        )
        if outside := [b for b in indexes if not 1 <= b <= len(reader.dtypes)]:
            raise InputError(f"{path} has no band {outside[0]}. Choose from bands 1 to {len(reader.dtypes)}")
        kinds = {reader.dtypes[b - 1] for b in indexes}
        if odd := sorted(k for k in kinds if k.startswith("complex")):
            raise InputError(f"{path} is stored as {odd[0]}, but a model reads real numbers only")
        windows = spread_windows((reader.grid.height, reader.grid.width), reader.block_shape, most)
        plan = BandPlan(indexes, np.result_type(*kinds).name)
        named = not isinstance(bands, Manifest)
        return _Sample(path, masked(reader, plan, masking, named=named), windows, trust)


def _values(sample: _Sample, step: int) -> NDArray[Any]:
    """Return every ``step``-th valid pixel of each window, all bands in one array (n,)."""
    found: list[NDArray[Any]] = []
    with RasterReader(sample.path, trust=sample.trust) as reader:
        area = Window(0, 0, reader.grid.height, reader.grid.width)
        with exact_cache(reader.cache_bytes(area, sample.plan, WINDOW)):
            for window in sample.windows:
                pixels, valid = reader.read(window, sample.plan)
                found.append(pixels[:, valid][:, ::step].ravel())
    return np.concatenate(found)


def _limits(pool: NDArray[Any], low: float, high: float) -> tuple[float, float]:
    first, last = (float(v) for v in np.percentile(pool, (low, high)))
    for value in (first, last):
        if abs(value) > MOST_DELIVERED:
            raise InputError(
                f"--scale auto: percentile {low:g} or {high:g} is {value:.9g}, which no sensor delivers. "
                f"{_advice(value)}"
            )
    for value in dict.fromkeys((first, last, float(pool.min()), float(pool.max()))):
        share = float(np.mean(pool == value))
        if share > RARE and (value in FILLERS or _is_isolated(pool, value)):
            raise InputError(
                f"--scale auto: {share:.1%} of the values are {value:.9g}, too far from all others to be "
                f"measured. {_advice(value)}"
            )
    if first < last:
        return first, last
    first, last = float(pool.min()), float(pool.max())
    if first == last:
        raise InputError(f"all values are {first:g}, so no scale fits. Give --scale LOW,HIGH")
    return first, last


def _advice(value: float) -> str:
    return f"If this value marks nodata, give --nodata {value:.9g}, else --scale LOW,HIGH"


def _is_isolated(pool: NDArray[Any], value: float) -> bool:
    """Return True if all other values lie on one side of ``value``, too far off for a sensor's values.

    A saturated sensor also delivers the values next to its limit. The ends of an integer dtype are fillers so often
    that a smaller gap suffices; in 8 bits they are black and white, so that a gap shows nothing.
    """
    kind = pool.dtype
    if kind.kind in "iu" and kind.itemsize == 1:
        return False
    rest = pool[pool != value].astype(np.float64)
    rest = rest[np.abs(rest) <= MOST_DELIVERED]  # other fillers are left out
    if not rest.size:
        return False
    gap = max(rest.min() - value, value - rest.max())
    spread = float(np.subtract(*np.percentile(rest, (90, 10)))) or float(np.ptp(rest))
    is_end = kind.kind in "iu" and value in (np.iinfo(kind).min, np.iinfo(kind).max)
    return bool(spread and gap > spread * (1 if is_end else FAR))


def spread_windows(size: tuple[int, int], block: tuple[int, int], most: int) -> tuple[Window, ...]:
    """Return at most ``most`` windows spread evenly over a raster of ``size`` (height, width), few blocks each."""
    height, width = size
    striped = block[1] >= width
    cells = [
        _cell(max(1, WINDOW * WINDOW // width) if striped else WINDOW, block[0]),
        (width, width) if striped else _cell(WINDOW, block[1]),
    ]
    for i in (0, 1):  # with fewer blocks than windows each block, which is decoded anyway, gets several
        while cells[i][0] > cells[i][1] and _count(size, cells) < most:
            cells[i] = max(cells[i][1], cells[i][0] // 2), cells[i][1]
    rows, cols = (math.ceil(side / cell) for side, (cell, _) in zip(size, cells, strict=True))
    some_rows = min(rows, most, max(1, round(math.sqrt(most * rows / cols))))
    some_cols = min(cols, most // some_rows)
    some_rows = min(rows, most // some_cols)
    return tuple(
        Window(row, col, high, wide)
        for row, high in _spans(height, cells[0], _evenly(rows, some_rows))
        for col, wide in _spans(width, cells[1], _evenly(cols, some_cols))
    )


def _cell(wanted: int, block: int) -> tuple[int, int]:
    """Return, along one side, the pixels from one window to the next (whole blocks), and those of a window."""
    cell = block if block >= wanted else block * (wanted // block)
    return cell, min(cell, wanted)


def _count(size: tuple[int, int], cells: list[tuple[int, int]]) -> int:
    return math.prod(math.ceil(side / cell) for side, (cell, _) in zip(size, cells, strict=True))


def _spans(length: int, cell: tuple[int, int], chosen: list[int]) -> Iterator[tuple[int, int]]:
    """Yield start and length of a window in the middle of each chosen cell."""
    for index in chosen:
        begin = cell[0] * index
        begin += min((cell[0] - cell[1]) // 2, max(0, length - begin - cell[1]))
        yield begin, min(cell[1], length - begin)


def _evenly(count: int, some: int) -> list[int]:
    return [(2 * i + 1) * count // (2 * some) for i in range(some)]
