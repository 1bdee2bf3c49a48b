"""Files that appear under their names only when complete, and helpers for writing to disk."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rsedge.errors import InputError, OutputError

OTHERS = stat.S_IWGRP | stat.S_IWOTH  # modes by which others may write
NO_LINK = getattr(os, "O_NOFOLLOW", 0)
MOST_STEM = 200  # bytes of a file name used in a longer name; file systems take 255
RANDOM = 8  # characters that tempfile adds


def user_cache() -> Path:
    """Return rsedge's cache folder for this user, ``~/.cache/rsedge``.

    An absolute XDG_CACHE_HOME replaces ``~/.cache``; a user without a home folder gets `temporary_cache`.
    """
    wanted = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (wanted if wanted.is_absolute() else Path.home() / ".cache") / "rsedge"
    except RuntimeError:
        return temporary_cache()


def temporary_cache() -> Path:
    """Return a cache folder for this user that lasts until the machine restarts."""
    return Path(tempfile.gettempdir()) / f"rsedge-{os.getuid() if hasattr(os, 'getuid') else 'user'}"


@contextmanager
def whole_or_nothing(path: Path) -> Iterator[Path]:
    """Yield a path to write to, which is renamed to ``path`` if the block ends without error, else removed.

    The file is synced to disk before the renaming, so a power cut leaves the old file or the new one.
    """
    with private_folder(path) as folder:
        partial = folder / path.name
        yield partial
        sync(partial)
        partial.replace(path)


@contextmanager
def private_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside ``path`` for a partial file, deleted when the block ends. Raises OSError.

    Other users can neither write to the folder nor guess its name, so no write follows their links. Folders that
    killed processes left are deleted, too.
    """
    stem = os.fsencode(path.name)[:MOST_STEM].decode(errors="ignore")
    begin, end = f".{stem}.", ".part"
    _sweep(path.parent, begin, end)
    folder = Path(tempfile.mkdtemp(end, begin, path.parent))
    try:
        with _locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(parent: Path, begin: str, end: str) -> None:
    """Remove folders named ``begin`` ... ``end`` that no process holds any more."""
    with suppress(OSError):
        names = [n for n in os.listdir(parent) if n.startswith(begin) and n.endswith(end)]
        for left in (parent / name for name in names if len(name) == len(begin) + RANDOM + len(end)):
            facts = left.lstat()
            if stat.S_ISDIR(facts.st_mode) and is_ours(facts):
                with suppress(OSError), _locked(left, only_where_known=True):
                    shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _locked(folder: Path, only_where_known: bool = False) -> Iterator[None]:
    """Lock a folder to show that its process is alive. Raises BlockingIOError if another process holds the lock.

    If locks are unavailable (Windows, some network mounts) the block runs anyway, unless ``only_where_known``.
    """
    handle = None
    try:
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY | NO_LINK)
        held = handle is not None and lock(handle)
        if only_where_known and not held:
            raise BlockingIOError
        yield
    finally:
        if handle is not None:
            os.close(handle)


def lock(handle: int) -> bool | None:
    """Lock an open file or folder until it is closed; return False if another process holds the lock.

    None means that nothing can be locked: on Windows, on some network mounts.
    """
    try:
        import fcntl  # noqa: PLC0415 - not on Windows

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def is_ours(facts: os.stat_result) -> bool:
    """Return True if only this user (and root) can have written the file with these ``facts``."""
    if not hasattr(os, "getuid"):
        return True
    others = facts.st_mode & OTHERS
    if others == stat.S_IWGRP and _is_own_group(facts.st_gid):
        others = 0  # umask 002 is usual on systems that give each user a group
    return facts.st_uid == os.getuid() and not others


def _is_own_group(gid: int) -> bool:
    """Return True if a group has no member but this user."""
    import grp  # noqa: PLC0415 - rarely needed, and missing on Windows
    import pwd  # noqa: PLC0415

    try:
        user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return gid == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def is_ours_here(facts: os.stat_result, folder: Path) -> bool:
    """Return `is_ours`, also on file systems without owners or modes: USB sticks, SMB, NFS with squashed users.

    A probe file in ``folder`` shows the owner and mode that such a system reports for this user's files.
    """
    if is_ours(facts):
        return True
    try:
        handle, probe = tempfile.mkstemp(prefix=".rsedge-", dir=folder)
    except OSError:
        return False
    try:
        made = os.fstat(handle)
    finally:
        os.close(handle)
        os.unlink(probe)
    others = facts.st_mode & OTHERS
    return facts.st_uid == made.st_uid and not others & ~made.st_mode


def is_strangers_link(link: os.stat_result, facts: os.stat_result) -> bool:
    """Return True if another user made a link, with ``link`` its own facts, to a file that is not theirs.

    A user could otherwise have rsedge read a file that this user may not read.
    """
    own = {0, facts.st_uid, *([os.getuid()] if hasattr(os, "getuid") else [])}
    return stat.S_ISLNK(link.st_mode) and link.st_uid not in own


def is_trusted(path: Path, handle: int | None = None) -> bool:
    """Return True if a file or folder, and a link to it, belongs to this user or root and no one else may write it.

    ``handle``: descriptor of the opened file, checked instead of the file that now has its name.
    """
    facts, link = path.stat() if handle is None else os.fstat(handle), path.lstat()
    if is_strangers_link(link, facts):
        return False
    roots = facts.st_uid == 0 and not facts.st_mode & OTHERS
    return roots or is_ours_here(facts, path.parent)


def check_own_folder(folder: Path) -> None:
    """Raise PermissionError if another user could have put files into a folder, or the folder is a link."""
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or not is_ours_here(facts, folder):
        raise PermissionError(
            f"{folder} belongs to another user or is writable by others. Remove it, or run `chmod go-w` on it"
        )


def real_folder(folder: Path) -> Path:
    """Return the folder with links resolved in all but its own name, which must not be a link."""
    return Path(os.path.realpath(folder.parent)) / folder.name


def check_private(folder: Path) -> None:
    """Raise PermissionError if another user could put files into the folder, whose code will be run.

    Parents may also belong to root; one that all may write must be sticky (/tmp), so that none renames others' files.
    """
    check_owner(folder.lstat(), folder)
    for parent in folder.parents:
        facts = parent.lstat()
        held = (facts.st_uid == 0 and not facts.st_mode & OTHERS) or is_ours(facts)
        if not held and not (facts.st_uid in {0, folder.lstat().st_uid} and facts.st_mode & stat.S_ISVTX):
            raise PermissionError(f"{parent} is writable by others")


def check_owner(facts: os.stat_result, path: Path) -> None:
    """Raise PermissionError if another user can write the file or folder with these ``facts``, or it is a link."""
    if not is_ours(facts) or facts.st_mode & OTHERS or stat.S_ISLNK(facts.st_mode):
        raise PermissionError(f"{path} is writable by others")


def open_own(path: Path, flags: int) -> int:
    """Open a regular file, no link, that only this user may write; return its descriptor. `os.O_CREAT` creates it.

    Raises PermissionError if others may write the file or it is a link, OSError if it cannot be opened.
    """
    try:
        handle = os.open(path, flags | NO_LINK | getattr(os, "O_NONBLOCK", 0), 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise PermissionError(f"{path} is a link. Remove it") from None
        raise
    facts = os.fstat(handle)
    if stat.S_ISREG(facts.st_mode) and facts.st_nlink <= 1 and is_ours_here(facts, path.parent):
        return handle
    os.close(handle)
    raise PermissionError(f"{path} is not a file of this user only. Remove it, or run `chmod go-w` on it")


def check_utf8(path: Path | str) -> None:
    """Raise InputError if a name is not UTF-8, which GDAL cannot open or create."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{path}: the name is not UTF-8, which GDAL requires. Use another name") from None


def sync(path: Path) -> None:
    """Sync a file's bytes to disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def write_all(handle: int, text: str) -> None:
    """Write all of ``text`` to an open file, in as many writes as the system needs."""
    data = text.encode()
    while data:
        data = data[os.write(handle, data) :]


@contextmanager
def writing(what: object, remedy: str = "") -> Iterator[None]:
    """Raise OutputError if the block raises OSError: ``what`` cannot be written, why, and the ``remedy``."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{what} cannot be written: {error.strerror or error}{remedy}") from error


def with_crc(line: str) -> str:
    """Return a journal line preceded by its CRC-32, by which `without_crc` detects damage."""
    return f"{zlib.crc32(line.encode()):08x} {line}"


def without_crc(line: str) -> str:
    """Return the line of `with_crc`. Raises ValueError if the line is damaged."""
    crc, _, text = line.partition(" ")
    if crc != f"{zlib.crc32(text.encode()):08x}":
        raise ValueError("the line is damaged")
    return text


def describe(path: Path, begin: int = 0) -> tuple[int, int]:
    """Return the number and the CRC-32 of a file's bytes from ``begin`` on. Raises OSError."""
    crc, size = 0, 0
    with path.open("rb") as file:
        file.seek(begin)
        while block := file.read(1 << 20):
            crc, size = zlib.crc32(block, crc), size + len(block)
    return size, crc


def sync_folder(folder: Path) -> None:
    """Sync the names of a folder's files to disk, if the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # Windows cannot open folders
    try:
        with suppress(OSError):  # some network file systems cannot sync folders
            os.fsync(handle)
    finally:
        os.close(handle)
