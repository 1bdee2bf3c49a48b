"""The task of a Dask worker: compute a band of a raster's parts and return their files as bytes.

A worker process runs one band at a time and uses its Dask threads as the model's threads. It holds one model and one
band, as a local run does, so that a memory limit means the same.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rsedge import errors
from rsedge.backends import Backend
from rsedge.engine.sliding_window import Progress
from rsedge.engine.stages import Stats
from rsedge.errors import BackendError, InputError, ModelError, RsedgeError
from rsedge.infer.job import Job
from rsedge.infer.journal import Part
from rsedge.infer.memory_plan import Plan
from rsedge.infer.options import Options
from rsedge.infer.segmentation import open_model
from rsedge.machine import usable_cores
from rsedge.raster import exact_cache
from rsedge.tiling.window import Window

REPORT_S = 1.0  # interval at which a worker reports its windows and checks whether it is still wanted
TOPIC = "rsedge-windows"


@dataclass(frozen=True)
class Order:
    """Facts for every band of a raster. ``nthreads``: threads of each worker, by address."""

    run: str
    model: str | None  # None: the default model
    device: str
    threads: int | None  # of the model; None for the worker's own
    streams: int
    precision: str
    raster: str
    options: Options
    plan: Plan
    settings: Mapping[str, Any]  # what a journal compares; the worker's must be equal
    nthreads: Mapping[str, int]


@dataclass(frozen=True)
class Band:
    """Finished parts with their files' bytes, by layer."""

    parts: tuple[tuple[Part, dict[str, bytes]], ...]
    stats: Stats


@dataclass(frozen=True)
class Failure:
    """An error of rsedge sent as a value, because Dask would log a traceback and may fail to send a GDAL cause."""

    kind: str
    message: str

    def error(self) -> RsedgeError:
        """Rebuild the error."""
        error: RsedgeError = getattr(errors, self.kind)(self.message)
        return error


_one_at_a_time = threading.Lock()
_kept: list[tuple[Any, Backend]] = []  # the last used model, still open


class _Unwanted(Exception):  # noqa: N818 - never leaves this module
    """The client disconnected or was interrupted."""


def run_band(order: Order, number: int, parts: Sequence[Window]) -> Band | Failure:
    """Compute some parts on a worker; this is the task."""
    worker = import_distributed().get_worker()
    key = worker.get_current_task()
    reported = time.monotonic()

    def report(windows: int, _: int) -> None:
        nonlocal reported
        if time.monotonic() - reported > REPORT_S:
            reported = time.monotonic()
            if not _is_wanted(worker, key):
                raise _Unwanted
            worker.log_event(TOPIC, {"run": order.run, "band": number, "windows": windows})

    with _one_at_a_time, tempfile.TemporaryDirectory(dir=worker.local_directory) as folder:
        try:
            if not _is_wanted(worker, key):
                raise _Unwanted
            return _make(order, parts, Path(folder), worker.address, report)
        except RsedgeError as error:
            return Failure(type(error).__name__, str(error))


def _make(order: Order, parts: Sequence[Window], folder: Path, address: str, report: Progress) -> Band:
    def path(area: Window, layer: str) -> Path:
        return folder / f"{area.row}-{area.col}.{layer}"

    made: list[tuple[Part, dict[str, bytes]]] = []

    def done(part: Part) -> None:
        files = {f.layer: path(part.area, f.layer) for f in part.files}
        made.append((part, {layer: file.read_bytes() for layer, file in files.items()}))
        for file in files.values():
            file.unlink()

    with ExitStack() as stack:
        with _said_of(address):
            preview = folder / "preview.png" if order.options.preview else None
            options = replace(order.options, preview=preview)
            model = _model(order, address)
            job = stack.enter_context(Job(model, order.raster, folder / "mask.tif", options))
            _compare(order.settings, job.settings(order.plan))
        stack.enter_context(exact_cache(order.plan.bytes_by_part["GDAL"]))
        stats = job.run_parts(parts, path, done, report)
        job.check_unchanged()
        return Band(tuple(made), stats)


def _model(order: Order, address: str) -> Backend:
    """Return the order's model, kept open for the next band; the caller must be its only user."""
    threads = order.threads or threads_of(address, order.nthreads)
    streams = min(order.streams, threads)
    key = (order.model, order.settings["model_sha256"], order.device, threads, streams, order.precision)
    if not _kept or _kept[0][0] != key:
        if _kept:
            _kept.pop()[1].close()
        _kept.append((key, open_model(order.model, order.device, threads, order.precision, streams)))
        if _kept[0][1].bundle.sha256 != order.settings["model_sha256"]:
            _kept.pop()[1].close()
            raise ModelError(f"{order.model} is not the client's model; copy it again")
    return _kept[0][1]


def threads_of(address: str, nthreads: Mapping[str, int]) -> int:
    """Return the model's threads in a worker: its own, but at most its share of the machine's cores."""
    host = urlsplit(address).hostname
    processes = sum(urlsplit(other).hostname == host for other in nthreads)
    share = max(1, usable_cores() // max(1, processes))
    return min(nthreads.get(address, share), share)


def _compare(here: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    differ = [name for name in here if here[name] != there[name]]
    if "raster_state" in differ:
        raise InputError(
            f"{here['raster']} is not the client's file (size, time or grid differ). Share the file, or "
            "copy it again with its time (`rsync -a`)."
        )
    if differ:
        facts = "; ".join(f"{n} is {there[n]}, on the client {here[n]}" for n in differ)
        raise BackendError(
            f"{facts}. Install the same packages on the worker, or give a --device that both have."
        )


@contextmanager
def _said_of(address: str) -> Iterator[None]:
    """Name the worker in errors, because on the client the same paths may open."""
    try:
        yield
    except RsedgeError as error:
        raise type(error)(
            f"on the Dask worker {address}: {error} (raster, area of interest and model must be readable under the "
            "same paths on every worker)"
        ) from error


def _is_wanted(worker: Any, key: str) -> bool:
    """Return True if a running task was not cancelled."""
    try:
        task = worker.state.tasks.get(key)
    except AttributeError:  # undocumented; if it moves, cancelled bands are finished in vain
        return True
    return task is None or task.state != "cancelled"


def import_distributed() -> Any:
    """Import the package ``distributed``. Raises BackendError if it is not installed."""
    try:
        import distributed  # noqa: PLC0415 - an extra, and slow to load
    except ImportError as error:
        raise BackendError(
            'dask.distributed is not installed. Run `pip install "rsedge[dask]"`, on the workers as well.'
        ) from error
    return distributed
