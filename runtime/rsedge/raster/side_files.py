"""Checks of files beside a raster that GDAL opens unasked, such as overviews, masks and metadata."""

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
# With the NUL, because GDAL searches the bytes before it for markup, and finds a VRT after "EHFA".
TIFF_OR_HFA = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"EHFA_HEADER_TAG\0")
TELLING = (
    "_mtl.txt",
    "_metadata.txt",
    "summary.txt",
    "metadata.dim",
)  # metadata files of all rasters in a folder
OVERVIEW_FILE = "overview_file"  # a key in any case, whose value GDAL opens with any driver
SEPARATORS = ("", ".", "_", "-")  # what follows a raster's name in the name of a file beside it
MOST_SIDE_FILES, MOST_AUX_BYTES = 32, 16 << 20


@dataclass(frozen=True)
class _Folder:
    """The names in a folder when its first raster was checked."""

    names: dict[str, list[str]] = field(default_factory=dict)  # by their lower-case form
    odd: list[str] = field(default_factory=list)  # pipes, devices and links


class SideFiles:
    """Checks of the files beside rasters; each folder is listed once."""

    def __init__(self) -> None:
        self._folders: dict[str, _Folder] = {}

    def check(self, path: str, is_source: bool = False) -> None:
        """Raise InputError if a file beside the raster at ``path``, maybe a VRT's source, may not be opened.

        GDAL finds masks and overviews in any case, and opens them with any driver that accepts their content.
        """
        waiting, seen = [path], 0
        while waiting and seen < MOST_SIDE_FILES:
            beside = waiting.pop()
            for name in self._beside(beside, ".ovr", ".msk", ".aux"):
                seen += 1
                waiting.append(name)
                check_kind(name)
                if not head_of(name).startswith(TIFF_OR_HFA):
                    raise InputError(f"{name} beside the raster is neither TIFF nor HFA. Delete it")
            for name in self._beside(beside, ".aux.xml"):
                _check_aux(name)
        folder, stem = os.path.dirname(path), _stem(path)
        for other in self._listed(folder).odd:
            if not os.path.exists(place := os.path.join(folder, other)):
                continue  # a link to nothing
            if _is_beside(other.lower(), stem) or (
                _is_shared(other.lower(), stem) and (is_source or not self.must_hide(path))
            ):
                check_kind(place)

    def must_hide(self, path: str) -> bool:
        """Return True if GDAL must not see the files beside the raster, because a shared one is not a regular file.

        Only a raster without side files of its own can do without, so that one pipe does not stop a whole folder.
        """
        folder, stem = os.path.dirname(path), _stem(path)
        listed = self._listed(folder)
        if not any(_is_shared(name.lower(), stem) for name in listed.odd) or path.lower().endswith(".vrt"):
            return False
        name = os.path.basename(path).lower()
        return not any(other != name and _is_beside(other, stem) for other in listed.names)

    def _listed(self, folder: str) -> _Folder:
        if folder not in self._folders:
            found = self._folders[folder] = _Folder()
            # A folder that cannot be listed is skipped, because GDAL cannot list it either.
            with suppress(OSError), os.scandir(folder or ".") as entries:
                for entry in entries:
                    found.names.setdefault(entry.name.lower(), []).append(entry.name)
                    if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
                        found.odd.append(entry.name)
        return self._folders[folder]

    def _beside(self, path: str, *suffixes: str) -> Iterator[str]:
        """Yield files named ``path`` plus one of the suffixes, or with .aux in place of its suffix."""
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
    """Return True if a file belongs to the raster by its name: A_RPC.TXT to A.tif, DIM_1.XML to IMG_1.TIF."""
    stems = (stem, f"dim_{stem[4:]}", f"rpc_{stem[4:]}") if stem.startswith("img_") else (stem,)
    return any(name.startswith(s) and name[len(s) : len(s) + 1] in SEPARATORS for s in stems)


def _is_shared(name: str, stem: str) -> bool:
    """Return True if GDAL may ask the file about several rasters of a folder: DIM_1.XML about IMG_1_R1C1.TIF."""
    return name.endswith(TELLING) or (stem.startswith("img_") and name.startswith(("dim_", "rpc_")))


def check_kind(path: str) -> None:
    """Raise InputError unless ``path`` is, or links to, a regular file or a folder outside /proc, /sys and /dev."""
    try:
        facts, link = os.stat(path), os.lstat(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if not (stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode)):
        raise InputError(f"{path} is a device, a pipe or a socket. Give a file")
    if leads_to_system(path):
        raise InputError(f"{path} links to {os.path.realpath(path)}, which is not a raster. Remove the link")
    if is_strangers_link(link, facts):
        raise InputError(f"{path} is another user's link to a file of somebody else. Remove the link")


def leads_to_system(path: str) -> bool:
    """Return True if a path is, or links to, one of the kernel's files, some of which are endless."""
    real = real_path(path)
    return real.startswith(("/proc/", "/sys/", "/dev/")) and not real.startswith("/dev/shm/")


def _check_aux(path: str) -> None:
    """Raise InputError if a raster's .aux.xml is too large or names an overview file, in any case."""
    check_kind(path)
    if os.path.getsize(path) > MOST_AUX_BYTES:
        raise InputError(f"{path} has more than {MOST_AUX_BYTES >> 20} MiB. Delete it")
    with open(path, "rb") as file:
        text = file.read().decode("latin-1")
    if OVERVIEW_FILE in unescape(text).lower():
        raise InputError(f"{path} names another file for overviews. Delete it")


def head_of(path: str) -> bytes:
    """Return the first bytes of a file; b"" for a folder. Raises InputError if the file cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except IsADirectoryError:
        return b""
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def real_path(path: str) -> str:
    """Return the path without links; each folder is resolved once for all its files."""
    if os.path.islink(path):
        return os.path.realpath(path)
    folder, name = os.path.split(os.path.abspath(path))
    return f"{_real_folder(folder)}/{name}"


@lru_cache(maxsize=64)
def _real_folder(path: str) -> str:
    return os.path.realpath(path).rstrip("/")
