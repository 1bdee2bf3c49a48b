"""Computes a raster's parts on the workers of a Dask cluster, with the same bytes as a local run.

A task is a band of consecutive parts. Its worker (``worker``) opens raster and model under the client's paths, checks
that they are the same, and returns the parts' files as bytes; they go into the journal, so assembling and resuming
know nothing of clusters. Each border of a band costs about a row of windows, which two workers compute.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from rsedge.cluster.worker import TOPIC, Band, Failure, Order, import_distributed, run_band
from rsedge.engine.sliding_window import Progress
from rsedge.engine.stages import Stats
from rsedge.errors import BackendError, OutputError, RsedgeError
from rsedge.files import describe, writing
from rsedge.infer.job import Job, absolute, runs_of_missing, united
from rsedge.infer.journal import Journal
from rsedge.infer.memory_plan import Plan
from rsedge.machine import usable_cores
from rsedge.model.bundle import DEFAULT_BUNDLE
from rsedge.tiling.axes import Tiling
from rsedge.tiling.blend import Spans
from rsedge.tiling.window import Window
from rsedge.version import __version__

CONNECT_S, WORKERS_S = 10.0, 60.0  # waiting time for a scheduler; for a first worker
TASKS_PER_WORKER = 3  # lets the last bands end at about the same time on unequal workers
WINDOW_ROWS = 4, 24  # limits of a band: with fewer the border costs over a quarter, more save nothing
BAND_BYTES = 256 << 20  # uncompressed result of a band, which is one message
AHEAD = 2  # submitted bands per worker
POLL_S = 0.5
TLS = "DASK_DISTRIBUTED__COMM__TLS__"  # prefix of Dask's TLS settings as environment variables
OPEN = (
    "{address} has neither encryption nor passwords, so anybody who reaches it can run programs on all its machines "
    "and on this one; use tls://, or a network that you trust"
)
GO_ON = "finished work is kept: continue with --resume"


@dataclass
class Cluster:
    """A connection to the workers of a Dask scheduler, usable for several rasters. A context manager.

    ``address`` is such as "tcp://scheduler:8786"; pass ``run`` to `segment` as its ``runner``.

    Raises BackendError if dask.distributed is missing, the scheduler cannot be reached, no worker joins it within a
    minute, or a worker has another rsedge.
    """

    address: str
    _client: Any = field(default=None, init=False)

    def __enter__(self) -> Cluster:
        distributed = import_distributed()
        if self.address.startswith("tls://"):
            _check_certificates(distributed, self.address)
        try:
            _check_reachable(self.address)
            self._client = distributed.Client(self.address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError, distributed.TimeoutError) as error:
            raise BackendError(
                f"cannot reach the Dask scheduler {self.address} ({_first_line(error)}). Start `dask scheduler` "
                "and give the address that it prints, such as tcp://host:8786."
            ) from error
        try:
            self._wait_for_workers(distributed)
            self._check_versions()
        except BaseException:
            self._client.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def run(self, job: Job, plan: Plan, journal: Journal, progress: Progress | None = None) -> Stats:
        """Compute the parts that the journal lacks, like ``Job.run``.

        Seconds are summed over the workers. An interruption cancels pending bands. Raises InputError, ModelError,
        BackendError or OutputError.
        """
        nthreads = self._client.nthreads()
        order = make_order(job, plan, nthreads)
        bands = cut(job, plan, journal, len(nthreads))
        total = [len(Spans(job.tiling, united(band))) for band in bands]
        stats, waiting, pending = Stats(), deque(enumerate(bands)), dict[Any, int]()
        done = 0
        with self._counts(order.run) as counts, self._cancelling(pending):
            while waiting or pending:
                while waiting and len(pending) < AHEAD * max(1, len(nthreads)):
                    number, parts = waiting.popleft()
                    key = f"rsedge-{order.run}-{number}"
                    pending[self._client.submit(run_band, order, number, parts, key=key, pure=False)] = number
                for future in self._finished(pending):
                    number = pending.pop(future)
                    band = self._result(future, job)
                    keep(band, journal)
                    stats.add(band.stats)
                    done += total[number]
                nthreads = self._client.nthreads() or nthreads
                if progress:
                    progress(done + sum(counts.get(number, 0) for number in pending.values()), sum(total))
        return stats

    def _finished(self, pending: Mapping[Any, int]) -> list[Any]:
        """Return the futures that have ended, after a short wait. Raises BackendError if no worker is left."""
        distributed = import_distributed()
        begin = time.monotonic()
        while True:
            with suppress(distributed.TimeoutError, TimeoutError), self._client.as_current():
                distributed.wait(list(pending), timeout=POLL_S, return_when="FIRST_COMPLETED")
            if self._client.nthreads():
                return [future for future in pending if future.done()]
            if time.monotonic() - begin > WORKERS_S:
                raise BackendError(f"the Dask scheduler {self.address} has lost all its workers; {GO_ON}")

    def _result(self, future: Any, job: Job) -> Band:
        distributed = import_distributed()
        try:
            result: Band | Failure = future.result()
        except distributed.CancelledError:
            raise
        except distributed.KilledWorker as error:
            raise BackendError(
                f"workers of {self.address} kept dying on the same band of {job.raster}, most likely out of memory. "
                "Give them more memory (`dask worker --memory-limit`, fewer workers per machine) or use narrower "
                f"columns with --max-ram; {GO_ON}"
            ) from error
        except Exception as error:
            raise BackendError(
                f"a worker of {self.address} failed: {type(error).__name__}: {_first_line(error)}; {GO_ON}"
            ) from error
        if isinstance(result, Failure):
            raise result.error()
        return result

    @contextmanager
    def _cancelling(self, pending: Mapping[Any, int]) -> Iterator[None]:
        """Cancel pending futures if the block ends early, and report a lost scheduler."""
        distributed = import_distributed()
        try:
            yield
        except RsedgeError:
            raise
        except (OSError, distributed.CancelledError, distributed.TimeoutError) as error:
            raise BackendError(
                f"lost the Dask scheduler {self.address} ({_first_line(error)}); {GO_ON}"
            ) from error
        finally:
            if pending:
                with suppress(Exception, distributed.CancelledError):
                    self._client.cancel(list(pending))

    @contextmanager
    def _counts(self, run: str) -> Iterator[Mapping[int, int]]:
        """Collect the windows done per band, as reported by the workers."""
        counts: dict[int, int] = {}

        def note(event: tuple[float, Mapping[str, Any]]) -> None:
            if event[1]["run"] == run:
                counts[event[1]["band"]] = event[1]["windows"]

        self._client.subscribe_topic(TOPIC, note)
        try:
            yield counts
        finally:
            with suppress(Exception):
                self._client.unsubscribe_topic(TOPIC)

    def _wait_for_workers(self, distributed: Any) -> None:
        try:
            self._client.wait_for_workers(1, timeout=WORKERS_S)
        except (OSError, TimeoutError, distributed.TimeoutError) as error:
            raise BackendError(
                f"the Dask scheduler {self.address} has no workers; start some with `dask worker {self.address}`"
            ) from error

    def _check_versions(self) -> None:
        workers = self._client.get_versions(packages=["rsedge"])["workers"]
        for address, facts in workers.items():
            found = facts["packages"].get("rsedge")
            if (found or "0+unknown") != __version__:
                has = f"rsedge {found}" if found else "no rsedge"
                raise BackendError(
                    f"the Dask worker {address} has {has}, but this machine has {__version__}. Run "
                    f'`pip install "rsedge[cpu,dask]=={__version__}"` on the worker.'
                )


def _check_reachable(address: str) -> None:
    """Raise OSError or ValueError if nobody listens, after some patience with a starting scheduler.

    A Client that could not connect takes long to be freed and can block later ones.
    """
    scheme, _, place = address.rpartition("://")
    if scheme not in {"", "tcp", "tls"}:
        return None
    parts = urlsplit(f"//{place}")
    if not parts.hostname or parts.port is None:
        raise ValueError("not host:port")
    begin = time.monotonic()
    while True:
        try:
            return socket.create_connection((parts.hostname, parts.port), CONNECT_S).close()
        except OSError as error:
            if isinstance(error, socket.gaierror) or time.monotonic() - begin > CONNECT_S:
                raise
        time.sleep(POLL_S / 2)


def _check_certificates(distributed: Any, address: str) -> None:
    """Raise BackendError if Dask has no usable certificates, because Dask itself fails late and unclearly."""
    try:
        context = distributed.Security().get_connection_args("client").get("ssl_context")
    except (OSError, TypeError, ValueError) as error:  # OSError also covers invalid certificates
        raise BackendError(
            f"cannot use the certificates for {address} ({_first_line(error)}); check the files named by "
            f"{TLS}CA_FILE, {TLS}CLIENT__CERT and {TLS}CLIENT__KEY"
        ) from error
    if context is None:
        raise BackendError(
            f"{address} needs certificates, but Dask has none. Set {TLS}CA_FILE, {TLS}CLIENT__CERT and "
            f"{TLS}CLIENT__KEY on this machine, the scheduler's and the workers'."
        )


def is_open_to_others(address: str) -> bool:
    """Return True if a cluster's messages, which are programs, cross a network without TLS."""
    scheme, _, place = address.rpartition("://")
    try:
        host = urlsplit(f"//{place}").hostname or ""
    except ValueError:
        return False  # connecting reports the cause
    return scheme in {"", "tcp"} and host not in {"localhost", "::1", ""} and not host.startswith("127.")


def make_order(job: Job, plan: Plan, nthreads: Mapping[str, int]) -> Order:
    """Describe the job for the workers, with paths that do not depend on the current folder."""
    model, o = job.model, job.options
    device = model.name
    if device == "onnxruntime":
        device = "cuda" if model.provider.startswith("CUDA") else "cpu"
    return Order(
        run=uuid.uuid4().hex,
        model=None if model.bundle.path == DEFAULT_BUNDLE else os.path.abspath(model.bundle.path),
        device=device,
        threads=None if model.threads == usable_cores() else model.threads,
        streams=model.streams,
        precision=model.bundle.precision,
        raster=absolute(job.reader.path),
        options=replace(
            o,
            aoi=None if o.aoi is None else absolute(str(o.aoi)),
            polygons=None,
            summary=None,
            summary_cell=None,
            resume=False,
            overwrite=True,
            max_ram_bytes=None,
        ),
        plan=plan,
        settings=job.settings(plan),
        nthreads=nthreads,
    )


def cut(job: Job, plan: Plan, journal: Journal, workers: int) -> list[list[Window]]:
    """Cut the parts that the journal lacks into bands: about three per worker, neither low nor very high."""
    runs = [run for parts in plan.parts for run in runs_of_missing(parts, journal.parts)]
    bands: list[list[Window]] = []
    count, result_bands = sum(map(len, runs)), sum(layer.bands for layer in job.layers())
    for run in runs:
        pieces = -(-len(run) // parts_per_band(run[0], count, workers, job.tiling, result_bands))
        ends = [len(run) * i // pieces for i in range(pieces + 1)]
        bands += [run[begin:end] for begin, end in pairwise(ends)]
    return bands


def parts_per_band(part: Window, count: int, workers: int, tiling: Tiling, result_bands: int) -> int:
    """Return how many of ``count`` such parts a task takes; a part has ``result_bands`` bytes per pixel."""
    workers = max(1, workers)
    low, high = (-(-rows * tiling.rows.stride // part.height) for rows in WINDOW_ROWS)
    wanted = max(count // (TASKS_PER_WORKER * workers), min(low, -(-count // workers)))
    most = BAND_BYTES // (part.height * part.width * result_bands)
    return max(1, min(wanted, high, most))


def keep(band: Band, journal: Journal) -> None:
    """Write a band's files into the journal. Raises OutputError if they do not arrive intact."""
    for part, contents in band.parts:
        for file in part.files:
            path = journal.path(part.area, file.layer)
            with writing(path):
                path.write_bytes(contents[file.layer])
                is_whole = describe(path) == (file.size_bytes, file.crc)
            if not is_whole:
                raise OutputError(f"{path} differs from what the worker sent; is the disk full?")
        journal.add(part)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
