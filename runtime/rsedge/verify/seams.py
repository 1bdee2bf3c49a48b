"""Visibility of tile borders: how much more a shifted tiling changes a mask along borders than elsewhere."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from rsedge.backends import Backend
from rsedge.engine import sliding_window as engine
from rsedge.engine.sliding_window import Progress, Source, Strip
from rsedge.errors import InputError
from rsedge.infer.inputs import plan_run
from rsedge.infer.options import Options
from rsedge.model.manifest import NODATA
from rsedge.raster import RasterReader, bounded_cache
from rsedge.tiling.axes import Axis, Seam, Tiling

BORDER_PX = 8  # pixels on either side of a border that count as near
SHIFT = 0.5  # of a stride, which puts the other tiling's borders into the middle of this one's tiles
JUMP = 1 / 8  # change of a window's weight between adjacent pixels that makes a border


@dataclass(frozen=True)
class Seams:
    """Difference between two masks of a raster whose tilings are half a stride apart.

    "Near" means within ``border_px`` of a border of either tiling, see ``borders``. Pixels without data are not
    counted. Raises InputError if the counts contradict each other.
    """

    seam: Seam
    overlap: float
    border_px: int
    near_pixels: int
    far_pixels: int
    near_differing: int
    far_differing: int
    near_share: float | None  # share of near pixels whose class differs; None without near pixels
    elsewhere_share: float | None  # the same share of all other pixels
    ratio: float | None  # near_share / elsewhere_share: 1 if borders do not show; None if undefined

    @classmethod
    def of(cls, options: Options, pixels: tuple[int, int], differing: tuple[int, int]) -> Seams:
        """Compute the shares from counts (near borders, elsewhere)."""
        shares = [d / n if n else None for d, n in zip(differing, pixels, strict=True)]
        near, elsewhere = shares
        ratio = near / elsewhere if near is not None and elsewhere else None
        return cls(options.seam, options.overlap, BORDER_PX, *pixels, *differing, near, elsewhere, ratio)

    def __post_init__(self) -> None:
        if not (0 <= self.near_differing <= self.near_pixels and 0 <= self.far_differing <= self.far_pixels):
            raise InputError(f"{self}: more pixels differ than exist")

    @property
    def verdict(self) -> str:
        """The ratio in words, also if it is undefined."""
        if self.ratio is not None:
            return f"{self.ratio:.2f} times as often along borders"
        if self.near_share is None or self.elsewhere_share is None:
            return "no pixels with data near borders, or none elsewhere, so nothing to compare"
        if self.near_differing:
            return "only along borders"
        return "no pixel differs, so no border shows"


def measure_seams(
    model: Backend, raster: Path | str, options: Options | None = None, progress: Progress | None = None
) -> Seams:
    """Segment ``raster`` with two tilings, the second shifted by half a stride, and compare the masks.

    Uses overlap, seam, bands and scale of ``options``. The first mask is kept compressed in a temporary file, so
    memory is as for ``segment``. ``progress``: windows done of both runs, in total.

    Raises InputError (also if the raster is a single tile without borders) or BackendError.
    """
    options = options or Options()
    with RasterReader(raster) as reader, TemporaryDirectory(prefix="rsedge-seams-") as folder:
        plan, tiling = plan_run(reader, model.bundle.manifest, options)
        rows, cols = (replace(axis, shift=SHIFT) for axis in (tiling.rows, tiling.cols))
        shifted = Tiling(rows, cols)
        near = _near((tiling.rows, rows)), _near((tiling.cols, cols))
        if not (near[0].any() or near[1].any()):
            raise InputError(
                f"{raster} is {tiling.rows.length} x {tiling.cols.length} pixels, at most one tile of "
                f"{tiling.rows.tile}, so it has no tile borders; use a larger raster"
            )
        total = len(tiling) + len(shifted)
        waiting = Path(folder) / "mask.gz"
        with bounded_cache(reader.row_of_blocks_bytes):
            with gzip.open(waiting, "wb", compresslevel=1) as file:
                keep = _Keep(file)
                engine.run(model, Source(reader, plan, tiling), [keep], _part(progress, 0, total))
            with gzip.open(waiting, "rb") as file:
                meter = _Meter(file, *near)
                report = _part(progress, len(tiling), total)
                engine.run(model, Source(reader, plan, shifted), [meter], report)
    return Seams.of(options, *meter.counts)


def borders(axis: Axis) -> tuple[int, ...]:
    """Return where a seam would show along one axis: a border b lies between pixels b - 1 and b.

    A border is the middle of the overlap of two neighbours, and wherever a window's weight jumps. With "crop" or
    without overlap the middle is the cut between two windows' pixels. With "blend" windows fade in and out from
    weights near 0, which hides the outermost pixels of a tile, where a network is least reliable; what may show is
    the change from one window's opinion to the next, which is fastest, for the class, in the middle. So all ways to
    merge windows are measured along the same lines and can be compared. If neighbours overlap by much more than
    the ramp, as with "blend" and no overlap, weights jump at windows' edges too.
    """
    starts = np.array(axis.starts)
    middles = (starts[:-1] + starts[1:] + axis.size + 1) // 2
    jumps = set[int]()
    for number, start in enumerate(axis.starts):
        weight = axis.weights_of(number)
        around = np.concatenate([[0], weight, [0]])  # a window has no weight beyond its edges
        jumps.update((np.flatnonzero(np.abs(np.diff(around)) >= JUMP) + start).tolist())
    return tuple(sorted((set(middles.tolist()) | jumps) - {0, axis.length}))


def _near(axes: Sequence[Axis]) -> NDArray[np.bool_]:
    """Return a mask of an axis' pixels that are among the ``BORDER_PX`` on either side of a border."""
    near = np.zeros(axes[0].length, np.bool_)
    for axis in axes:
        for border in borders(axis):
            near[max(0, border - BORDER_PX) : border + BORDER_PX] = True
    return near


class _Keep:
    """Consumer that appends the rows of a mask to a file."""

    def __init__(self, file: BinaryIO | gzip.GzipFile) -> None:
        self._file = file

    def take(self, strip: Strip) -> None:
        """Append a strip's rows."""
        self._file.write(np.ascontiguousarray(strip.mask).data)


class _Meter:
    """Consumer that compares strips with the rows of a file from `_Keep`, near borders and elsewhere."""

    def __init__(
        self, file: BinaryIO | gzip.GzipFile, rows: NDArray[np.bool_], cols: NDArray[np.bool_]
    ) -> None:
        self._file, self._rows, self._cols = file, rows, cols
        self._near_pixels = self._pixels = self._near_differing = self._differing = 0

    def take(self, strip: Strip) -> None:
        """Count a strip's pixels."""
        height, width = strip.mask.shape
        other = np.frombuffer(self._file.read(height * width), np.uint8).reshape(height, width)
        near = self._rows[strip.row : strip.row + height, None] | self._cols
        valid = (other != NODATA) & (strip.mask != NODATA)
        differing = valid & (other != strip.mask)
        self._pixels += int(np.count_nonzero(valid))
        self._near_pixels += int(np.count_nonzero(valid & near))
        self._differing += int(np.count_nonzero(differing))
        self._near_differing += int(np.count_nonzero(differing & near))

    @property
    def counts(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Number of pixels and of differing pixels, each near borders and elsewhere."""
        return (
            (self._near_pixels, self._pixels - self._near_pixels),
            (self._near_differing, self._differing - self._near_differing),
        )


def _part(progress: Progress | None, done: int, total: int) -> Progress | None:
    return None if progress is None else lambda now, _: progress(done + now, total)
