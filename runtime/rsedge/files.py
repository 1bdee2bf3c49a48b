"""Files that appear under their name only when whole, and what writing to the disk needs besides."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rsedge.errors import OutputError


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
    partial = path.with_name(f".{path.name}.part")
    try:
        yield partial
        sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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
def disk_errors(folder: Path) -> Iterator[None]:
    """Raise OutputError where the system fails in the block."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}") from error
