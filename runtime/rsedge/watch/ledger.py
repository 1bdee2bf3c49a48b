"""The record of a watcher's work, on disk beside its masks, so that nothing is done twice whatever ends the watcher.

    .rsedge-watch.jsonl    a line when a raster is begun, and one when it is done, refused or left; each is on disk
                           before the raster is read or the watcher continues
    .rsedge-watch.lock     locked while a watcher is running; the lock ends with its process
    .rsedge-watch.alive    touched while the watcher is healthy

The ledger is append-only; the last line of a raster counts. A line that a power cut has torn, or with a wrong CRC-32,
is ignored. The files must belong to this user alone and not be links.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

from rsedge.documents import from_json, parse_json
from rsedge.errors import InputError, OutputError, RsedgeError
from rsedge.files import lock, open_own, sync_folder, with_crc, without_crc, write_all, writing
from rsedge.infer.journal import MOST_LINE_BYTES, own_lines
from rsedge.watch.systemd import tell_systemd

LINES, LOCK, PULSE = ".rsedge-watch.jsonl", ".rsedge-watch.lock", ".rsedge-watch.alive"
# Interval of heartbeats while a model runs; without one for LOST_S the watcher counts as dead. Between two
# heartbeats a large mask is assembled and written.
PULSE_S, LOST_S = 10.0, 300.0


@dataclass(frozen=True)
class State:
    """Facts that change with a file's contents; None if an older ledger lacks them."""

    size_bytes: int
    mtime_ns: int
    ctime_ns: int | None = None  # the only fact that changes with `cp -p` and `rsync -t`
    inode: int | None = None

    @classmethod
    def of(cls, path: Path) -> State | None:
        """Return the state of a file, or None if it is missing."""
        try:
            return cls.by(path.stat())
        except OSError:
            return None

    @classmethod
    def by(cls, facts: os.stat_result) -> State:
        """Return the state given by ``os.stat``."""
        return cls(facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)

    def is_same(self, other: State) -> bool:
        """Return True if all facts known to both states are equal."""
        pairs = zip(asdict(self).values(), asdict(other).values(), strict=True)
        return all(a == b for a, b in pairs if a is not None and b is not None)


@dataclass(frozen=True)
class Entry:
    """Outcome of a raster: done, or refused for a ``reason``. ``settings``: a digest of model and options."""

    source: str
    size_bytes: int
    mtime_ns: int
    out: str
    model_sha256: str
    settings: str
    reason: str | None = None
    ctime_ns: int | None = None
    inode: int | None = None

    @property
    def state(self) -> State:
        """Size, times and inode of the raster when it was recorded."""
        return State(self.size_bytes, self.mtime_ns, self.ctime_ns, self.inode)


@dataclass(frozen=True)
class Attempt:
    """Number of unfinished attempts at a raster's contents, and the size of the run's journal at the last."""

    state: State
    kept_bytes: int
    times: int = 1


class Ledger:
    """The ledger of an output folder, locked against other watchers while it is open. A context manager.

    Raises InputError if another watcher holds the lock, OutputError if the ledger cannot be written.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self.entries = folder, dict[str, Entry]()
        self.unfinished = dict[str, Attempt]()  # by raster
        self._begun: str | None = None  # the raster in progress
        self._clock = clock
        self._owners: dict[
            str, str
        ] = {}  # mask to source, in lower case because some file systems ignore case

    def __enter__(self) -> Ledger:
        with contextlib.ExitStack() as stack, writing(self.folder):
            handle = open_own(self.folder / LOCK, os.O_RDWR | os.O_CREAT)
            stack.callback(os.close, handle)
            if lock(handle) is False:
                raise InputError(
                    f"{self.folder} is in use by another rsedge watch; stop that one, or use another --out-dir"
                )
            self._load()
            self._lines = open_own(self.folder / LINES, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            stack.callback(os.close, self._lines)
            write_all(self._lines, "\n")  # ends a torn line
            sync_folder(self.folder)
            self.beat()
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def begin(self, source: str, state: State, kept_bytes: int = 0) -> None:
        """Record that a raster is begun, so that the next process knows if it ends this one.

        ``kept_bytes``: journal size of an earlier run; if it has grown, the earlier run made progress.
        """
        self._write({"begun": source, "kept_bytes": kept_bytes, **asdict(state)})
        self._count(source, Attempt(state, kept_bytes))
        self._begun = source

    def leave(self) -> None:
        """Record that the raster in progress did not end this process; does nothing if the raster was finished."""
        source, self._begun = self._begun, None
        if source is not None and source in self.unfinished:
            with contextlib.suppress(
                OutputError
            ):  # the attempt counts then, as if the raster had ended the process
                self._write({"left": source})
                self._uncount(source)

    def endings(self, source: str, state: State) -> int:
        """Return how often these contents have ended a watcher without progress since."""
        attempt = self.unfinished.get(source)
        return attempt.times if attempt and attempt.state.is_same(state) else 0

    def add(self, entry: Entry) -> None:
        """Record the outcome of a raster; the record is on disk when this returns."""
        self._write(asdict(entry))
        self._note(entry)

    def accounts_for(self, source: str, state: State, settings: str) -> bool:
        """Return True if these contents are done, or were refused with the same model and options."""
        entry = self.entries.get(source)
        if entry is None or not entry.state.is_same(state):
            return False
        return entry.reason is None or entry.settings == settings

    def owner(self, out: str) -> str | None:
        """Return the raster that a mask was made of."""
        return self._owners.get(out.casefold())

    def beat(self) -> None:
        """Show that the watcher is healthy. Raises OutputError if the folder is missing or not writable."""
        path, now = self.folder / PULSE, time.time()
        with writing(self.folder):
            if not os.access(self.folder, os.W_OK):  # an existing file can be touched in a read-only folder
                raise OutputError(f"{self.folder} is not writable; change its permissions")
            pulse = open_own(path, os.O_WRONLY | os.O_CREAT)
            try:
                os.utime(
                    pulse if os.utime in os.supports_fd else path, (now, now)
                )  # this machine's clock, not a file server's
            finally:
                os.close(pulse)
        self._beaten = self._clock()
        tell_systemd("WATCHDOG=1")

    def keep_beating(self) -> None:
        """Call `beat` if the last heartbeat is some time ago."""
        if self._clock() - self._beaten >= PULSE_S / 2:
            self.beat()

    def _load(self) -> None:
        for line in own_lines(self.folder / LINES):
            with contextlib.suppress(ValueError, TypeError, ArithmeticError):  # torn or foreign
                # Lines of rsedge 0.1 have no CRC, but their rasters must not be done again.
                text = line if line.startswith("{") else without_crc(line)
                self._take(parse_json(text, MOST_LINE_BYTES))

    def _take(self, facts: object) -> None:
        """Apply one line. Raises ValueError or TypeError if the line is foreign."""
        if not isinstance(facts, dict):
            return
        if isinstance(left := facts.get("left"), str):
            self._uncount(left)
        elif isinstance(begun := facts.pop("begun", None), str):
            kept_bytes = int(facts.pop("kept_bytes", 0))
            # An older ledger does not say which contents.
            state = from_json(State, facts, exact=True) if facts else State(-1, -1)
            self._count(begun, Attempt(state, kept_bytes))
        else:
            self._note(from_json(Entry, facts, exact=True))

    def _count(self, source: str, attempt: Attempt) -> None:
        before = self.unfinished.get(source)
        if before and before.state.is_same(attempt.state) and attempt.kept_bytes <= before.kept_bytes:
            attempt = replace(attempt, times=before.times + 1)
        self.unfinished[source] = attempt

    def _uncount(self, source: str) -> None:
        attempt = self.unfinished.pop(source, None)
        if attempt and attempt.times > 1:
            self.unfinished[source] = replace(attempt, times=attempt.times - 1)

    def _write(self, facts: Mapping[str, object]) -> None:
        with writing(self.folder):
            write_all(self._lines, with_crc(json.dumps(facts)) + "\n")
            os.fsync(self._lines)

    def _note(self, entry: Entry) -> None:
        self.entries[entry.source] = entry
        self.unfinished.pop(entry.source, None)
        if entry.reason is None:
            self._owners[entry.out.casefold()] = entry.source


def check_pulse(folder: Path) -> None:
    """Raise RsedgeError if no watcher of this output folder was healthy in the last five minutes."""
    path = folder / PULSE
    try:
        age_s = abs(time.time() - path.lstat().st_mtime)
    except OSError:
        raise RsedgeError(f"{folder} has never had a watcher: {path.name} not found") from None
    if age_s >= LOST_S:
        raise RsedgeError(
            f"{folder}: its watcher has shown no sign of life for {age_s:.0f} s; start it again"
        )
