"""Watching a folder: what lands in it is segmented, each raster once.

Polled, since network mounts tell nobody of new files. A raster is taken when it and its side files have stayed the
same for a while and its last pixel can be read; one that changes all the same while it is read waits again.

Others feed the folder: no entry may end the watcher. Whatever reading one raises refuses that one; one that ends the
process all the same is known by the ledger to the next, which refuses it.
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
MOST_NAME_BYTES = 235  # of a mask; file systems take 255, and names of hidden files beside it are longer
TRIES = 2  # of a raster; one that has ended the watcher as often is refused
MOST_PIXELS = 100_000_000_000  # of a raster; a header that says more would keep the watcher from all others
SIDE_FILES = (".aux.xml", ".ovr", ".msk", ".tfw", ".tifw", ".wld", ".prj")


@dataclass(frozen=True)
class Done:
    """A mask is there. ``result`` None: a run that was cut off had finished it."""

    source: Path
    out: Path
    result: Result | None


@dataclass(frozen=True)
class Refused:
    """A raster cannot be segmented; it is looked at again when it has changed, or with other options."""

    source: Path
    reason: str


@dataclass(frozen=True)
class Waiting:
    """A raster that looked complete is not yet to be read."""

    source: Path
    reason: str


Event = Done | Refused | Waiting
Show = Callable[[Path], AbstractContextManager[Progress | None]]


@dataclass
class Watch:
    """A folder whose rasters are segmented into that of ``ledger``, which is open.

    ``patterns``: of the rasters' names, whatever their case. ``settle_s``: for how long a file must not have
    changed; ``every_s``: between two looks. ``preview``: a PNG beside each mask. ``show`` gives a raster's progress.
    ``most_pixels``: larger rasters are refused. ``allow``: see `Trust`; neither VRTs nor what its name says is
    opened without.

    Raises InputError where the two folders are one, or the folder is none.
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
        self._odd: list[str] = []  # names in the folder that are no files: reading one may never end
        self._seen: dict[str, tuple[object, float]] = {}  # how a raster looked, and since when
        self._told: set[tuple[str, str]] = set()
        bundle = self.model.bundle
        about = [__version__, bundle.sha256, bundle.precision, asdict(self.options), self.most_pixels]
        self._settings = hashlib.sha256(json.dumps(about, default=str).encode()).hexdigest()

    def run(self, once: bool = False) -> Iterator[Event]:
        """Segment what is complete, for ever, or ``once``: what is complete now. Tells what became of each raster.

        Raises BackendError or OutputError where that is no fault of a raster's, OSError where the folder has gone.
        What is finished is kept then: the next run goes on.
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
        """How many of the folder's rasters are done already, by another model: they stay as they are."""
        listing = self._listing()
        there = [(e, listing[e.source]) for e in self.ledger.entries.values() if e.source in listing]
        done = [e for e, state in there if not e.reason and e.state.is_same(state)]
        return sum(e.model_sha256 != self.model.bundle.sha256 for e in done)

    def _ready(self) -> list[tuple[str, State]]:
        """Rasters complete and not accounted for, the oldest first."""
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
        """The files of the folder; of links, those that lead to one. Raises OSError where the folder has gone."""
        found, self._odd = dict[str, State](), list[str]()
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                with suppress(OSError):  # a link that cannot be followed, or that has gone meanwhile
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
        """Segment a raster and note that. None where there is nothing to tell."""
        source, target = self.folder / name, self.ledger.folder / f"{Path(name).stem}.tif"
        sha256, facts = self.model.bundle.sha256, asdict(state)
        done = Entry(source=name, out=target.name, model_sha256=sha256, settings=self._settings, **facts)
        try:
            self._check_entry(source, target, state)
            self.ledger.begin(name, state, _kept_bytes(target))  # before anything of it is read
            self._check(source, target)
            result = self._segment(source, target)
        except BackendError as error:
            self.ledger.leave()
            raise BackendError(f"{name}: {error}") from error
        except Exception as error:
            if isinstance(error, RsedgeError) and not isinstance(error, InputError):
                self.ledger.leave()
                raise  # of the model or of the output folder: no fault of the raster's
            return self._refuse(source, state, done, error)
        except BaseException:
            self.ledger.leave()  # Ctrl-C
            raise
        self.ledger.add(done)
        return Done(source, target, result)

    def _refuse(self, source: Path, state: State, done: Entry, error: Exception) -> Event | None:
        """What follows from an error of a raster's: the others may be well."""
        self.ledger.beat()  # an output folder that has gone is no fault of the raster's
        is_ours = isinstance(error, InputError)
        if isinstance(error, BusyError) or (is_ours and State.of(source) != state):
            self.ledger.leave()
            return self._later(source, str(error))
        reason = str(error) if is_ours else unexpected(str(source), error)
        self.ledger.add(replace(done, reason=reason))
        return Refused(source, reason)

    def _check_entry(self, source: Path, target: Path, state: State) -> None:
        """Raise InputError where a raster is not even to be begun. Nothing of it is read."""
        _check_name(target)
        if State.of(source) != state:
            raise BusyError("it is being written")
        if not os.access(source, os.R_OK):
            raise BusyError(f"no permission to read it; `chmod +r {source.name}`")
        if (times := self.ledger.endings(source.name, state)) >= TRIES:
            raise InputError(
                f"it has ended the watcher {times} times; `rsedge infer` on it tells more, `touch` has it tried again"
            )
        if not state.size_bytes:
            raise InputError("it is empty")
        stem = source.stem.casefold()
        for name in self._odd:  # GDAL looks for many names beside a raster, and a pipe never ends
            if stem in name.casefold():
                raise InputError(f"{name} beside it is a device, a pipe or a socket; remove that")

    def _check(self, source: Path, target: Path) -> None:
        """Raise InputError where the raster is not whole, or its mask would take another file's place."""
        check_whole(source, self.options.trust, self.most_pixels)
        owner = self.ledger.owner(target.name)
        if owner not in {None, source.name}:
            raise InputError(f"its mask would take the place of {owner}'s, {target.name}; rename it")
        if target.exists() and tag_of(target, "RSEDGE_MODEL") is None:
            raise InputError(
                f"{target} is there and is no mask of rsedge's; move it away, then `touch {source.name}`"
            )
        picture = self._picture(target)
        if picture and owner is None and picture.exists() and not is_preview(picture):
            raise InputError(
                f"{picture} is there and is no preview of rsedge's; move it away, then `touch {source.name}`"
            )

    def _segment(self, source: Path, target: Path) -> Result | None:
        """The mask; None where it was there. What a killed run has left is gone on with, where it fits."""
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
        """Wait anew for the raster to settle."""
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
    """Of the journal of a run that was cut off: more where it has come further."""
    with suppress(OSError):
        return sum(e.stat(follow_symlinks=False).st_size for e in os.scandir(folder_of(target)))
    return 0


def _check_name(target: Path) -> None:
    """Raise InputError where no mask can have the raster's name: it would end the watcher at every start."""
    try:
        size = len(target.name.encode())
    except UnicodeError:
        raise InputError("its name is not UTF-8; rename it") from None
    if size > MOST_NAME_BYTES:
        raise InputError(f"its name has {size} bytes; allowed are {MOST_NAME_BYTES}; rename it")


def check_folders(folder: Path, out_dir: Path) -> None:
    """Raise InputError where a folder cannot be watched into another."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give the one that rasters are copied to")
    if out_dir.exists() and out_dir.samefile(folder):
        raise InputError(f"--out-dir {out_dir} is the folder that is watched: masks would be segmented again")


def _begin_with(prefix: str, names: Sequence[str]) -> Sequence[str]:
    """Of sorted names, those that begin so."""
    begin = bisect_left(names, prefix)
    end = begin
    while end < len(names) and names[end].startswith(prefix):
        end += 1
    return names[begin:end]
