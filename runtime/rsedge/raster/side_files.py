"""Files beside a raster that GDAL opens by itself: which of them it may, and none that never ends."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from html import unescape

from rsedge.errors import InputError
from rsedge.files import is_strangers_link

HEAD_BYTES = 1024
# Up to their NUL: GDAL searches what comes before for markup, and finds a VRT behind "EHFA".
TIFF_OR_HFA = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"EHFA_HEADER_TAG\0")
TELLING = ("_mtl.txt", "summary.txt", "metadata.dim")  # files that tell of all rasters in a folder
OVERVIEW_FILE = "overview_file"  # a key in whatever case, whose value GDAL opens by whichever driver likes it
MOST_SIDE_FILES, MOST_AUX_BYTES = 32, 16 << 20


@dataclass(frozen=True)
class _Folder:
    """A folder as it was when the first raster in it was looked at."""

    names: dict[str, list[str]] = field(default_factory=dict)  # by themselves in small letters
    odd: list[str] = field(default_factory=list)  # pipes, devices and links


class SideFiles:
    """Looks at the files beside rasters; lists each folder once."""

    def __init__(self) -> None:
        self._folders: dict[str, _Folder] = {}

    def check(self, path: str, is_source: bool = False) -> None:
        """Raise InputError where a file beside the raster at ``path``, maybe a VRT's source, may not be opened.

        Masks and overviews are opened by whichever driver likes their content, and found whatever their case.
        """
        waiting, seen = [path], 0
        while waiting and seen < MOST_SIDE_FILES:
            beside = waiting.pop()
            for name in self._beside(beside, ".ovr", ".msk", ".aux"):
                seen += 1
                waiting.append(name)
                check_kind(name)
                if not head_of(name).startswith(TIFF_OR_HFA):
                    raise InputError(f"{name} beside the raster is neither a TIFF nor an HFA file; delete it")
            for name in self._beside(beside, ".aux.xml"):
                _check_aux(name)
        folder, stem = os.path.dirname(path), _stem(path)
        for other in self._listed(folder).odd:
            if _is_beside(other.lower(), stem) and os.path.exists(beside := os.path.join(folder, other)):
                check_kind(beside)
            elif other.lower().endswith(TELLING) and (is_source or not self.must_hide(path)):
                check_kind(os.path.join(folder, other))

    def must_hide(self, path: str) -> bool:
        """Return True if GDAL must be shown nothing beside the raster: what is there for all rasters never ends.

        Only a raster without files of its own can be opened so; then one pipe does not stop all rasters of a folder.
        """
        folder, stem = os.path.dirname(path), _stem(path)
        listed = self._listed(folder)
        if not any(name.lower().endswith(TELLING) for name in listed.odd) or path.lower().endswith(".vrt"):
            return False
        name = os.path.basename(path).lower()
        return not any(other != name and _is_beside(other, stem) for other in listed.names)

    def _listed(self, folder: str) -> _Folder:
        if folder not in self._folders:
            found = self._folders[folder] = _Folder()
            # A folder that may be entered only: GDAL cannot list it either.
            with suppress(OSError), os.scandir(folder or ".") as entries:
                for entry in entries:
                    found.names.setdefault(entry.name.lower(), []).append(entry.name)
                    if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
                        found.odd.append(entry.name)
        return self._folders[folder]

    def _beside(self, path: str, *suffixes: str) -> Iterator[str]:
        """The files named as ``path`` with one of the suffixes behind, or .aux in its suffix's place."""
        folder, name = os.path.split(path)
        stem = name.rpartition(".")[0]
        wanted = {name + suffix for suffix in suffixes} | ({f"{stem}.aux"} if ".aux" in suffixes else set())
        for one in wanted:
            listed = self._listed(folder).names.get(one.lower(), [])
            exact = [
                n
                for n in (one, f"{name}{one[len(name) :].upper()}")
                if os.path.lexists(os.path.join(folder, n))
            ]
            yield from (os.path.join(folder, n) for n in dict.fromkeys([*listed, *exact]) if n != name)


def _stem(path: str) -> str:
    name = os.path.basename(path).lower()
    return name.rpartition(".")[0] or name


def _is_beside(name: str, stem: str) -> bool:
    """Return True if a file is the raster's by its name: A_RPC.TXT is A.tif's, DIM_1.XML is IMG_1.TIF's."""
    return name.startswith(stem) or (
        stem.startswith("img_") and name.startswith((f"dim_{stem[4:]}", f"rpc_{stem[4:]}"))
    )


def check_kind(path: str) -> None:
    """Raise InputError where ``path`` is, or leads to, anything but a file or a folder that is not the system's."""
    try:
        facts, link = os.stat(path), os.lstat(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if not (stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode)):
        raise InputError(f"{path} is a device, a pipe or a socket; give a file")
    if leads_to_system(path):
        raise InputError(f"{path} leads to {os.path.realpath(path)}, which is no raster; remove the link")
    if is_strangers_link(link, facts):
        raise InputError(f"{path} is a link that another user made to a file not theirs; remove the link")


def leads_to_system(path: str) -> bool:
    """Whether a path is, or leads to, one of the kernel's files: some of them never end."""
    real = real_path(path)
    return real.startswith(("/proc/", "/sys/", "/dev/")) and not real.startswith("/dev/shm/")


def _check_aux(path: str) -> None:
    """Raise InputError where a raster's .aux.xml names another file, in whichever letters."""
    check_kind(path)
    if os.path.getsize(path) > MOST_AUX_BYTES:
        raise InputError(f"{path} has more than {MOST_AUX_BYTES >> 20} MiB; delete it")
    with open(path, "rb") as file:
        text = file.read().decode("latin-1")
    if OVERVIEW_FILE in unescape(text).lower():
        raise InputError(f"{path} names another file for overviews; delete it")


def head_of(path: str) -> bytes:
    """The first bytes of a file; none of a folder. Raises InputError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except IsADirectoryError:
        return b""
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def real_path(path: str) -> str:
    """The path without links; that of a folder is asked once for all that is in it."""
    if os.path.islink(path):
        return os.path.realpath(path)
    folder, name = os.path.split(os.path.abspath(path))
    return f"{_real_folder(folder)}/{name}"


@lru_cache(maxsize=64)
def _real_folder(path: str) -> str:
    return os.path.realpath(path).rstrip("/")
