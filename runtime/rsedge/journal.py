"""What a run has finished, on the disk beside its target, so that it can go on after ``kill -9`` or a power cut.

    .mask.tif.rsedge/
        settings.json     what was asked for: raster, model, options
        journal.jsonl     one line a finished part, written when the part's files are whole
        000512-000000.mask.tif ...

A part is a rectangle of the result. A line that is torn, or whose files are not those that it tells of, is as
if it had not been written, so nothing need be on the disk in any order. The folder is removed when the
result has its name.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from rsedge.errors import InputError, OutputError
from rsedge.window import Window

SETTINGS, LINES, LOCK = "settings.json", "journal.jsonl", "lock"
SYNC_S = 2.0  # what a power cut may cost; what a kill costs is a part at most


@dataclass(frozen=True)
class PartFile:
    """A file of a part: ``layer`` it holds, its size and CRC-32, and the CRC-32 of the pixels meant to be in it."""

    layer: str
    size_bytes: int
    crc: int
    pixels_crc: int


@dataclass(frozen=True)
class Part:
    """A finished rectangle of the result."""

    area: Window
    files: tuple[PartFile, ...]
    pixels: tuple[int, ...]  # of each class
    area_m2: tuple[float, ...] | None  # of each class; None where the grid has no known area

    @property
    def stem(self) -> str:
        """First part of its files' names."""
        return stem(self.area)

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Part:
        """Parse ``to_json``'s line. Raises ValueError, KeyError or TypeError where it is torn."""
        facts = json.loads(line)
        areas = facts["area_m2"]
        return cls(
            area=Window(**facts["area"]),
            files=tuple(PartFile(**f) for f in facts["files"]),
            pixels=tuple(map(int, facts["pixels"])),
            area_m2=None if areas is None else tuple(map(float, areas)),
        )


def stem(area: Window) -> str:
    """Name of the files of a part, without what they hold."""
    return f"{area.row:07d}-{area.col:07d}"


@dataclass
class Journal:
    """The journal of one target, locked against other processes while it is open.

    ``resume``: go on from what is there, which must be of the same ``settings``. Without it, finished parts of
    an earlier run are an error unless ``overwrite``: hours of work are not wiped by pressing return twice.

    Raises InputError where the journal does not fit, OutputError where it cannot be written.
    """

    target: Path
    settings: Mapping[str, Any]
    resume: bool = False
    overwrite: bool = False
    parts: dict[Window, Part] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.folder = folder_of(self.target)
        self._unsynced: list[Path] = []
        self._synced = time.monotonic()

    def __enter__(self) -> Journal:
        with _disk_errors(self.folder):
            self.folder.mkdir(exist_ok=True)
            self._lock = _lock(self.folder / LOCK, self.target)
        try:
            found = self._found()
            if self.resume and found:
                self._compare()
                self.parts = found
            elif found and not self.overwrite:
                raise InputError(
                    f"an unfinished run to {self.target} is there ({_share(found)}): go on with --resume, or begin "
                    "anew with --overwrite"
                )
            else:
                self._begin()
            with _disk_errors(self.folder):
                self._lines = (self.folder / LINES).open("a", encoding="utf-8")
                self._lines.write("\n")  # what was torn ends here
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        if kind is not None and not self.parts:
            self.remove()  # nothing to go on from
        os.close(self._lock)

    def path(self, area: Window, layer: str) -> Path:
        """Where a part's file of a layer belongs."""
        return self.folder / f"{stem(area)}.{layer}"

    def add(self, part: Part) -> None:
        """Note a finished part. Raises OutputError where the disk is full."""
        with _disk_errors(self.folder):
            self._lines.write(part.to_json() + "\n")
            self._lines.flush()
            self._unsynced += [self.path(part.area, f.layer) for f in part.files]
            if time.monotonic() - self._synced > SYNC_S:
                for path in self._unsynced:
                    sync(path)
                os.fsync(self._lines.fileno())
                self._unsynced.clear()
                self._synced = time.monotonic()
        self.parts[part.area] = part

    def remove(self) -> None:
        """Remove the folder: the result has its name."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _found(self) -> dict[Window, Part]:
        """The parts that are there, whole."""
        parts: dict[Window, Part] = {}
        try:
            lines = (self.folder / LINES).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return {}
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                part = Part.from_json(line)
                if all(self._is_whole(part, file) for file in part.files):
                    parts[part.area] = part
        return parts

    def _is_whole(self, part: Part, file: PartFile) -> bool:
        try:
            return describe(self.path(part.area, file.layer)) == (file.size_bytes, file.crc)
        except OSError:
            return False

    def _compare(self) -> None:
        try:
            was = json.loads((self.folder / SETTINGS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise InputError(
                f"{self.folder / SETTINGS} cannot be read; begin anew with --overwrite"
            ) from None
        now = json.loads(json.dumps(self.settings))
        differ = [
            f"{k} was {_short(was.get(k))}, is now {_short(now.get(k))}"
            for k in sorted(was.keys() | now.keys())
            if was.get(k) != now.get(k)
        ]
        if differ:
            raise InputError(
                f"the unfinished run to {self.target} cannot go on with other settings: {'; '.join(differ)}. Give "
                "the same command as before with --resume, or begin anew with --overwrite"
            )

    def _begin(self) -> None:
        with _disk_errors(self.folder):
            for path in self.folder.iterdir():
                if path.name != LOCK:
                    path.unlink()
            text = json.dumps(self.settings, indent=1)
            (self.folder / SETTINGS).write_text(text, encoding="utf-8")
            sync(self.folder / SETTINGS)


def folder_of(target: Path) -> Path:
    """The folder of a target's journal."""
    return target.with_name(f".{target.name}.rsedge")


def describe(path: Path) -> tuple[int, int]:
    """A file's size in bytes and its CRC-32. Raises OSError."""
    crc, size = 0, 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc, size = zlib.crc32(block, crc), size + len(block)
    return size, crc


def sync(path: Path) -> None:
    """Put a file's bytes on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _share(parts: Mapping[Window, Part]) -> str:
    pixels = sum(area.height * area.width for area in parts)
    return f"{pixels / 1e6:.0f} Mpx done"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _lock(path: Path, target: Path) -> int:
    """An open, locked file; the lock goes with the process, however it ends."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        import fcntl  # noqa: PLC0415 - not on Windows, where there is no lock then
    except ImportError:
        return handle
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise InputError(f"another rsedge is writing {target} right now; wait for it, or stop it") from None
    return handle


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (InputError, OutputError):
        raise
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}") from error
