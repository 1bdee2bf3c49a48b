"""Read, infer, blend, hand on: a model run by sliding window over a raster of any height.

Three threads: a reader ahead of the model, the model with blending, and the sinks behind it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rsedge.backends import Backend
from rsedge.blend import CropBand, RollingBand
from rsedge.manifest import NODATA
from rsedge.pipeline import Background, prefetch
from rsedge.raster import BandPlan, RasterReader
from rsedge.tiling import Tiling
from rsedge.window import Window

AHEAD = 2  # strips the reader may be ahead, and mask strips the sinks may be behind
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Strip:
    """Finished rows: ``mask`` (rows, width) of classes and NODATA, and ``image`` (bands, rows, width)."""

    row: int
    mask: NDArray[np.uint8]
    image: NDArray[Any]


class Sink(Protocol):
    """Takes finished strips, top to bottom, in the writer thread."""

    def take(self, strip: Strip) -> None:
        """Use one strip; its arrays are the sink's to read, not to keep or change."""
        ...


@dataclass
class Stats:
    """What a run did. Seconds are each stage's own work; stages overlap, so they do not add up."""

    windows: int = 0
    windows_skipped: int = 0  # without a single valid pixel
    valid_pixels: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("read", "infer", "blend", "write"), 0.0)
    )


class Timed:
    """Adds the time spent in its ``with`` block to one stage."""

    def __init__(self, stats: Stats, stage: str) -> None:
        self._stats, self._stage = stats, stage

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._stats.seconds[self._stage] += time.perf_counter() - self._begin


def run(
    backend: Backend,
    reader: RasterReader,
    plan: BandPlan,
    tiling: Tiling,
    sinks: list[Sink],
    progress: Progress | None = None,
) -> Stats:
    """Segment the whole raster, handing strips to every sink.

    Raises what the reader, the model or a sink raises; no thread outlives the call.
    """
    stats = Stats()

    def sink_all(strip: Strip) -> None:
        with Timed(stats, "write"):
            for sink in sinks:
                sink.take(strip)

    strips = prefetch(_read_rows(reader, plan, tiling, stats), AHEAD)
    try:
        with Background(sink_all, AHEAD) as background:
            for strip in _segment_rows(backend, strips, tiling, stats, progress):
                background.put(strip)
    finally:
        strips.close()  # type: ignore[attr-defined]  # prefetch is a generator
    return stats


def _read_rows(
    reader: RasterReader, plan: BandPlan, tiling: Tiling, stats: Stats
) -> Iterator[tuple[NDArray[Any], NDArray[np.bool_]]]:
    """For each row of windows, the rows of the raster that the row before it did not have."""
    rows, width = tiling.rows, tiling.cols.length
    begin = 0
    for start in rows.starts:
        end = start + rows.size
        with Timed(stats, "read"):
            strip = reader.read(Window(begin, 0, end - begin, width), plan)
        yield strip
        begin = end


def _segment_rows(
    backend: Backend,
    strips: Iterator[tuple[NDArray[Any], NDArray[np.bool_]]],
    tiling: Tiling,
    stats: Stats,
    progress: Progress | None,
) -> Iterator[Strip]:
    manifest = backend.bundle.manifest
    rows, cols, tile = tiling.rows, tiling.cols, manifest.tile
    image = np.empty((len(manifest.bands), rows.size, cols.length), manifest.dtype)
    valid = np.empty((rows.size, cols.length), np.bool_)
    fill = np.array(manifest.fill, manifest.dtype)[:, None, None]
    # Where the device finds the classes and each pixel is one window's, scores need not leave it.
    on_device = backend.classes_on_device and tiling.rows.seam == "crop"
    band: CropBand | RollingBand = (
        CropBand(tiling) if on_device else RollingBand(tiling, len(manifest.classes))
    )
    sent: deque[int] = deque()  # columns of windows that the model has not answered yet

    def windows() -> Iterator[NDArray[Any]]:
        for col, left in enumerate(cols.starts):
            right = left + cols.size
            stats.windows += 1
            if valid[:, left:right].any():
                pixels = np.where(valid[:, left:right], image[:, :, left:right], fill)
                sent.append(col)
                yield reflect(pixels, tile)[None]
            else:
                stats.windows_skipped += 1
            if progress:
                progress(stats.windows, len(tiling))

    kept = 0  # rows of image and valid carried over from the row of windows above
    ends = [*rows.starts[1:], rows.length]
    for start, end in zip(rows.starts, ends, strict=True):
        new_image, new_valid = next(strips)
        image[:, kept:], valid[kept:] = new_image, new_valid
        begin = time.perf_counter()
        for answer in _answers(backend, on_device, windows()):
            stats.seconds["infer"] += time.perf_counter() - begin
            with Timed(stats, "blend"):
                band.add(sent.popleft(), answer[0])
            begin = time.perf_counter()
        done = end - start
        with Timed(stats, "blend"):
            mask = band.finish_row()
            mask[~valid[:done]] = NODATA
            stats.valid_pixels += int(np.count_nonzero(valid[:done]))
        yield Strip(start, mask, image[:, :done].copy())
        kept = rows.size - done
        image[:, :kept], valid[:kept] = image[:, done:].copy(), valid[done:].copy()


def _answers(backend: Backend, on_device: bool, batches: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Of each tile its classes, (1, tile, tile), where the device finds them, else its scores."""
    return backend.stream_classes(batches) if on_device else backend.stream(batches)


def reflect(pixels: NDArray[Any], tile: int) -> NDArray[Any]:
    """Mirror (bands, h, w) rightwards and downwards up to (bands, tile, tile); never stretch."""
    while pixels.shape[1] < tile or pixels.shape[2] < tile:
        height, width = pixels.shape[1:]
        # numpy mirrors at most one side's length at a time; "symmetric" also serves a single pixel.
        grow = min(tile - height, height), min(tile - width, width)
        pixels = np.pad(pixels, ((0, 0), (0, grow[0]), (0, grow[1])), mode="symmetric")
    return pixels
