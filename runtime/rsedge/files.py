"""Files that appear under their name only when whole, and what writing to the disk needs besides."""

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

from rsedge.errors import OutputError

NO_LINK = getattr(os, "O_NOFOLLOW", 0)
MOST_STEM = 200  # bytes of a name that is part of another; file systems take 255
RANDOM = 8  # characters that tempfile adds


def user_cache() -> Path:
    """The folder for what rsedge keeps for this user and can make again: ``~/.cache/rsedge``.

    Elsewhere with XDG_CACHE_HOME, which counts where it is absolute; a user without a home has `temporary_cache`.
    """
    wanted = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (wanted if wanted.is_absolute() else Path.home() / ".cache") / "rsedge"
    except RuntimeError:
        return temporary_cache()


def temporary_cache() -> Path:
    """A folder of this user's that lasts until the machine restarts."""
    return Path(tempfile.gettempdir()) / f"rsedge-{os.getuid() if hasattr(os, 'getuid') else 'user'}"


@contextmanager
def whole_or_nothing(path: Path) -> Iterator[Path]:
    """Write to the path this gives; it takes the name ``path`` when the block ends well, else it is removed.

    It is on the disk before it takes its name, so a power cut leaves the old file or the new one.
    """
    with private_folder(path) as folder:
        partial = folder / path.name
        yield partial
        sync(partial)
        partial.replace(path)


@contextmanager
def private_folder(path: Path) -> Iterator[Path]:
    """A new folder beside ``path`` for what will become it, which goes away with the block. Raises OSError.

    Nobody else can write there or know its name beforehand, so nothing is written through somebody's link. What a
    killed process left of its own goes away, too.
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
    """Remove folders of that pattern which no process holds any more."""
    with suppress(OSError):
        names = [n for n in os.listdir(parent) if n.startswith(begin) and n.endswith(end)]
        for left in (parent / name for name in names if len(name) == len(begin) + RANDOM + len(end)):
            facts = left.lstat()
            if stat.S_ISDIR(facts.st_mode) and is_ours(facts):
                with suppress(OSError), _locked(left, only_where_known=True):
                    shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _locked(folder: Path, only_where_known: bool = False) -> Iterator[None]:
    """Hold a folder, so that others see that its process lives. Raises BlockingIOError where another does.

    Where nothing can be locked (Windows, some network mounts) the block runs all the same, unless it must be known.
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
    """Lock an open file or folder until it is closed, or the process ends. False: another process has it.

    None where nothing can be locked: on Windows, on some network mounts.
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
    """Whether nobody but this user (and root) can have written what has these facts."""
    if not hasattr(os, "getuid"):
        return True
    others = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if others == stat.S_IWGRP and _is_own_group(facts.st_gid):
        others = 0  # the umask 002 of systems where each user has a group of their own
    return facts.st_uid == os.getuid() and not others


def _is_own_group(gid: int) -> bool:
    """Whether a group is this user's alone."""
    import grp  # noqa: PLC0415 - wanted seldom, and not on Windows
    import pwd  # noqa: PLC0415

    try:
        user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return gid == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def is_ours_here(facts: os.stat_result, folder: Path) -> bool:
    """As `is_ours`, also where a file system knows no owners or modes: USB sticks, SMB, NFS with squashed users.

    What is made in ``folder`` now shows what such a system says of this user's files.
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
    others = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return facts.st_uid == made.st_uid and not others & ~made.st_mode


def is_strangers_link(link: os.stat_result, facts: os.stat_result) -> bool:
    """Whether a link, by its own ``link`` facts, was made by another user to what is not theirs.

    Whoever may not read a file could have it read by us.
    """
    own = {0, facts.st_uid, *([os.getuid()] if hasattr(os, "getuid") else [])}
    return stat.S_ISLNK(link.st_mode) and link.st_uid not in own


def is_trusted(path: Path, handle: int | None = None) -> bool:
    """Whether a file or folder, and a link to it, is this user's or root's, and nobody else may write it.

    ``handle``: of the file as it was opened, whatever has its name by now.
    """
    facts, link = path.stat() if handle is None else os.fstat(handle), path.lstat()
    if is_strangers_link(link, facts):
        return False
    roots = facts.st_uid == 0 and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return roots or is_ours_here(facts, path.parent)


def check_own_folder(folder: Path) -> None:
    """Raise PermissionError where somebody else could have put something into a folder, or it is a link."""
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or not is_ours_here(facts, folder):
        raise PermissionError(
            f"{folder} is another user's or can be written by others; remove it, or `chmod go-w` it"
        )


def open_own(path: Path, flags: int) -> int:
    """Open a file that is this user's alone, no link and nothing else, made with ``os.O_CREAT``; its descriptor.

    Raises PermissionError where it is another's, OSError where it cannot be opened.
    """
    try:
        handle = os.open(path, flags | NO_LINK | getattr(os, "O_NONBLOCK", 0), 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise PermissionError(f"{path} is a link; remove it") from None
        raise
    facts = os.fstat(handle)
    if stat.S_ISREG(facts.st_mode) and facts.st_nlink <= 1 and is_ours_here(facts, path.parent):
        return handle
    os.close(handle)
    raise PermissionError(f"{path} is no file of this user's alone; remove it, or `chmod go-w` it")


def sync(path: Path) -> None:
    """Put a file's bytes on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def write_all(handle: int, text: str) -> None:
    """Write to an open file, however much of it the system takes at once."""
    data = text.encode()
    while data:
        data = data[os.write(handle, data) :]


@contextmanager
def writing(what: object, remedy: str = "") -> Iterator[None]:
    """Raise OutputError where the system fails in the block: ``what`` cannot be written, why, and the ``remedy``."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{what} cannot be written: {error.strerror or error}{remedy}") from error


def with_crc(line: str) -> str:
    """A line of a journal, its CRC-32 in front, so that what has changed on the disk is told from what was written."""
    return f"{zlib.crc32(line.encode()):08x} {line}"


def without_crc(line: str) -> str:
    """The line of `with_crc`. Raises ValueError where it is not what was written."""
    crc, _, text = line.partition(" ")
    if crc != f"{zlib.crc32(text.encode()):08x}":
        raise ValueError("the line is damaged")
    return text


def describe(path: Path) -> tuple[int, int]:
    """A file's size in bytes and its CRC-32. Raises OSError."""
    crc, size = 0, 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc, size = zlib.crc32(block, crc), size + len(block)
    return size, crc


def sync_folder(folder: Path) -> None:
    """Put the names of a folder's files on the disk, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # Windows opens no folders
    try:
        with suppress(OSError):  # nor does every network's file system sync them
            os.fsync(handle)
    finally:
        os.close(handle)
