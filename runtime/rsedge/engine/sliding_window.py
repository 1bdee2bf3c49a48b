"""Sliding-window inference over a raster of any height, or an area of a raster.

Four threads, each a bounded number of steps ahead of the next: one reads strips of the raster, one runs the
model on tiles, the calling one blends, and one passes finished rows to the sinks.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rsedge.backends import Backend
from rsedge.engine.pipeline import Background, Busy, prefetch
from rsedge.engine.stages import Stats, Timed
from rsedge.model.manifest import NODATA
from rsedge.raster import BandPlan, RasterReader
from rsedge.tiling.axes import Tiling
from rsedge.tiling.blend import CropBand, RollingBand, Spans
from rsedge.tiling.window import Window

AHEAD = 1  # strips read ahead, and rows waiting to be written, while the model runs
ANSWERS_AHEAD = 2  # batches of scores that are ready or being computed while one is blended
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Strip:
    """Finished rows of the area: ``mask`` (rows, width) of classes and NODATA, whose first pixel is ``row``, ``col``.

    ``percent`` (classes, rows, width): each class's share in integer percents, NODATA where the mask is NODATA;
    None if not requested.
    """

    row: int
    col: int
    mask: NDArray[np.uint8]
    percent: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Pixels:
    """Rows as read: ``image`` (bands, h, w) with nodata pixels filled, and ``valid`` (h, w); None: all are valid."""

    window: Window
    image: NDArray[Any]
    valid: NDArray[np.bool_] | None


class Sink(Protocol):
    """A consumer of finished strips, top to bottom, in the writer thread."""

    def take(self, strip: Strip) -> None:
        """Consume one strip; the sink may keep its arrays but not change them."""
        ...


class Inside(Protocol):
    """A selection of pixels."""

    def touches(self, window: Window) -> bool:
        """Return True if any pixel of ``window`` is inside."""
        ...

    def inside(self, window: Window) -> NDArray[np.bool_]:
        """Return a boolean mask (h, w), True inside the area."""
        ...

    @property
    def filling_bytes(self) -> int:
        """Return the bytes that `inside` needs besides its result."""
        ...


@dataclass(frozen=True)
class Source:
    """The input of a run: an ``area`` of a raster (None: all of it), limited to pixels ``inside`` (None: all)."""

    reader: RasterReader
    plan: BandPlan
    tiling: Tiling
    area: Window | None = None
    inside: Inside | None = None
    watch: Callable[[Pixels], None] | None = None  # sees every strip read, in the reader's thread


def run(
    backend: Backend,
    source: Source,
    sinks: list[Sink],
    progress: Progress | None = None,
    probabilities: bool = False,
) -> Stats:
    """Segment the source's area and pass strips to every sink; ``progress``: windows done, windows in all.

    Every pixel of the area is the same as in a run over the whole raster.

    Raises the errors of the reader, the model or a sink; no thread outlives the call.
    """
    stats, busy = Stats(), Busy()
    with busy.alive():
        _run(backend, source, sinks, progress, probabilities, stats, busy)
    stats.busy_s = busy.seconds
    return stats


def _run(
    backend: Backend,
    source: Source,
    sinks: list[Sink],
    progress: Progress | None,
    probabilities: bool,
    stats: Stats,
    busy: Busy,
) -> None:
    spans = Spans(source.tiling, source.area)
    # If the device finds classes and each pixel belongs to one window, scores need not leave the device.
    on_device = backend.classes_on_device and source.tiling.rows.seam == "crop" and not probabilities
    band = (
        CropBand(spans)
        if on_device
        else RollingBand(spans, len(backend.bundle.manifest.classes), probabilities)
    )

    def sink_all(strip: Strip) -> None:
        with Timed(stats, "encode"):
            for sink in sinks:
                sink.take(strip)

    strips = _Strips(source, spans, stats, backend.bundle.manifest.fill)
    tiles = _Tiles(backend, spans, strips, stats, on_device, busy)
    steps = prefetch(tiles.steps(), ANSWERS_AHEAD, "rsedge-model", busy)
    try:
        with Background(sink_all, AHEAD, busy) as background:
            for step in steps:
                if isinstance(step, _Answers):
                    with Timed(stats, "blend"):
                        for col, scores in zip(step.cols, step.answers, strict=False):
                            if not band.add(col, scores):
                                backend.check_finite(scores.sum())
                else:
                    with Timed(stats, "blend"):
                        strip = _finish(band, step, spans)
                    if strip is not None:
                        missing = 0 if step.valid is None else np.count_nonzero(~step.valid)
                        stats.valid_pixels += strip.mask.size - int(missing)
                        background.put(strip)
                if progress:
                    progress(stats.windows, len(spans))
    finally:
        steps.close()


@dataclass(frozen=True)
class _Answers:
    """The model's output for a batch: each tile's column of windows, and its scores or classes."""

    cols: tuple[int, ...]
    answers: NDArray[Any]


@dataclass(frozen=True)
class _RowDone:
    """The end of a row of windows; ``valid``: mask of the area's rows now complete, None if all pixels are valid."""

    row: int
    valid: NDArray[np.bool_] | None


def _finish(band: RollingBand | CropBand, done: _RowDone, spans: Spans) -> Strip | None:
    mask, percent = band.finish_row()
    if not len(mask):
        return None
    if done.valid is not None:
        mask[~done.valid] = NODATA
        if percent is not None:
            percent[:, ~done.valid] = NODATA
    return Strip(spans.done(done.row)[0], spans.area.col, mask, percent)


_Held = tuple[Pixels, Callable[[], None]]  # a strip, and what to call when it is no longer used


class _Strips:
    """Reader of the strips that an area needs, which decodes each block once and reuses memory."""

    def __init__(self, source: Source, spans: Spans, stats: Stats, fill: tuple[float, ...]) -> None:
        self._source, self._stats = source, stats
        self._windows = source.reader.iter_strips(spans.outline)
        first = source.reader.first_strips(spans.outline)
        self._shape = max(w.height for w in first), spans.outline.width
        self._fill = np.array(fill, source.plan.dtype)[:, None, None]
        self._may_lack = source.reader.may_have_nodata(source.plan)
        self._free: SimpleQueue[tuple[NDArray[Any], NDArray[np.bool_]]] = SimpleQueue()

    def read(self) -> Iterator[_Held]:
        """Yield each strip, top to bottom, and a function to call when the strip is no longer used."""
        plan, reader, inside = self._source.plan, self._source.reader, self._source.inside
        for window in self._windows:
            memory = image, valid = self._memory()
            # A strip of fewer rows uses the front of the same memory, so that it is contiguous, too.
            shape = window.height, window.width
            image = image[: len(self._fill) * shape[0] * shape[1]].reshape(len(self._fill), *shape)
            valid = (
                valid[: shape[0] * shape[1]].reshape(shape) if valid.size else np.broadcast_to(True, shape)
            )
            with Timed(self._stats, "read"):
                whole = reader.read_into(window, plan, image, valid)
                if not whole:
                    np.copyto(image, self._fill, where=~valid)
                if inside is not None:
                    valid = inside.inside(window) & (valid if not whole else True)
                    whole = bool(valid.all())
                strip = Pixels(window, image, None if whole else valid)
                if self._source.watch:
                    self._source.watch(strip)
            yield strip, partial(self._free.put, memory)

    def _memory(self) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        try:
            return self._free.get_nowait()
        except Empty:
            pixels = self._shape[0] * self._shape[1]
            image = np.empty(len(self._fill) * pixels, self._source.plan.dtype)
            return image, np.empty(pixels if self._may_lack else 0, np.bool_)


class _Tiles:
    """The cutting of tiles out of the strips, and their inference, in the model's thread."""

    def __init__(
        self, backend: Backend, spans: Spans, strips: _Strips, stats: Stats, on_device: bool, busy: Busy
    ) -> None:
        self._backend, self._spans, self._stats = backend, spans, stats
        self._strips, self._on_device, self._busy = strips, on_device, busy
        self._held = deque[_Held]()  # strips that the next row needs
        self._waited_s = 0.0  # for strips
        m = backend.bundle.manifest
        self._batch = np.empty((max(1, backend.batch), len(m.bands), m.tile, m.tile), m.dtype)

    def steps(self) -> Iterator[_Answers | _RowDone]:
        """Yield answers row by row, and a ``_RowDone`` after each row of windows."""
        rows = deque(self._spans.rows.windows)
        strips = prefetch(self._strips.read(), AHEAD, busy=self._busy)
        try:
            while rows:
                yield from self._rows(rows, strips)
        finally:
            strips.close()

    def _rows(self, rows: deque[int], strips: Iterator[_Held]) -> Iterator[_Answers | _RowDone]:
        """Yield the steps of the next rows in one stream of the model, which need not wait at the end of each."""
        sent: deque[tuple[int, ...] | _RowDone] = (
            deque()
        )  # columns of batches not yet answered, and ends of rows
        backend, batches = self._backend, self._batches(rows, strips, sent)
        answers: Iterator[NDArray[Any]] = (
            backend.stream_classes(batches) if self._on_device else backend.stream(batches)
        )
        # Of the answers ahead and the one being blended.
        too_few = backend.kept is not None and backend.kept <= ANSWERS_AHEAD
        try:
            while (answer := self._timed(answers)) is not None:
                while isinstance(cols := sent.popleft(), _RowDone):
                    yield cols
                if too_few:
                    with Timed(self._stats, "copy_out"):
                        answer = answer.copy()
                yield _Answers(cols, answer)
            for last in sent:
                assert isinstance(last, _RowDone)
                yield last
        finally:  # the model may be working on tiles whose memory is freed next
            if isinstance(answers, Generator):
                answers.close()

    def _timed(self, answers: Iterator[NDArray[Any]]) -> NDArray[Any] | None:
        """Return the next answer, and count its time as inference, without copies, waiting and ``_batches``."""
        seconds, copies = self._stats.seconds, self._backend.copy_s
        before, other_s, began = dict(copies), seconds["pre"] + self._waited_s, time.perf_counter()
        answer = next(answers, None)
        infer_s = time.perf_counter() - began - (seconds["pre"] + self._waited_s - other_s)
        for way, was in before.items():
            seconds[way] += copies[way] - was
            infer_s -= copies[way] - was
        seconds["infer"] += infer_s
        return answer

    def _batches(
        self, rows: deque[int], strips: Iterator[_Held], sent: deque[tuple[int, ...] | _RowDone]
    ) -> Iterator[NDArray[Any]]:
        """Yield batches of the next rows' tiles that hold a valid pixel, in reused memory.

        Ends after a row without any, so that ``sent`` holds no more rows than batches.
        """
        spans, has_data = self._spans, True
        while rows and has_data:
            row, has_data = rows.popleft(), False
            begin, end = spans.rows.axis.starts[row], spans.rows.axis.ends[row]
            self._hold(strips, end)
            for cols in self._row(begin, end):
                has_data = True
                sent.append(cols)
                yield self._batch[: len(cols)]
            with Timed(self._stats, "pre"):
                sent.append(_RowDone(row, self._valid(*spans.done(row))))
            while self._held and self._held[0][0].window.row_end <= begin + spans.rows.own(row):
                self._held.popleft()[1]()

    def _hold(self, strips: Iterator[_Held], end: int) -> None:
        """Get strips up to the row of pixels ``end``."""
        began = time.perf_counter()
        while not self._held or self._held[-1][0].window.row_end < end:
            self._held.append(next(strips))
        self._waited_s += time.perf_counter() - began

    def _row(self, begin: int, end: int) -> Iterator[tuple[int, ...]]:
        """Fill the batch with the row's tiles; yield their columns whenever it is full."""
        spans, cols = self._spans, list[int]()
        for col in spans.cols.windows:
            self._stats.windows += 1
            with Timed(self._stats, "pre"):
                has_data = self._cut(begin, end, col, self._batch[len(cols)])
            if has_data:
                cols.append(col)
            else:
                self._stats.windows_skipped += 1
            if cols and (
                len(cols) >= min(self._backend.batch, len(self._batch)) or col == spans.cols.windows[-1]
            ):
                yield tuple(cols)
                cols.clear()

    def _cut(self, begin: int, end: int, col: int, tile: NDArray[Any]) -> bool:
        """Copy a window into ``tile``, padded by reflection; return False if it holds no valid pixel."""
        axis = self._spans.cols.axis
        left, right = axis.starts[col], axis.ends[col]
        parts = [_part(strip, begin, end, left, right) for strip, _ in self._held]
        if not any(valid is None or valid.any() for image, valid in parts if image.size):
            return False
        row = 0
        for image, _ in parts:
            height = image.shape[1]
            tile[:, row : row + height, : right - left] = image
            row += height
        if (row, right - left) != tile.shape[1:]:
            tile[:] = reflect(tile[:, :row, : right - left], len(tile[0]))
        return True

    def _valid(self, begin: int, end: int) -> NDArray[np.bool_] | None:
        """Return the mask of valid pixels in the area's rows ``begin`` .. ``end``; None if all are valid."""
        area = self._spans.area
        strips = [strip for strip, _ in self._held]
        if end <= begin or all(strip.valid is None for strip in strips):
            return None
        valid = np.ones((end - begin, area.width), np.bool_)
        for strip in strips:
            top, bottom = max(begin, strip.window.row), min(end, strip.window.row_end)
            if strip.valid is not None and top < bottom:
                rows = slice(top - strip.window.row, bottom - strip.window.row)
                first = area.col - strip.window.col
                valid[top - begin : bottom - begin] = strip.valid[rows, first : first + area.width]
        return valid


def _part(
    strip: Pixels, begin: int, end: int, left: int, right: int
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return views of a strip's pixels in the rows ``begin`` .. ``end`` and columns ``left`` .. ``right``."""
    window = strip.window
    rows = slice(max(begin - window.row, 0), max(0, min(end, window.row_end) - window.row))
    cols = slice(left - window.col, right - window.col)
    return strip.image[:, rows, cols], None if strip.valid is None else strip.valid[rows, cols]


def reflect(pixels: NDArray[Any], tile: int) -> NDArray[Any]:
    """Mirror (bands, h, w) rightwards and downwards to (bands, tile, tile); never stretch."""
    while pixels.shape[1] < tile or pixels.shape[2] < tile:
        height, width = pixels.shape[1:]
        # numpy mirrors at most one side's length at a time; "symmetric" also works for a single pixel.
        grow = min(tile - height, height), min(tile - width, width)
        pixels = np.pad(pixels, ((0, 0), (0, grow[0]), (0, grow[1])), mode="symmetric")
    return pixels
