"""Watching a folder: each raster that lands in the folder is segmented once.

The folder is polled, because network mounts send no events for new files. A raster is read when it and its side
files have not changed for a while and its last pixel can be read; one that changes while it is read waits again.

Others write to the folder, so no entry may end the watcher. Any error while reading a raster refuses that raster; if
one ends the process all the same, the next watcher learns of it from the ledger and refuses it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from rsedge.backends import Backend
from rsedge.engine.sliding_window import Progress
from rsedge.errors import BackendError, BusyError, InputError, RsedgeError, unexpected
from rsedge.infer.inputs import check_whole, is_preview
from rsedge.infer.journal import folder_of
from rsedge.infer.options import Options, Result
from rsedge.infer.segmentation import is_done, segment
from rsedge.raster.side_files import leads_to_system
from rsedge.raster.trust import Trust
from rsedge.raster.writer import tag_of
from rsedge.version import __version__
from rsedge.watch.ledger import PULSE_S, Entry, Ledger, State

PATTERNS = ("*.tif", "*.tiff")
UNFINISHED = (".part", ".partial", ".filepart", ".crdownload", ".download", ".tmp", ".temp", ".swp", "~")
MOST_NAME_BYTES = (
    235  # of a mask's name; file systems allow 255, and hidden files beside the mask have longer names
)
TRIES = 2  # a raster that has ended the watcher this often is refused
MOST_PIXELS = 100_000_000_000  # of a raster; a header that claims more would keep the watcher busy for ever
SIDE_FILES = (".aux.xml", ".ovr", ".msk", ".tfw", ".tifw", ".wld", ".prj")


@dataclass(frozen=True)
class Done:
    """A finished mask. ``result`` is None if an interrupted run had finished it."""

    source: Path
    out: Path
    result: Result | None


@dataclass(frozen=True)
class Refused:
    """A raster that cannot be segmented, until it or the options change."""

    source: Path
    reason: str


@dataclass(frozen=True)
class Waiting:
    """A raster that looked complete but cannot be read yet."""

    source: Path
    reason: str


Event = Done | Refused | Waiting
Show = Callable[[Path], AbstractContextManager[Progress | None]]


@dataclass
class Watch:
    """A folder whose rasters are segmented into the folder of ``ledger``, which must be open.

    ``patterns``: file name patterns, matched regardless of case. ``settle_s``: how long a file must be unchanged.
    ``every_s``: time between scans. ``preview``: also write a PNG per mask. ``show``: returns the progress display of
    a raster. ``most_pixels``: larger rasters are refused. ``allow``: see `Trust`; without it neither VRTs nor names
    that GDAL would interpret are opened.

    Raises InputError if the folder does not exist or is the output folder.
    """

    model: Backend
    folder: Path
    ledger: Ledger
    options: Options = field(default_factory=Options)
    patterns: Sequence[str] = PATTERNS
    preview: bool = False
    settle_s: float = 10.0
    every_s: float = 5.0
    most_pixels: float = MOST_PIXELS
    allow: tuple[str, ...] = ()
    show: Show = lambda _: nullcontext()
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        check_folders(self.folder, self.ledger.folder)
        self.options = replace(self.options, trust=Trust(named=False, allow=self.allow))
        self._odd: list[str] = []  # names in the folder that are not files; reading one may never end
        self._seen: dict[str, tuple[object, float]] = {}  # state of a raster, and since when
        self._told: set[tuple[str, str]] = set()
        bundle = self.model.bundle
        about = [__version__, bundle.sha256, bundle.precision, asdict(self.options), self.most_pixels]
        self._settings = hashlib.sha256(json.dumps(about, default=str).encode()).hexdigest()

    def run(self, once: bool = False) -> Iterator[Event]:
        """Segment what is complete, for ever or ``once``, and yield the outcome of each raster.

        Raises BackendError or OutputError for errors that are not a raster's fault, OSError if the folder disappeared.
        Finished work is kept, and the next run continues.
        """
        ready = self._ready()
        settled = self.clock() + self.settle_s
        while True:
            for name, state in ready:
                if event := self._do(name, state):
                    yield event
            now = self.clock()
            if once and now >= settled:
                return
            self._wait(min(self.every_s, settled - now) if once else self.every_s)
            ready = self._ready()

    def of_other_models(self) -> int:
        """Count the rasters that another model has segmented and that will not be done again."""
        listing = self._listing()
        there = [(e, listing[e.source]) for e in self.ledger.entries.values() if e.source in listing]
        done = [e for e, state in there if not e.reason and e.state.is_same(state)]
        return sum(e.model_sha256 != self.model.bundle.sha256 for e in done)

    def _ready(self) -> list[tuple[str, State]]:
        """Return complete rasters that are not accounted for, oldest first."""
        self.ledger.beat()
        listing, now, ready = self._listing(), self.clock(), list[tuple[str, State]]()
        names = sorted(listing)
        for name in filter(self._is_wanted, names):
            if self.ledger.accounts_for(name, listing[name], self._settings):
                continue
            look = [(n, listing[n]) for n in (name, *_begin_with(f"{Path(name).stem}.", names))]
            if name not in self._seen or self._seen[name][0] != look:
                self._seen[name] = look, now
            if now - self._seen[name][1] >= self.settle_s:
                ready.append((name, listing[name]))
        self._seen = {name: seen for name, seen in self._seen.items() if name in listing}
        return sorted(ready, key=lambda r: (r[1].mtime_ns, r[0]))

    def _listing(self) -> Mapping[str, State]:
        """Return the state of files and of links to files. Raises OSError if the folder disappeared."""
        found, self._odd = dict[str, State](), list[str]()
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                with suppress(OSError):  # a broken link, or a file removed meanwhile
                    facts = entry.stat()
                    if not stat.S_ISREG(facts.st_mode) or (
                        entry.is_symlink() and leads_to_system(entry.path)
                    ):
                        self._odd += [] if stat.S_ISDIR(facts.st_mode) else [entry.name]
                    else:
                        found[entry.name] = State.by(facts)
        return found

    def _is_wanted(self, name: str) -> bool:
        name = name.lower()
        return not name.endswith(UNFINISHED + SIDE_FILES) and any(
            fnmatchcase(name, pattern.lower()) for pattern in self.patterns
        )

    def _do(self, name: str, state: State) -> Event | None:
        """Segment a raster and record the outcome. Returns None if there is nothing to report."""
        source, target = self.folder / name, self.ledger.folder / f"{Path(name).stem}.tif"
        sha256, facts = self.model.bundle.sha256, asdict(state)
        done = Entry(source=name, out=target.name, model_sha256=sha256, settings=self._settings, **facts)
        try:
            self._check_entry(source, target, state)
            self.ledger.begin(name, state, _kept_bytes(target))  # before any of it is read
            self._check(source, target)
            result = self._segment(source, target)
        except BackendError as error:
            self.ledger.leave()
            raise BackendError(f"{name}: {error}") from error
        except Exception as error:
            if isinstance(error, RsedgeError) and not isinstance(error, InputError):
                self.ledger.leave()
                raise  # an error of the model or the output folder, not the raster's fault
            return self._refuse(source, state, done, error)
        except BaseException:
            self.ledger.leave()  # Ctrl-C
            raise
        self.ledger.add(done)
        return Done(source, target, result)

    def _refuse(self, source: Path, state: State, done: Entry, error: Exception) -> Event | None:
        """Refuse or postpone a raster that caused an error, so that other rasters are not affected."""
        self.ledger.beat()  # raises if the output folder disappeared, which is not the raster's fault
        is_ours = isinstance(error, InputError)
        if isinstance(error, BusyError) or (is_ours and State.of(source) != state):
            self.ledger.leave()
            return self._later(source, str(error))
        reason = str(error) if is_ours else unexpected(str(source), error)
        self.ledger.add(replace(done, reason=reason))
        return Refused(source, reason)

    def _check_entry(self, source: Path, target: Path, state: State) -> None:
        """Raise InputError if a raster must not even be started. Reads nothing of it."""
        _check_name(target)
        if State.of(source) != state:
            raise BusyError("still being written")
        if not os.access(source, os.R_OK):
            raise BusyError(f"no permission to read the file; run `chmod +r {source.name}`")
        if (times := self.ledger.endings(source.name, state)) >= TRIES:
            raise InputError(
                f"the raster has ended the watcher {times} times. See why with `rsedge infer`, retry after `touch`."
            )
        if not state.size_bytes:
            raise InputError("the file is empty")
        stem = source.stem.casefold()
        for name in self._odd:  # GDAL looks for many names beside a raster, and reading a pipe never ends
            if stem in name.casefold():
                raise InputError(f"{name} beside the raster is a device, a pipe or a socket; remove that")

    def _check(self, source: Path, target: Path) -> None:
        """Raise InputError if the raster is truncated, or if its mask would replace another file."""
        check_whole(source, self.options.trust, self.most_pixels)
        owner = self.ledger.owner(target.name)
        if owner not in {None, source.name}:
            raise InputError(f"its mask {target.name} would replace that of {owner}; rename the raster")
        if target.exists() and tag_of(target, "RSEDGE_MODEL") is None:
            raise InputError(f"{target} was not written by rsedge; move it away, then `touch {source.name}`")
        picture = self._picture(target)
        if picture and owner is None and picture.exists() and not is_preview(picture):
            raise InputError(f"{picture} was not drawn by rsedge; move it away, then `touch {source.name}`")

    def _segment(self, source: Path, target: Path) -> Result | None:
        """Segment a raster, resuming a killed run if possible. Returns None if the mask was already finished."""
        options = replace(self.options, preview=self._picture(target), resume=True, overwrite=True)
        if is_done(self.model, source, target, options):
            return None
        with self.show(source) as shown:

            def report(done: int, total: int) -> None:
                self.ledger.keep_beating()
                if shown:
                    shown(done, total)

            return segment(self.model, source, target, options, report)

    def _picture(self, target: Path) -> Path | None:
        return target.with_suffix(".png") if self.preview else None

    def _later(self, source: Path, reason: str) -> Event | None:
        """Start waiting again for the raster to settle."""
        self._seen.pop(source.name, None)
        if (source.name, reason) in self._told or not source.exists():
            return None
        self._told.add((source.name, reason))
        return Waiting(source, reason)

    def _wait(self, seconds: float) -> None:
        end = self.clock() + seconds
        while (left := end - self.clock()) > 0:
            self.sleep(min(left, PULSE_S))
            self.ledger.keep_beating()


def _kept_bytes(target: Path) -> int:
    """Return the size of an interrupted run's journal, which grows with its progress."""
    with suppress(OSError):
        return sum(e.stat(follow_symlinks=False).st_size for e in os.scandir(folder_of(target)))
    return 0


def _check_name(target: Path) -> None:
    """Raise InputError if a mask cannot have the raster's name, which would end the watcher at every start."""
    try:
        size = len(target.name.encode())
    except UnicodeError:
        raise InputError("the name is not UTF-8; rename the raster") from None
    if size > MOST_NAME_BYTES:
        raise InputError(
            f"the name has {size} bytes, at most {MOST_NAME_BYTES} are allowed; rename the raster"
        )


def check_folders(folder: Path, out_dir: Path) -> None:
    """Raise InputError if ``folder`` cannot be watched with masks going to ``out_dir``."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the one that rasters are copied to")
    if out_dir.exists() and out_dir.samefile(folder):
        raise InputError(f"--out-dir {out_dir} is the watched folder, so masks would be segmented again")


def _begin_with(prefix: str, names: Sequence[str]) -> Sequence[str]:
    """Return the names that start with ``prefix``; ``names`` must be sorted."""
    begin = bisect_left(names, prefix)
    end = begin
    while end < len(names) and names[end].startswith(prefix):
        end += 1
    return names[begin:end]
