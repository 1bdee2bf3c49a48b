"""Rasters read window by window on a coarser or finer grid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine

from rsedge.errors import InputError
from rsedge.raster import blocks
from rsedge.raster.band_plan import BandPlan
from rsedge.raster.grid import Grid
from rsedge.raster.reader import RasterReader
from rsedge.raster.trust import NAMED, Trust
from rsedge.raster.values import PIECE_PIXELS, Pixels, Valid, pieces
from rsedge.tiling.window import Window

FINEST = 1 / 32  # least factor; a smaller one comes from a wrong GSD
DOWN_BYTES, ACROSS_BYTES = 24, 40  # per source pixel of a piece, and per resampled pixel: float64 arrays
Weights = NDArray[np.float64]


class Resampled(RasterReader):
    """A raster on a grid of the same outline with pixels ``factor`` times as long (below 1: shorter).

    If pixels become longer, each is the mean of the area that it covers, fractions of pixels included;
    if they become shorter, values are interpolated linearly between the centres of pixels. Both are done
    on the model's values, after a scale or palette. Pixels without data do not contribute to a value; a pixel
    holds data if at least half of its sources do. Pixel values do not depend on the window.

    ``grid`` is the new grid, ``source_grid`` the raster's own. Raises InputError as `RasterReader` does, and
    if the factor is not finite or below 1/32.
    """

    def __init__(self, path: Path | str, factor: float, threads: int = 1, trust: Trust = NAMED) -> None:
        if not (math.isfinite(factor) and factor >= FINEST):
            raise InputError(f"the factor to resample a raster must be at least {FINEST:g}, not {factor:g}")
        super().__init__(path, threads, trust)
        self.source_grid, self.factor = self.grid, factor
        self.grid = scaled_grid(self.grid, factor)

    @property
    def _strip_unit(self) -> int:
        return 1

    def cache_bytes(
        self, area: Window, plan: BandPlan | None = None, most_rows: int = blocks.MOST_ROWS
    ) -> int:
        """Return the bytes that GDAL's cache must hold for `row_strips` of ``area`` to decode each block once.

        Never 0, because neighbouring strips share one or two rows of source pixels.
        """
        begin, end = (
            self._cols(replace(area, width=1)).begin,
            self._cols(replace(area, col=area.col_end - 1, width=1)).end,
        )
        source = Window(self._rows(replace(area, height=1)).begin, begin, 1, end - begin)
        return self._unaligned_cache_bytes(source, plan, blocks.MOST_ROWS)

    def extra_bytes(self, area: Window, plan: BandPlan) -> int:
        """Return `RasterReader.extra_bytes`: the source pixels of a group of rows, and arrays to resample them."""
        cols, strip_rows = self._cols(area), max(strip.height for strip in self.first_strips(area))
        width, ratio = cols.end - cols.begin, self.source_grid.height / self.grid.height
        rows = min(
            self.source_grid.height,
            max(blocks.MOST_ROWS, math.ceil(ratio) + 2),
            math.ceil(strip_rows * ratio) + 3,
        )
        maybe = self.may_have_nodata(plan)
        source_bytes = rows * width * (plan.outputs * np.dtype(plan.dtype).itemsize + 1)
        some = max(1, min(strip_rows, PIECE_PIXELS // max(width, area.width)))
        summing = some * (width * DOWN_BYTES + area.width * ACROSS_BYTES) + rows * width * maybe
        some_rows = self._rows(Window(area.row, area.col, min(area.height, strip_rows), 1))
        kept = sum(side.index.nbytes + side.weight.nbytes for side in (some_rows, cols))
        reading = self._beside_bytes(rows, width, plan)
        return source_bytes + max(reading, summing) + 2 * kept + self._decoder_bytes

    def read_into(self, window: Window, plan: BandPlan, image: Pixels, valid: Valid) -> bool:
        """Read as `RasterReader.read_into`, with a ``window`` of the new grid."""
        self._check_fit(window, plan, image, valid)
        cols, all_valid, begin = self._cols(window), True, 0
        for rows in self._rows(window).groups(blocks.MOST_ROWS):
            part = slice(begin, begin + len(rows.index))
            whole = self._read_group(rows, cols, plan, image[:, part], valid[part])
            if not whole and all_valid:
                valid[:begin] = True
            elif whole and not all_valid:
                valid[part] = True
            all_valid, begin = all_valid and whole, part.stop
        return all_valid

    def read_raw(self, window: Window) -> Pixels:
        """Return all bands as stored, (bands, h, w), of the source pixels that hold the new pixels' centres."""
        rows = upsample_index(self.source_grid.height, self.grid.height, window.row, window.row_end)
        cols = upsample_index(self.source_grid.width, self.grid.width, window.col, window.col_end)
        source = Window(int(rows[0]), int(cols[0]), int(rows[-1] - rows[0]) + 1, int(cols[-1] - cols[0]) + 1)
        return super().read_raw(source)[:, rows - rows[0]][:, :, cols - cols[0]]

    def _read_group(self, rows: Taps, cols: Taps, plan: BandPlan, image: Pixels, valid: Valid) -> bool:
        """Fill rows of resampled pixels; a separate function, so that one group's source pixels are held at a time."""
        window = Window(rows.begin, cols.begin, rows.end - rows.begin, cols.end - cols.begin)
        shape = window.height, window.width
        source, found = np.empty((plan.outputs, *shape), plan.dtype), np.empty(shape, np.bool_)
        holds = None if super().read_into(window, plan, source, found) else found
        return _resample(source, holds, rows.moved(), cols.moved(), image, valid)

    def _rows(self, window: Window) -> Taps:
        return taps(self.source_grid.height, self.grid.height, window.row, window.row_end)

    def _cols(self, window: Window) -> Taps:
        return taps(self.source_grid.width, self.grid.width, window.col, window.col_end)


@dataclass(frozen=True)
class Taps:
    """Source pixels (n, k) and their weights for each of n pixels along one side.

    ``weight`` are whole numbers that sum to ``total`` for every pixel: for stored integers all sums are then
    exact, so that a pixel's value cannot depend on the window read.
    """

    index: NDArray[np.intp]
    weight: Weights
    total: float

    @property
    def begin(self) -> int:
        """Return the first source pixel."""
        return int(self.index.min())

    @property
    def end(self) -> int:
        """Return the index after the last source pixel."""
        return int(self.index.max()) + 1

    def part(self, begin: int, end: int) -> Taps:
        """Return the taps of pixels ``begin .. end``."""
        return replace(self, index=self.index[begin:end], weight=self.weight[begin:end])

    def moved(self) -> Taps:
        """Return the taps with indexes counted from the first source pixel."""
        return replace(self, index=self.index - self.begin)

    def groups(self, most: int) -> Iterator[Taps]:
        """Yield parts, in order, of at most ``most`` source pixels each, or of one pixel."""
        first, last = self.index.min(1), self.index.max(1)
        begin = 0
        while begin < len(first):
            end = begin + max(1, int(np.searchsorted(last[begin:], first[begin] + most)))
            yield self.part(begin, end)
            begin = end


def open_resampled(path: Path | str, factor: float, threads: int = 1) -> Resampled:
    """Open the raster at ``path`` with pixels ``factor`` times as long: the model's GSD over the raster's."""
    return Resampled(path, factor, threads)


def resample_factor(grid: Grid, gsd_m: float) -> float:
    """Return the factor for `open_resampled` that gives a raster the ground sampling distance ``gsd_m`` (metres).

    Raises InputError if the raster's own distance is unknown or ``gsd_m`` is not positive.
    """
    if not (math.isfinite(gsd_m) and gsd_m > 0):
        raise InputError(f"the ground sampling distance must be positive and finite, not {gsd_m:g} m")
    if grid.gsd_m is None:
        raise InputError(
            f"the raster cannot be resampled to {gsd_m:g} m: without CRS and geotransform its ground sampling distance "
            "is unknown. Leave --resample out, or georeference the raster"
        )
    return gsd_m / grid.gsd_m


def scaled_grid(grid: Grid, factor: float) -> Grid:
    """Return the grid of the same outline with sides ``factor`` times shorter, rounded, at least 1 pixel."""
    height, width = (max(1, round(side / factor)) for side in (grid.height, grid.width))
    down, along = grid.height / height, grid.width / width
    points = tuple(
        GroundControlPoint(p.row / down, p.col / along, p.x, p.y, p.z, p.id, p.info) for p in grid.gcps
    )
    t = grid.transform
    if not t.is_identity:  # the identity means no transform and stays
        t = Affine(t.a * along, t.b * down, t.c, t.d * along, t.e * down, t.f)
    return Grid(height, width, grid.crs, t, points, _scaled_rpcs(grid.rpcs, down, along))


def _scaled_rpcs(rpcs: Any, down: float, along: float) -> Any:
    """Return RPCs for the new lines and samples, which are counted from pixels' centres."""
    if rpcs is None:
        return None
    scaled = type(rpcs)(**rpcs.to_dict())
    scaled.line_off, scaled.samp_off = (rpcs.line_off + 0.5) / down - 0.5, (rpcs.samp_off + 0.5) / along - 0.5
    scaled.line_scale, scaled.samp_scale = rpcs.line_scale / down, rpcs.samp_scale / along
    return scaled


def upsample_index(coarse: int, fine: int, begin: int = 0, end: int | None = None) -> NDArray[np.intp]:
    """Return, for each of ``fine`` pixels, ``begin`` to ``end``, the index of the ``coarse`` pixel at its centre."""
    number = np.arange(begin, fine if end is None else end, dtype=np.int64)
    return np.asarray((2 * number + 1) * coarse // (2 * fine), np.intp)


def taps(source: int, made: int, first: int = 0, end: int | None = None) -> Taps:
    """Return the taps that resample ``source`` pixels to ``made``: means if fewer, else linear interpolation.

    Covers the resampled pixels ``first`` to ``end`` (None: all).
    """
    number = np.arange(first, made if end is None else end, dtype=np.int64)
    if made <= source:
        # In units of 1/made of a source pixel, a source pixel is `made` long and a resampled one `source` long.
        left, right = number * source, (number + 1) * source
        index = (left // made)[:, None] + np.arange(-(-source // made) + 1)
        weight = np.minimum(right[:, None], (index + 1) * made) - np.maximum(left[:, None], index * made)
        total = source
    else:
        # Centres in units of 1/(2 made) of a source pixel, from the centre of the first.
        centre = (2 * number + 1) * source - made
        near, beyond = np.divmod(centre, 2 * made)
        index = np.stack([near, near + 1], 1)
        weight, total = np.stack([2 * made - beyond, beyond], 1), 2 * made
    weight = np.maximum(weight, 0)
    used = weight.any(0)
    last = np.where(weight > 0, index, -1).max(1, keepdims=True)
    index = np.clip(np.minimum(index, np.maximum(last, 0)), 0, source - 1)
    return Taps(index[:, used].astype(np.intp), weight[:, used].astype(np.float64), float(total))


def _resample(
    source: Pixels, holds: Valid | None, rows: Taps, cols: Taps, image: Pixels, valid: Valid
) -> bool:
    """Fill ``image`` (bands, h, w) from ``source``; ``holds`` is the mask of its valid pixels, None: all.

    Sets invalid pixels of ``source`` to 0. Returns True if all of ``image`` holds data; if not,
    ``valid`` (h, w) is filled.
    """
    whole = rows.total * cols.total
    if holds is not None:
        np.copyto(source, 0, where=~holds)  # 0 times NaN is NaN
    for part in pieces(len(rows.index), max(source.shape[2], len(cols.index))):
        some = rows.part(part.start, part.stop)
        weight: Any = whole
        if holds is not None:
            weight = _sums(holds, some, cols)
            np.greater_equal(2 * weight, whole, out=valid[part])
            np.maximum(weight, 1, out=weight)
        for band, out in zip(source, image[:, part], strict=True):
            mean = _sums(band, some, cols)
            mean /= weight
            out[...] = mean if out.dtype.kind == "f" else np.rint(mean, out=mean)
    return holds is None or bool(valid.all())


def _sums(band: NDArray[Any], rows: Taps, cols: Taps) -> Weights:
    """Return weighted sums (h, w), added tap by tap, so that their order is the same in every window."""
    down = np.zeros((len(rows.index), band.shape[1]))
    for index, weight in zip(rows.index.T, rows.weight.T, strict=True):
        down += band[index] * weight[:, None]
    sums = np.zeros((len(rows.index), len(cols.index)))
    for index, weight in zip(cols.index.T, cols.weight.T, strict=True):
        sums += down[:, index] * weight
    return sums
