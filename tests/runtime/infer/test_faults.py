"""One thing fails in the midst of a run: nothing has happened to the target, and the run can go on."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rasterio.errors import RasterioIOError

from rsedge import InputError, Options, OutputError, segment
from rsedge.backends import Backend
from rsedge.errors import BackendError
from rsedge.infer.journal import Journal, folder_of
from rsedge.raster import RasterReader
from rsedge.raster import parts as parts_module

Write = Callable[..., Path]
Noise = Callable[..., np.ndarray]
Patch = pytest.MonkeyPatch
NO_SPACE = OSError(errno.ENOSPC, "No space left on device")
CUT = "the pixels read back differ"


def failing(call: Callable[..., Any], error: Exception, at: int) -> Callable[..., Any]:
    """``call`` that raises at its ``at``-th use."""
    count = iter(range(1, 10**9))

    def counted(*args: Any, **more: Any) -> Any:
        if next(count) == at:
            raise error
        return call(*args, **more)

    return counted


def fail(where: Any, name: str, error: Exception, at: int = 1) -> Callable[[Patch], None]:
    """A fault: the ``at``-th use of ``where.name``."""
    return lambda patch: patch.setattr(where, name, failing(getattr(where, name), error, at))


def fail_at(path: str, error: Exception, at: int = 1) -> Callable[[Patch], None]:
    """A fault of something that is imported where it is used."""

    def apply(patch: Patch) -> None:
        module, _, name = path.rpartition(".")
        there = getattr(__import__(module, fromlist=[name]), name)
        patch.setattr(path, failing(there, error, at))

    return apply


def answers(at: int, change: Callable[[np.ndarray], None]) -> Callable[[Patch], None]:
    """A fault of the model's ``at``-th answer."""

    def apply(patch: Patch) -> None:
        from rsedge.backends.ort import OrtBackend

        stream, count = OrtBackend.stream, iter(range(1, 10**9))

        def changed(self: Backend, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
            for answer in stream(self, batches):
                if next(count) == at:
                    change(answer)
                yield answer

        patch.setattr(OrtBackend, "stream", changed)

    return apply


def boom(_: np.ndarray) -> None:
    raise BackendError("the device is gone")


def put_nan(answer: np.ndarray) -> None:
    answer[0, 1, 5, 5] = np.nan


DAMAGED = InputError("raster.tif cannot be read; it may be truncated or damaged")
FAULTS: dict[str, tuple[Callable[[Patch], None], type[Exception], str | None, bool]] = {
    # what fails, the error, its message, whether there is something to go on from
    "first strip": (fail(RasterReader, "read_into", DAMAGED), InputError, "truncated or damaged", False),
    "fourth strip": (fail(RasterReader, "read_into", DAMAGED, 4), InputError, "truncated or damaged", True),
    "first tile": (answers(1, boom), BackendError, "the device is gone", False),
    "late tile": (answers(100, boom), BackendError, "the device is gone", True),
    "NaN in the first tile": (answers(1, put_nan), BackendError, "NaN", False),
    "NaN in a late tile": (answers(100, put_nan), BackendError, "NaN", True),
    "first part": (fail_at("rsedge.raster.parts.create", NO_SPACE), OutputError, "No space left", False),
    "third part": (fail_at("rsedge.raster.parts.create", NO_SPACE, 7), OutputError, "No space left", True),
    "settings": (fail(Journal, "_begin", NO_SPACE), OutputError, "No space left", False),
    "first line": (fail_at("rsedge.infer.journal.write_all", NO_SPACE, 2), OutputError, "No space left", False),
    "third line": (fail_at("rsedge.infer.journal.write_all", NO_SPACE, 4), OutputError, "No space left", True),
    "mosaic": (fail_at("rsedge.raster.parts._mosaic", NO_SPACE), OutputError, "No space left", True),
    "overviews": (
        fail_at("rsedge.raster.parts.build_overviews", RasterioIOError("Write failed")),
        OutputError,
        "Write failed",
        True,
    ),
    "copy": (
        fail_at("rsedge.raster.parts._copy", RasterioIOError("Write failed")), OutputError, "Write failed", True
    ),
    "second copy": (fail_at("rsedge.raster.parts._copy", NO_SPACE, 2), OutputError, "No space left", True),
    "synced to disk": (fail_at("rsedge.raster.stored_blocks.sync", NO_SPACE), OutputError, "No space left", True),
    "read back": (fail_at("rsedge.raster.stored_blocks.describe", OutputError(CUT)), OutputError, CUT, True),
    "class names": (
        fail_at("rsedge.raster.parts.write_class_names", NO_SPACE), OutputError, "No space left", True
    ),
    "preview": (
        fail_at("rsedge.infer.preview.draw", OutputError("preview cannot be written")), OutputError, "preview", True
    ),
    "polygons": (
        fail_at("rsedge.vector.polygons.write_polygons", OutputError("polygons cannot be written")),
        OutputError,
        "polygons",
        True,
    ),
    "first name": (fail_at("rsedge.infer.assemble.publish", NO_SPACE), OutputError, "No space left", True),
    "last name": (fail_at("rsedge.infer.assemble.publish", NO_SPACE, 2), OutputError, "No space left", True),
    "out of memory": (fail(RasterReader, "read_into", MemoryError(), 4), MemoryError, None, True),
}  # fmt: skip


@pytest.fixture
def raster(write_raster: Write, noise: Noise) -> Path:
    """Five parts, of seven strips' rows."""
    return write_raster(noise(2300, 150), tiled=True, blockxsize=64, blockysize=64)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_leaves_the_target_and_the_run_goes_on(
    model: Backend, raster: Path, tmp_path: Path, monkeypatch: Patch, fault: str
) -> None:
    monkeypatch.setattr(parts_module, "PART_PIXELS", 1)
    apply, kind, message, keeps = FAULTS[fault]

    def options(folder: Path, resume: bool = False) -> Options:
        polygons = folder / "classes.gpkg" if fault == "polygons" else None
        return Options(confidence=True, preview=folder / "preview.png", polygons=polygons, resume=resume)

    if fault == "polygons":  # they have tests of their own; here it counts when they are written
        drawn = SimpleNamespace(notes=(), polygons=0)
        monkeypatch.setattr("rsedge.vector.polygons.check_polygons_possible", lambda *_, **__: None)
        monkeypatch.setattr("rsedge.vector.polygons.write_polygons", lambda *_, **__: drawn)
    here, whole = tmp_path / "here", tmp_path / "whole"
    here.mkdir()
    whole.mkdir()
    segment(model, raster, whole / "mask.tif", options(whole))
    out, threads = here / "mask.tif", set(threading.enumerate())
    out.write_bytes(b"precious")
    with monkeypatch.context() as patch:
        apply(patch)
        with pytest.raises(kind, match=message):
            segment(model, raster, out, options(here))
    assert out.read_bytes() == b"precious"
    assert set(threading.enumerate()) <= threads
    assert folder_of(out).exists() == keeps
    assert not [p for p in here.iterdir() if ".part" in p.name]
    if keeps:
        assert not [p.name for p in folder_of(out).iterdir() if p.name.startswith("scratch")]
        with pytest.raises(InputError, match="--resume"):
            segment(model, raster, out, options(here))
    result = segment(model, raster, out, options(here, resume=True))
    assert (result.resumed_pixels > 0) == keeps
    compared = {p.name for p in whole.iterdir()}
    assert {p.name for p in here.iterdir()} == compared
    for name in compared:
        assert (here / name).read_bytes() == (whole / name).read_bytes(), name


def test_two_runs_to_one_target_at_once(
    model: Backend, raster: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    """The second, from the same process, is refused and does the first no harm."""
    monkeypatch.setattr(parts_module, "PART_PIXELS", 1)
    out, refused = tmp_path / "mask.tif", list[str]()

    def progress(done: int, _: int) -> None:
        if done > 100 and not refused:
            for more in (Options(), Options(resume=True), Options(overwrite=True)):
                with pytest.raises(InputError, match="being written by another rsedge") as caught:
                    segment(model, raster, out, more)
                refused.append(str(caught.value))

    segment(model, raster, out, progress=progress)
    assert len(refused) == 3
    segment(model, raster, tmp_path / "other.tif")
    assert out.read_bytes() == (tmp_path / "other.tif").read_bytes()
