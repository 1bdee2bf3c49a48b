"""The finished parts of a run, on disk beside its target, so that it can be resumed after a crash or power cut.

    .mask.tif.rsedge/
            settings.json     the request: raster, model, options
            journal.jsonl     one line per finished part with its CRC-32, written after the part's files
        000512-000000.mask.tif ...

A part is a rectangle of the result. A line that is torn, damaged or does not match its files is ignored, so the order
in which data reach the disk does not matter. The folder is removed when the result is published. It must belong to
this user: files that others could have written are not resumed from.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from rsedge.documents import Count, from_json, parse_json, read_open
from rsedge.errors import BusyError, InputError
from rsedge.files import (
    check_own_folder,
    lock,
    open_own,
    sync,
    sync_folder,
    with_crc,
    without_crc,
    write_all,
    writing,
)
from rsedge.raster.part_file import PartFile, is_whole
from rsedge.tiling.window import Window

SETTINGS, LINES, LOCK = "settings.json", "journal.jsonl", "lock"
CHANGED = {"raster_state": "the raster, or a file that it is made of, has changed"}  # a digest tells nothing
OLD_LINE = '{"area": {'  # lines without a checksum, as older versions wrote them
MOST_LINE_BYTES = 1 << 20  # of a journal or a ledger; rsedge writes some hundreds
LOCK_ATTEMPTS = 20
SYNC_S = 2.0  # work that a power cut may cost; a kill costs at most one part


@dataclass(frozen=True)
class Part:
    """A finished rectangle of the result."""

    area: Window
    files: tuple[PartFile, ...]
    pixels: tuple[Count, ...]  # of each class
    area_m2: tuple[float, ...] | None  # of each class; None if the grid's areas are unknown

    def __post_init__(self) -> None:
        inside = sum(self.pixels) <= self.area.height * self.area.width
        if not inside or not self.files or len({f.layer for f in self.files}) != len(self.files):
            raise ValueError(f"{self} is not a part")
        if self.area_m2 is not None and not (
            len(self.area_m2) == len(self.pixels) and all(0 <= m2 < math.inf for m2 in self.area_m2)
        ):
            raise ValueError(f"{self}: areas do not match pixels")

    def to_json(self) -> str:
        """Return one line, beginning with its CRC-32."""
        return with_crc(json.dumps(asdict(self)))

    @classmethod
    def from_json(cls, line: str) -> Part:
        """Parse a line of ``to_json``. Raises ValueError if the line is torn, damaged or foreign."""
        return from_json(cls, parse_json(without_crc(line), MOST_LINE_BYTES), exact=True)


@dataclass
class Journal:
    """The journal of one target, locked against other processes while it is open.

    ``resume`` continues an earlier run of the same ``settings``. Without it, finished parts of an earlier run
    are an error unless ``overwrite``, because pressing return twice must not wipe hours of work. With both, the
    run is resumed if possible, else started over. ``fits`` returns True for this run's parts; others are ignored.

    Raises InputError if the journal does not fit, OutputError if it cannot be written.
    """

    target: Path
    settings: Mapping[str, Any]
    resume: bool = False
    overwrite: bool = False
    fits: Callable[[Part], bool] = lambda _: True
    parts: dict[Window, Part] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.folder = folder_of(self.target)
        self._lines: int | None = None
        self._unsynced: list[Path] = []
        self._synced = time.monotonic()

    def __enter__(self) -> Journal:
        with writing(self.folder):
            self._lock = _locked(self.folder, self.target)
            try:
                self._take_up()
            except BaseException:
                self._close(keep=True)
                raise
            try:
                if not self.parts:
                    self._begin()
                self._lines = open_own(self.folder / LINES, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                write_all(self._lines, "\n")  # ends a torn line
            except BaseException:
                self._close(keep=bool(self.parts))
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        useless = not self.parts or (
            kind is not None and issubclass(kind, BusyError)
        )  # and what was read of a changed raster is unknown
        self._close(keep=kind is None or not useless)

    def path(self, area: Window, layer: str) -> Path:
        """Return the path of a part's file for ``layer``."""
        return self.folder / f"{area.row:07d}-{area.col:07d}.{layer}"

    def add(self, part: Part) -> None:
        """Record a finished part. Raises OutputError if the disk is full."""
        assert self._lines is not None, "the journal is not open"
        with writing(self.folder):
            write_all(self._lines, part.to_json() + "\n")
            self._unsynced += [self.path(part.area, f.layer) for f in part.files]
            if time.monotonic() - self._synced > SYNC_S:
                for path in self._unsynced:
                    sync(path)
                os.fsync(self._lines)
                self._unsynced.clear()
                self._synced = time.monotonic()
        self.parts[part.area] = part

    def remove(self) -> None:
        """Remove the folder after the result was published."""
        with contextlib.suppress(OSError):
            sync_folder(self.target.parent)  # the new name first
            # The lines go first, so that an interrupted removal leaves no unfinished run. The lock goes last: until
            # then other runs are refused, and afterwards they make a folder of their own.
            for path in sorted(self.folder.iterdir(), key=lambda p: (p.name != LINES, p.name == LOCK)):
                path.unlink()
            self.folder.rmdir()

    def _close(self, keep: bool) -> None:
        if self._lines is not None:
            os.close(self._lines)
        if not keep:
            self.remove()
        os.close(self._lock)

    def _take_up(self) -> None:
        """Load the parts of an earlier run. Raises InputError if that run forbids this one."""
        found = self._found()
        if self.resume and found:
            try:
                self._compare()
            except InputError:
                if self.overwrite:
                    return
                raise
            # Only now: parts that do not fit are an unfinished run all the same.
            self.parts = {area: part for area, part in found.items() if self.fits(part)}
            self._sweep({self.path(p.area, f.layer).name for p in self.parts.values() for f in p.files})
        elif found and not self.overwrite:
            raise InputError(
                f"{self.target} has an unfinished run ({_share(found)}). Continue with --resume, or start over with "
                "--overwrite."
            )

    def _found(self) -> dict[Window, Part]:
        """Return the parts whose files are complete."""
        parts: dict[Window, Part] = {}
        old = False
        for line in own_lines(self.folder / LINES):
            old |= line.startswith(OLD_LINE)
            with contextlib.suppress(ValueError):
                part = Part.from_json(line)
                if all(self._is_whole(part, file) for file in part.files):
                    parts[part.area] = part
        if old and not parts and not self.overwrite:
            raise InputError(
                f"{self.target} has an unfinished run of an older rsedge without checksums. Finish it with that "
                "version, or start over with --overwrite."
            )
        return parts

    def _is_whole(self, part: Part, file: PartFile) -> bool:
        return is_whole(self.path(part.area, file.layer), file)

    def _compare(self) -> None:
        was = settings_of(self.target)
        if not was:
            raise InputError(f"{self.folder / SETTINGS} cannot be read. Start over with --overwrite.")
        now = json.loads(json.dumps(self.settings))
        differ = [
            CHANGED.get(k) or f"{k} was {_short(was.get(k))}, is now {_short(now.get(k))}"
            for k in sorted(was.keys() | now.keys())
            if was.get(k) != now.get(k)
        ]
        if differ:
            raise InputError(
                f"{self.target} cannot be resumed with other settings: {'; '.join(differ)}. Repeat the earlier "
                "command with --resume, or start over with --overwrite."
            )

    def _begin(self) -> None:
        if (self.folder / LINES).exists():
            (self.folder / LINES).unlink()
            sync_folder(self.folder)  # otherwise a power cut could leave these lines beside other settings
        self._sweep(set())
        partial = self.folder / f"{SETTINGS}.part"
        partial.write_text(json.dumps(self.settings, indent=1), encoding="utf-8")
        partial.replace(self.folder / SETTINGS)
        self._unsynced.append(self.folder / SETTINGS)

    def _sweep(self, keep: set[str]) -> None:
        """Remove leftovers of a killed run: parts without a line, half a result."""
        for path in self.folder.iterdir():
            if path.name not in keep | {LOCK, LINES, SETTINGS}:
                if path.is_dir():  # not made by rsedge
                    shutil.rmtree(path)
                else:
                    path.unlink()


def settings_of(target: Path) -> Mapping[str, Any]:
    """Return the settings of the unfinished run to ``target``; {} if there is none or they are unreadable."""
    try:
        check_own_folder(folder_of(target))
        settings = parse_json(read_open(open_own(folder_of(target) / SETTINGS, os.O_RDONLY)))
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def own_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file that belongs to this user alone; none if the file is missing."""
    try:
        handle = open_own(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    with open(handle, encoding="utf-8", errors="replace") as file:
        for line in file:
            yield line.rstrip("\n")


def folder_of(target: Path) -> Path:
    """Return the folder of a target's journal."""
    return target.with_name(f".{target.name}.rsedge")


def _share(parts: Mapping[Window, Part]) -> str:
    pixels = sum(area.height * area.width for area in parts)
    return f"{pixels / 1e6:.0f} Mpx done"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _locked(folder: Path, target: Path) -> int:
    """Open and lock a file in the folder, made if missing; the lock ends with the process.

    Raises InputError if another process holds the lock, OSError if the folder cannot be written.
    """
    for attempt in range(LOCK_ATTEMPTS):
        try:
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o755)  # writable for this user alone, whatever the umask
            if not stat.S_ISDIR(folder.lstat().st_mode):
                raise InputError(f"{folder} is a link or a file, but must hold unfinished work. Remove it.")
            check_own_folder(folder)
            handle = open_own(folder / LOCK, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:
            if attempt + 1 < LOCK_ATTEMPTS and folder.parent.is_dir():
                continue  # another run has just ended and removed its folder
            raise
        try:
            if _take_lock(handle, target, folder / LOCK):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    raise InputError(f"could not lock {target}: other runs keep starting. Try again when they have finished.")


def _take_lock(handle: int, target: Path, path: Path) -> bool:
    """Lock an open file; return False if ``path`` is another file by now, which makes the lock worthless."""
    held = lock(handle)
    if held is False:
        raise BusyError(f"{target} is being written by another rsedge. Wait for it, or stop it.")
    try:
        return held is None or os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
