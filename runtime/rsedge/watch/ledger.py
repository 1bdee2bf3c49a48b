"""What a watcher has done, on the disk beside its masks, so that it does nothing twice whatever ends it.

    .rsedge-watch.jsonl    a line when a raster is begun, one when it is done, refused or left, on the disk before
                           anything of it is read and before it goes on
    .rsedge-watch.lock     locked while a watcher is at work; the lock ends with its process
    .rsedge-watch.alive    touched while it is well

The ledger is only ever added to; of several lines of a raster the last counts. One that a power cut has torn is as
if it had not been written; so is one whose CRC-32 is not its own. The files are this user's alone, and no links.
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
# How often the pulse beats while a model is at work; without one for so long, nobody watches. Between two beats
# a large mask is put together and written.
PULSE_S, LOST_S = 10.0, 300.0


@dataclass(frozen=True)
class State:
    """What tells a file's contents from those it had before. None: an older ledger does not say."""

    size_bytes: int
    mtime_ns: int
    ctime_ns: int | None = None  # with `cp -p` and `rsync -t` it alone tells
    inode: int | None = None

    @classmethod
    def of(cls, path: Path) -> State | None:
        """None where there is no such file."""
        try:
            return cls.by(path.stat())
        except OSError:
            return None

    @classmethod
    def by(cls, facts: os.stat_result) -> State:
        """Of what the system says of a file."""
        return cls(facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)

    def is_same(self, other: State) -> bool:
        """Whether the contents are the same, by all that both say."""
        pairs = zip(asdict(self).values(), asdict(other).values(), strict=True)
        return all(a == b for a, b in pairs if a is not None and b is not None)


@dataclass(frozen=True)
class Entry:
    """What became of a raster: done, or refused for a ``reason``. ``settings``: a digest of model and options."""

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
        """Of the raster, then."""
        return State(self.size_bytes, self.mtime_ns, self.ctime_ns, self.inode)


@dataclass(frozen=True)
class Attempt:
    """How often contents were begun and never came to an end, with ``kept_bytes`` of the run's journal at the last."""

    state: State
    kept_bytes: int
    times: int = 1


class Ledger:
    """The ledger of an output folder, locked against other watchers while it is open. A context manager.

    Raises InputError where another watcher has it, OutputError where it cannot be written.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self.entries = folder, dict[str, Entry]()
        self.unfinished = dict[str, Attempt]()  # by raster
        self._begun: str | None = None  # now
        self._clock = clock
        self._owners: dict[str, str] = {}  # mask to source; some file systems know no capitals

    def __enter__(self) -> Ledger:
        with contextlib.ExitStack() as stack, writing(self.folder):
            handle = open_own(self.folder / LOCK, os.O_RDWR | os.O_CREAT)
            stack.callback(os.close, handle)
            if lock(handle) is False:
                raise InputError(
                    f"another rsedge watch writes to {self.folder} already; stop it, or give another --out-dir"
                )
            self._load()
            self._lines = open_own(self.folder / LINES, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            stack.callback(os.close, self._lines)
            write_all(self._lines, "\n")  # what was torn ends here
            sync_folder(self.folder)
            self.beat()
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def begin(self, source: str, state: State, kept_bytes: int = 0) -> None:
        """Note that a raster is begun, so that should it end this process, the next one knows.

        ``kept_bytes``: of what is on the disk of an earlier run; where that has grown, the earlier run was not in vain.
        """
        self._write({"begun": source, "kept_bytes": kept_bytes, **asdict(state)})
        self._count(source, Attempt(state, kept_bytes))
        self._begun = source

    def leave(self) -> None:
        """Note that the raster begun last did not end this process, whatever did; nothing where it came to an end."""
        source, self._begun = self._begun, None
        if source is not None and source in self.unfinished:
            with contextlib.suppress(OutputError):  # counted then, as if it had been the raster
                self._write({"left": source})
                self._uncount(source)

    def endings(self, source: str, state: State) -> int:
        """How often these contents have ended a watcher that had not come further since."""
        attempt = self.unfinished.get(source)
        return attempt.times if attempt and attempt.state.is_same(state) else 0

    def add(self, entry: Entry) -> None:
        """Note what became of a raster; it is on the disk when this returns."""
        self._write(asdict(entry))
        self._note(entry)

    def accounts_for(self, source: str, state: State, settings: str) -> bool:
        """Whether nothing is left to do: these contents are done, or were refused by the same model and options."""
        entry = self.entries.get(source)
        if entry is None or not entry.state.is_same(state):
            return False
        return entry.reason is None or entry.settings == settings

    def owner(self, out: str) -> str | None:
        """The raster whose mask a file is."""
        return self._owners.get(out.casefold())

    def beat(self) -> None:
        """Tell that the watcher is well. Raises OutputError where the folder has gone or cannot be written."""
        path, now = self.folder / PULSE, time.time()
        with writing(self.folder):
            if not os.access(self.folder, os.W_OK):  # a file that is there can be touched all the same
                raise OutputError(f"{self.folder} is not writable; change its permissions")
            pulse = open_own(path, os.O_WRONLY | os.O_CREAT)
            try:
                os.utime(
                    pulse if os.utime in os.supports_fd else path, (now, now)
                )  # our clock, not a file server's
            finally:
                os.close(pulse)
        self._beaten = self._clock()
        tell_systemd("WATCHDOG=1")

    def keep_beating(self) -> None:
        """`beat`, where the last one is some time ago."""
        if self._clock() - self._beaten >= PULSE_S / 2:
            self.beat()

    def _load(self) -> None:
        for line in own_lines(self.folder / LINES):
            with contextlib.suppress(ValueError, TypeError, ArithmeticError):  # torn, or not ours
                # Lines of rsedge 0.1 have no CRC: their rasters are not done again.
                text = line if line.startswith("{") else without_crc(line)
                self._take(parse_json(text, MOST_LINE_BYTES))

    def _take(self, facts: object) -> None:
        """One line. Raises ValueError or TypeError where it is none of ours."""
        if not isinstance(facts, dict):
            return
        if isinstance(left := facts.get("left"), str):
            self._uncount(left)
        elif isinstance(begun := facts.pop("begun", None), str):
            kept_bytes = int(facts.pop("kept_bytes", 0))
            # Of an older ledger: these contents are not known.
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
    """Raise RsedgeError where no watcher of this output folder has been well for five minutes."""
    path = folder / PULSE
    try:
        age_s = abs(time.time() - path.lstat().st_mtime)
    except OSError:
        raise RsedgeError(f"{folder} has had no watcher: {path.name} is not there") from None
    if age_s >= LOST_S:
        raise RsedgeError(f"the watcher of {folder} has not been heard of for {age_s:.0f} s; start it again")
