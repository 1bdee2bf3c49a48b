"""Several tiles in work at once: overlap, order, equal bytes, errors and memory, with a model that only sleeps."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio

from rsedge import BackendError, Options, open_model, segment
from rsedge.backends.ort import OrtBackend
from rsedge.engine import sliding_window as engine
from rsedge.engine.sliding_window import Source
from rsedge.infer.job import Job
from rsedge.infer.memory_plan import ANSWERS_AHEAD
from rsedge.model.bundle import Bundle
from rsedge.raster import RasterReader, plan_bands
from rsedge.tiling.axes import Tiling
from toys import TILE, read, strongest

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
COUNTS = (1, 2, 4, 8)


class Sleepy:
    """A session that sleeps, without the GIL, before the real one answers, and counts the calls at work."""

    def __init__(self, model: OrtBackend, naps_s: tuple[float, ...], fails_at: int | None = None) -> None:
        self._session, self._naps_s, self._fails_at = model._session, naps_s, fails_at
        self._lock, self.at_work, self.most, self.calls, self.done = threading.Lock(), 0, 0, 0, list[int]()
        self.threads = set[str]()
        model._session = self

    def io_binding(self) -> Any:
        return self._session.io_binding()

    def run_with_iobinding(self, binding: Any) -> None:
        with self._lock:
            number, self.calls, self.at_work = self.calls, self.calls + 1, self.at_work + 1
            self.most = max(self.most, self.at_work)
            self.threads.add(threading.current_thread().name)
        time.sleep(self._naps_s[number % len(self._naps_s)])
        try:
            if number == self._fails_at:
                raise RuntimeError("the session broke")
            self._session.run_with_iobinding(binding)
        finally:
            with self._lock:
                self.at_work -= 1
                self.done.append(number)


def opened(bundle: Path, streams: int) -> OrtBackend:
    return OrtBackend(Bundle.open(bundle), "cpu", max(COUNTS), streams)


def write(path: Path, height: int, width: int, seed: int = 0) -> np.ndarray:
    pixels = (np.random.default_rng(seed).integers(1, 84, (3, height, width)) * 3).astype(np.uint8)
    pixels += np.arange(3, dtype=np.uint8)[:, None, None]  # no ties
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint8", count=3, height=height, width=width, nodata=0
    ) as dst:
        dst.write(pixels)
    return pixels


@pytest.mark.parametrize("streams", COUNTS)
def test_as_many_calls_overlap_as_there_are_streams_also_over_the_ends_of_rows(
    bundle: Path, tmp_path: Path, streams: int
) -> None:
    """Two tiles a row, so that more than two can be at work only if rows follow each other without a pause."""
    pixels = write(tmp_path / "raster.tif", 12 * TILE, 2 * TILE)
    with opened(bundle, streams) as model:
        session = Sleepy(model, (0.02,))
        segment(model, tmp_path / "raster.tif", tmp_path / "mask.tif", Options(overlap=0))
        assert session.most == streams
        assert len(session.threads - {"MainThread", "rsedge-model"}) == (streams if streams > 1 else 0)
    np.testing.assert_array_equal(read(tmp_path / "mask.tif"), strongest(pixels))


def test_the_file_has_the_same_bytes_however_many_and_in_whatever_order_they_end(
    bundle: Path, tmp_path: Path
) -> None:
    write(tmp_path / "raster.tif", 500, 700)
    found = []
    for streams in COUNTS:
        out = tmp_path / f"{streams}.tif"
        with opened(bundle, streams) as model:
            session = Sleepy(model, (0.02, 0.0, 0.005, 0.001, 0.01))
            result = segment(model, tmp_path / "raster.tif", out, Options(confidence=True))
            # Calls do end in another order than they begin, else this would show nothing.
            assert (session.done != sorted(session.done)) == (streams > 1)
        assert result.streams == streams
        found.append((out.read_bytes(), (tmp_path / f"{streams}_confidence.tif").read_bytes()))
    assert found == found[:1] * len(COUNTS)


def test_answers_come_in_order_and_pixels_may_be_overwritten(bundle: Path) -> None:
    memory = np.empty((1, 3, TILE, TILE), np.uint8)

    def batches() -> Any:
        for number in range(40):
            memory.fill(number)
            yield memory

    with opened(bundle, 4) as model:
        Sleepy(model, (0.01, 0.0, 0.003))
        assert model.kept == 3
        held: list[np.ndarray] = []
        for number, scores in enumerate(model.stream(batches())):
            held = [*held, scores][-3:]
            assert [int(s.flat[0]) for s in held] == list(range(max(0, number - 2), number + 1))
            assert {int(s.min() - s.max()) for s in held} == {0}


@pytest.mark.parametrize("streams", COUNTS)
def test_an_error_in_the_middle_ends_the_run_and_nothing_works_on(
    bundle: Path, tmp_path: Path, streams: int
) -> None:
    write(tmp_path / "raster.tif", 8 * TILE, 4 * TILE)
    before = threading.active_count()
    with opened(bundle, streams) as model:
        model.warm_up()
        session = Sleepy(model, (0.005,), fails_at=13)
        with pytest.raises(BackendError, match="the model failed on CPUExecutionProvider: the session broke"):
            segment(model, tmp_path / "raster.tif", tmp_path / "mask.tif", Options(overlap=0))
        assert (session.at_work, len(session.done)) == (0, session.calls)
        assert session.calls <= 13 + 1 + streams + ANSWERS_AHEAD  # what was on the way, no more
        assert not (tmp_path / "mask.tif").exists()
        session._fails_at = None
        segment(model, tmp_path / "raster.tif", tmp_path / "mask.tif", Options(overlap=0, resume=True))
    assert threading.active_count() == before
    assert (read(tmp_path / "mask.tif") < 3).all()


def test_leaving_early_waits_for_what_is_at_work_and_drops_the_rest(bundle: Path) -> None:
    tile = np.zeros((1, 3, TILE, TILE), np.uint8)
    with opened(bundle, 2) as model:
        session = Sleepy(model, (0.05,))
        stream = model.stream([tile] * 20)
        next(stream)
        stream.close()
        assert (session.at_work, len(session.done)) == (0, session.calls)
        assert session.calls <= 3
        (answer,) = model.stream([tile + 9])
        assert (answer == 9).all()


def test_a_failing_sink_stops_the_streams(bundle: Path, tmp_path: Path) -> None:
    class Full:
        def take(self, strip: object) -> None:
            raise OSError("disk full")

    write(tmp_path / "raster.tif", 20 * TILE, TILE)
    with opened(bundle, 4) as model, RasterReader(tmp_path / "raster.tif") as reader:
        session = Sleepy(model, (0.01,))
        plan = plan_bands(reader, model.bundle.manifest, None, None)
        tiling = Tiling.of(20 * TILE, TILE, TILE, 0, "blend")
        with pytest.raises(OSError, match="disk full"):
            engine.run(model, Source(reader, plan, tiling), [Full()])  # type: ignore[list-item]
        assert session.at_work == 0
        assert session.calls < 20


@pytest.mark.parametrize("says", ["out of memory", "failed to allocate memory"])
def test_a_batch_too_large_is_halved_in_every_stream(bundle: Path, says: str) -> None:
    """Streams that fail at the same time do not raise the limit that another has lowered."""
    with opened(bundle, 4) as model:
        model.batch = 8
        real, sizes = model._call, list[int]()

        def call(pixels: np.ndarray, scores: np.ndarray) -> None:
            sizes.append(len(pixels))
            time.sleep(0.002)
            if len(pixels) > 2:
                raise RuntimeError(says)
            real(pixels, scores)

        model._call = call  # type: ignore[method-assign]
        tiles = [
            np.random.default_rng(n).integers(0, 256, (8, 3, TILE, TILE)).astype(np.uint8) for n in range(9)
        ]
        for tile, scores in zip(tiles, model.stream(tiles), strict=True):
            np.testing.assert_array_equal(scores, tile)
        assert (model.batch, model._most) == (2, 2)
        assert max(sizes[-16:]) == 2


def test_rows_without_data_are_passed_on_before_the_next_with_data(bundle: Path, tmp_path: Path) -> None:
    """Else the masks of a raster that is mostly empty would pile up behind the stream."""
    pixels = write(tmp_path / "raster.tif", 40 * TILE, TILE)
    pixels[:, TILE : 39 * TILE] = 0
    with rasterio.open(tmp_path / "raster.tif", "r+") as dst:
        dst.write(pixels)
    seen = list[tuple[int, int]]()
    with opened(bundle, 4) as model, RasterReader(tmp_path / "raster.tif") as reader:
        plan = plan_bands(reader, model.bundle.manifest, None, None)
        tiling = Tiling.of(40 * TILE, TILE, TILE, 0, "blend")

        class Keep:
            def take(self, strip: Any) -> None:
                seen.append((strip.row, int((strip.mask == 255).sum())))

        pending = list[int]()
        batches = engine._Tiles._batches

        def watched(self: Any, rows: Any, strips: Any, sent: Any) -> Any:
            for batch in batches(self, rows, strips, sent):
                pending.append(len(sent))
                yield batch
            pending.append(len(sent))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine._Tiles, "_batches", watched)
            stats = engine.run(model, Source(reader, plan, tiling), [Keep()])
    assert (stats.windows, stats.windows_skipped, len(seen)) == (40, 38, 40)
    assert [row for row, _ in seen] == [n * TILE for n in range(40)]
    assert sum(empty for _, empty in seen) == 38 * TILE * TILE
    assert max(pending) <= 4


@pytest.mark.parametrize("seam", ["blend", "crop"])
def test_waiting_for_the_reader_is_not_counted_as_inference(
    bundle: Path, tmp_path: Path, seam: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "raster.tif", 6 * TILE, 2 * TILE)
    into = RasterReader.read_into

    def slowly(*args: Any) -> bool:
        time.sleep(0.2)
        return into(*args)

    monkeypatch.setattr(RasterReader, "read_into", slowly)
    for strips in (RasterReader.iter_strips, RasterReader.first_strips):
        monkeypatch.setattr(strips, "__defaults__", (64,))
    with opened(bundle, 2) as model, RasterReader(tmp_path / "raster.tif") as reader:
        plan = plan_bands(reader, model.bundle.manifest, None, None)
        source = Source(reader, plan, Tiling.of(6 * TILE, 2 * TILE, TILE, 0, seam))
        stats = engine.run(model, source, [SimpleNamespace(take=lambda strip: None)])  # type: ignore[list-item]
    assert stats.seconds["read"] >= 0.2
    assert stats.seconds["infer"] < stats.seconds["read"] / 2
    assert sum(stats.seconds.values()) <= stats.busy_s


def test_the_plan_counts_the_tiles_in_flight(bundle: Path, tmp_path: Path) -> None:
    """Per further stream: its scores and its copy of the pixels. What runtimes take for it is in the base."""
    write(tmp_path / "raster.tif", 4 * TILE, 8 * TILE)
    found = {}
    for streams in COUNTS:
        with opened(bundle, streams) as model:
            session = Sleepy(model, (0.1,))
            with Job(model, tmp_path / "raster.tif", tmp_path / "mask.tif", Options()) as job:
                found[streams] = job.plan().bytes_by_part["tiles"]
            assert (
                session.most == streams
            )  # the warm-up has them all at work, so that the base holds them all
    each = TILE * TILE * (4 * 3 + 3)
    assert found[4] - found[2] == pytest.approx(2 * each, rel=0.2)
    assert found[8] - found[4] == pytest.approx(4 * each, rel=0.2)
    assert found[2] - found[1] >= 2 * each  # the second, the one that waits, and the copies


def test_resident_memory_stays_below_the_bound(bundle: Path, tmp_path: Path) -> None:
    write(tmp_path / "raster.tif", 12 * TILE, 30 * TILE)
    with open_model(bundle, "cpu", 4, streams=4) as model:
        result = segment(model, tmp_path / "raster.tif", tmp_path / "mask.tif")
    assert result.peak_rss_bytes < result.bound_bytes
