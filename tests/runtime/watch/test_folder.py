"""A clock that stands still between looks: no test waits, and files change while the watcher sleeps."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from rsedge import BackendError, InputError, Options, OutputError, open_model, segment
from rsedge.backends import Backend
from rsedge.engine.sliding_window import Progress
from rsedge.raster import RasterReader
from rsedge.raster.trust import NAMED, Trust
from rsedge.watch.folder import Done, Refused, Waiting, Watch
from rsedge.watch.ledger import PULSE, Ledger
from toys import make_bundle, pointwise_graph, pointwise_manifest, read, strongest

Write = Callable[..., Path]
Noise = Callable[..., np.ndarray]


class Clock:
    """Time passes in `sleep` only; ``meanwhile`` is called there, with the time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.meanwhile: Callable[[float], None] = lambda _: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        self.meanwhile(self.now - 1000)


class Place:
    """A folder to be watched, and one for the masks."""

    def __init__(self, folder: Path, model: Backend) -> None:
        self.inbox, self.out, self.model = folder / "in", folder / "out", model
        self.inbox.mkdir()
        self.out.mkdir()

    def once(self, clock: Clock | None = None, **how: object) -> list[Done | Refused | Waiting]:
        """What a watcher tells that is started, and ends when it has done what is there."""
        with self.watch(clock, **how) as watcher:
            return list(watcher.run(once=True))

    @contextmanager
    def watch(self, clock: Clock | None = None, **how: object) -> Iterator[Watch]:
        clock = clock or Clock()
        with Ledger(self.out, clock) as ledger:
            given: dict[str, object] = {"model": self.model, "clock": clock, "sleep": clock.sleep, **how}
            yield Watch(folder=self.inbox, ledger=ledger, **given)  # type: ignore[arg-type]

    def names(self) -> set[str]:
        return {p.name for p in self.out.iterdir() if not p.name.startswith(".rsedge-watch")}


@pytest.fixture
def place(tmp_path: Path, model: Backend) -> Place:
    return Place(tmp_path, model)


@pytest.fixture
def drop(write_raster: Write, noise: Noise, place: Place) -> Callable[..., np.ndarray]:
    """Puts a raster into the folder, whole at once: its pixels."""

    def put(name: str, seed: int = 0, size: int = 90) -> np.ndarray:
        pixels = noise(size, size, seed)
        write_raster(pixels, "made.tif").replace(place.inbox / name)
        return pixels

    return put


Drop = Callable[..., np.ndarray]


def test_each_raster_is_done_once(place: Place, drop: Drop) -> None:
    pixels = {name: drop(f"{name}.TIF", seed) for seed, name in enumerate("abc")}
    assert [(type(e), e.source.name) for e in place.once()] == [(Done, f"{n}.TIF") for n in "abc"]
    for name, p in pixels.items():
        np.testing.assert_array_equal(read(place.out / f"{name}.tif"), strongest(p))
    assert place.names() == {f"{n}.tif{end}" for n in "abc" for end in ("", ".aux.xml")}
    (place.out / "a.tif").unlink()  # somebody has taken it away
    assert place.once() == []
    new = drop("b.TIF", 9)
    assert [e.source.name for e in place.once()] == ["b.TIF"]
    np.testing.assert_array_equal(read(place.out / "b.tif"), strongest(new))
    assert {p.name for p in place.inbox.iterdir()} == {"a.TIF", "b.TIF", "c.TIF"}


def test_a_watcher_that_goes_on_finds_what_comes_later(place: Place, drop: Drop) -> None:
    clock = Clock()
    clock.meanwhile = lambda now: now == 20 and drop("late.tif")
    with place.watch(clock) as watcher:
        assert next(watcher.run()).source.name == "late.tif"
    assert clock.now == 1000 + 30  # seen after 20 s, settled 10 s later


def test_what_is_not_a_whole_raster_by_its_name_is_left_alone(place: Place, drop: Drop) -> None:
    names = (".hidden.tif", "b.tif.part", "c.tif.filepart", "d.tif~", "e.tif.ovr", "f.tif.aux.xml", "g.png")
    for name in (*names, "h.tif.crdownload", "i.tif.msk", "k.tif"):
        drop(name)
    (place.inbox / "folder.tif").mkdir()
    assert [e.source.name for e in place.once()] == ["k.tif"]
    assert [e.source.name for e in place.once(patterns=("*.PNG", "k*"))] == ["g.png"]
    assert {e.source.name for e in place.once(patterns=("*",))} == set()


def test_masks_in_a_folder_of_the_watched_one_are_no_rasters(
    tmp_path: Path, model: Backend, drop: Drop, place: Place
) -> None:
    drop("a.tif")
    place.out = place.inbox / "masks"
    place.out.mkdir()
    assert len(place.once(patterns=("*",))) == 1
    assert place.once(patterns=("*",)) == []


def test_a_growing_file_is_not_touched_before_it_has_settled(place: Place, drop: Drop) -> None:
    pixels, clock = drop("a.tif"), Clock()
    source = place.inbox / "a.tif"
    data, ends = source.read_bytes(), {5: 5000, 12: 9000, 20: 20000, 29: None}
    source.write_bytes(data[:100])

    def upload(now: float) -> None:
        if now in ends:
            source.write_bytes(data[: ends[int(now)]])

    clock.meanwhile = upload
    with place.watch(clock, every_s=1.0) as watcher:
        (event,) = [next(watcher.run())]
    assert isinstance(event, Done)
    assert clock.now == 1000 + 39
    np.testing.assert_array_equal(read(place.out / "a.tif"), strongest(pixels))


def test_once_leaves_alone_what_still_grows(place: Place, drop: Drop) -> None:
    drop("a.tif")
    drop("b.tif")
    clock = Clock()
    clock.meanwhile = lambda now: os.utime(place.inbox / "b.tif", (now, now))
    assert [e.source.name for e in place.once(clock)] == ["a.tif"]
    assert clock.now == 1010
    assert [e.source.name for e in place.once(settle_s=0.0)] == ["b.tif"]


def test_a_side_file_that_is_still_copied_holds_its_raster_back(place: Place, drop: Drop) -> None:
    clock = Clock()
    drop("a.v1.tif")
    drop("a.v2.tif")
    clock.meanwhile = lambda now: now < 20 and (place.inbox / "a.v1.tfw.part").write_text("x" * int(now))
    with place.watch(clock) as watcher:
        events = watcher.run()
        assert next(events).source.name == "a.v2.tif"
        assert clock.now == 1010
        assert next(events).source.name == "a.v1.tif"
        assert clock.now == 1025


def test_a_raster_that_changes_while_it_is_read_waits_until_it_is_whole(
    place: Place, drop: Drop, noise: Noise
) -> None:
    drop("a.tif")
    new: list[np.ndarray] = []

    @contextmanager
    def rewriting(_: Path) -> Iterator[Progress]:
        yield lambda *_: None if new else new.append(drop("a.tif", 5))

    clock = Clock()
    with place.watch(clock, show=rewriting) as watcher:
        events = watcher.run()
        first, second = next(events), next(events)
        assert watcher.ledger.entries["a.tif"].reason is None
    assert isinstance(first, Waiting)
    assert "changed or disappeared while it was read" in first.reason
    assert isinstance(second, Done)
    assert clock.now == 1025  # looked at anew 5 s later
    np.testing.assert_array_equal(read(place.out / "a.tif"), strongest(new[0]))


def test_a_raster_that_vanishes_is_no_error(place: Place, drop: Drop) -> None:
    drop("a.tif")
    drop("b.tif")
    with place.watch() as watcher:
        events = watcher.run(once=True)
        next(events)
        (place.inbox / "b.tif").unlink()
        assert list(events) == []
        assert set(watcher.ledger.entries) == {"a.tif"}


def test_a_raster_that_vanishes_while_it_is_read_leaves_nothing(place: Place, drop: Drop) -> None:
    drop("a.tif")

    @contextmanager
    def removing(source: Path) -> Iterator[Progress]:
        yield lambda *_: source.unlink(missing_ok=True)

    assert place.once(show=removing) == []
    assert place.names() == set()


def test_a_broken_raster_is_refused_once(place: Place, drop: Drop) -> None:
    drop("a.tif")
    drop("b.tif", size=200)
    whole = (place.inbox / "b.tif").read_bytes()
    (place.inbox / "b.tif").write_bytes(whole[: len(whole) * 9 // 10])
    (refused,) = [e for e in place.once() if not isinstance(e, Done)]
    assert isinstance(refused, Refused)
    assert refused.source.name == "b.tif"
    assert place.once() == []
    assert place.names() == {"a.tif", "a.tif.aux.xml"}
    (place.inbox / "b.tif").write_bytes(whole)
    assert [type(e) for e in place.once()] == [Done]


def test_what_other_options_may_read_is_tried_with_them(
    place: Place, write_raster: Write, noise: Noise
) -> None:
    write_raster(noise(80, 80).astype(np.uint16) * 4, "made.tif").replace(place.inbox / "a.tif")
    (refused,) = place.once()
    assert isinstance(refused, Refused)
    assert "--scale" in refused.reason
    assert place.once() == []
    assert [type(e) for e in place.once(options=Options(scale=(0, 1020)))] == [Done]
    assert place.once(options=Options(scale=(0, 1000))) == []  # what is done is done


def test_two_rasters_of_one_name_do_not_share_a_mask(place: Place, drop: Drop) -> None:
    first = drop("a.tif", 1)
    os.utime(place.inbox / "a.tif", (1, 1))
    drop("A.TIFF", 2)
    done, refused = place.once()
    assert isinstance(done, Done)
    assert isinstance(refused, Refused)
    assert refused.source.name == "A.TIFF"
    assert "would replace that of a.tif" in refused.reason
    np.testing.assert_array_equal(read(place.out / "a.tif"), strongest(first))
    assert place.once() == []


@pytest.mark.parametrize("name", [b"caf\xe9.tif", b"x" * 245 + b".tif"])
def test_a_name_that_no_mask_can_have_does_not_end_the_watch(place: Place, drop: Drop, name: bytes) -> None:
    drop("a.tif")
    try:
        shutil.copy(os.fsencode(place.inbox / "a.tif"), os.fsencode(place.inbox) + b"/" + name)
    except OSError:
        pytest.skip("this file system does not take such a name")
    told = place.once()
    assert sorted(type(event).__name__ for event in told) == ["Done", "Refused"]
    assert "rename the raster" in next(event.reason for event in told if isinstance(event, Refused))
    assert place.once() == []


def test_somebody_elses_file_is_not_replaced(place: Place, drop: Drop) -> None:
    pixels = drop("a.tif")
    (place.out / "a.tif").write_bytes(b"precious")
    (refused,) = place.once()
    assert isinstance(refused, Refused)
    assert "was not written by rsedge; move it away" in refused.reason
    assert (place.out / "a.tif").read_bytes() == b"precious"
    (place.out / "a.tif").unlink()
    os.utime(place.inbox / "a.tif")
    assert [type(e) for e in place.once()] == [Done]
    np.testing.assert_array_equal(read(place.out / "a.tif"), strongest(pixels))


def test_a_mask_that_was_published_before_a_crash_is_recognised(place: Place, drop: Drop) -> None:
    drop("a.tif")
    place.once(preview=True)
    assert place.names() == {"a.tif", "a.tif.aux.xml", "a.png"}
    before = (place.out / "a.tif").stat()
    (place.out / ".rsedge-watch.jsonl").write_text('{"source": "a.t')  # torn by a power cut
    (event,) = place.once(preview=True)
    assert isinstance(event, Done)
    assert event.result is None
    assert os.path.samestat((place.out / "a.tif").stat(), before)
    assert place.once(preview=True) == []


@pytest.mark.parametrize("change", ["nothing", "raster", "options"])
def test_an_unfinished_run_goes_on_or_begins_anew(
    place: Place, drop: Drop, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr("rsedge.raster.parts.PART_PIXELS", 1)
    pixels = drop("a.tif", size=1300)

    def cut_off(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment(place.model, place.inbox / "a.tif", place.out / "a.tif", Options(), cut_off)
    if change == "raster":
        pixels = drop("a.tif", seed=3, size=1300)
    (event,) = place.once(options=Options(overlap=0.5) if change == "options" else Options())
    assert isinstance(event, Done)
    assert event.result is not None
    assert (event.result.resumed_pixels > 0) is (change == "nothing")
    np.testing.assert_array_equal(read(place.out / "a.tif"), strongest(pixels))
    assert place.names() == {"a.tif", "a.tif.aux.xml"}


def test_an_output_folder_that_goes_is_no_fault_of_a_raster(place: Place, drop: Drop) -> None:
    drop("a.tif")
    drop("b.tif")
    with place.watch() as watcher:
        events = watcher.run()
        next(events)
        shutil.rmtree(place.out)
        with pytest.raises(OutputError):
            next(events)
        assert set(watcher.ledger.entries) == {"a.tif"}


def test_a_failing_model_ends_the_watch(place: Place, drop: Drop, tmp_path: Path) -> None:
    drop("a.tif")
    graph = pointwise_graph(pointwise_manifest())
    graph.graph.initializer[0].raw_data = np.full((3, 3), np.nan, np.float32).tobytes()
    with open_model(make_bundle(tmp_path / "nan.rsedge", pointwise_manifest(), graph)) as broken:
        with pytest.raises(BackendError, match=r"^a\.tif: .*NaN"):
            place.once(model=broken)
        with place.watch(model=broken) as watcher:
            assert watcher.ledger.entries == {}


def test_stopping_the_watch_is_no_fault_of_a_raster(place: Place, drop: Drop) -> None:
    drop("a.tif")

    @contextmanager
    def stopped(source: Path) -> Iterator[None]:
        raise KeyboardInterrupt
        yield

    for _ in range(4):
        with place.watch(show=stopped) as watcher, pytest.raises(KeyboardInterrupt):
            list(watcher.run())
    with place.watch() as watcher:
        assert not watcher.ledger.unfinished
    assert [type(e) for e in place.once()] == [Done]


def test_what_another_model_has_done_is_counted_and_kept(place: Place, drop: Drop, tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif"):
        drop(name)
    place.once()
    (place.inbox / "b.tif").unlink()
    manifest = pointwise_manifest(name="other")
    with (
        open_model(make_bundle(tmp_path / "other.rsedge", manifest, pointwise_graph(manifest))) as other,
        place.watch(model=other) as watcher,
    ):
        assert watcher.of_other_models() == 1
        assert list(watcher.run(once=True)) == []
    with place.watch() as watcher:
        assert watcher.of_other_models() == 0


def test_the_pulse_beats_while_it_waits_and_while_it_works(place: Place, drop: Drop) -> None:
    clock, pulse, beats = Clock(), place.out / PULSE, list[float]()

    def look(_: object = None) -> None:
        if pulse.stat().st_mtime > 1:
            beats.append(clock.now)
        os.utime(pulse, (1, 1))

    def work(_: int, __: int) -> None:
        clock.now += 4
        look()

    @contextmanager
    def working(_: Path) -> Iterator[Progress]:
        yield work

    clock.meanwhile = look
    drop("a.tif", size=400)
    with place.watch(clock, every_s=300.0, show=working) as watcher:
        next(watcher.run())
    assert max(clock.slept) <= 10
    assert beats[0] < 1000 + 20
    assert np.diff(beats).max() <= 12
    assert len(beats) > 30


def test_folders_that_cannot_be_watched(place: Place, model: Backend, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"), Ledger(place.out) as ledger:
        Watch(model, tmp_path / "nowhere", ledger)
    (tmp_path / "link").symlink_to(place.inbox)
    with (
        pytest.raises(InputError, match="is the watched folder"),
        Ledger(tmp_path / "link") as ledger,
    ):
        Watch(model, place.inbox, ledger)
    shutil.rmtree(place.inbox)
    place.inbox.mkdir()
    with pytest.raises(FileNotFoundError), place.watch() as watcher:
        place.inbox.rmdir()
        next(watcher.run())


def test_an_error_nobody_foresaw_refuses_one_raster(
    place: Place, drop: Drop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.tif", "b.tif", "c.tif"):
        drop(name)
    opened = RasterReader.__init__

    def fail(self: RasterReader, path: Path | str, threads: int = 1, trust: Trust = NAMED) -> None:
        if Path(path).name == "b.tif" and Path(path).parent == place.inbox:
            raise IndexError("tuple index out of range")
        opened(self, path, threads, trust)

    monkeypatch.setattr(RasterReader, "__init__", fail)
    told = place.once()
    assert [(type(e), e.source.name) for e in told] == [(Done, "a.tif"), (Refused, "b.tif"), (Done, "c.tif")]
    assert isinstance(told[1], Refused)
    assert "IndexError: tuple index out of range" in told[1].reason
    assert "report it" in told[1].reason
    assert place.once() == []  # it is accounted for


def test_somebodys_picture_is_not_replaced_by_a_preview(place: Place, drop: Drop) -> None:
    drop("a.tif")
    (place.out / "a.png").write_bytes(b"a photo")
    (refused,) = place.once(preview=True)
    assert isinstance(refused, Refused)
    assert "was not drawn by rsedge; move it away" in refused.reason
    assert (place.out / "a.png").read_bytes() == b"a photo"
    (place.out / "a.png").unlink()
    drop("a.tif", 1)
    assert [type(e) for e in place.once(preview=True)] == [Done]
    (place.out / "a.png").write_bytes(b"a preview of a version before: the ledger knows the mask")
    drop("a.tif", 2)
    assert [type(e) for e in place.once(preview=True)] == [Done]
    assert (place.out / "a.png").read_bytes().startswith(b"\x89PNG")
