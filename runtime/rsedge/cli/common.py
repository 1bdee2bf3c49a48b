"""Shared parts of the commands: printing, progress, defaults from the current folder."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from rsedge.errors import BackendError, InputError, RsedgeError
from rsedge.files import is_trusted
from rsedge.text import block, printable

OWN_MODEL = Path("student.rsedge")  # `rsedge export` writes it into the current folder


def model_or_default(path: str | None, quiet: bool = False, how: str = "--model") -> str | None:
    """Return ``path``, else ``./student.rsedge`` if it exists (with a note), else None: the default model.

    ``how``: how the command names a model, for the note.

    A damaged or half-copied student.rsedge is chosen too, because failing to open it beats another model's mask.
    """
    if path is not None or not OWN_MODEL.exists():
        return path
    own_default(OWN_MODEL, how)
    note(f"model {OWN_MODEL} (in this folder); choose another with {how}", quiet)
    return str(OWN_MODEL)


def own_default(path: Path, how: str) -> Path:
    """Return ``path``, a default from the current folder, if nobody but the user could have put it there.

    ``how``: the option that names a file explicitly. Raises InputError if others own ``path`` or can write it.
    """
    if path.exists() and not is_trusted(path):
        raise InputError(
            f"{path} (in this folder) belongs to another user or can be written by others. Name it with {how} to "
            "use it all the same."
        )
    return path


def make_out_dir(folder: Path) -> None:
    """Make the folder of --out-dir if it is missing. Raises InputError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out-dir {folder} cannot be made: {error.strerror}") from error


def note(text: str, quiet: bool) -> None:
    """Print a note on standard error unless ``quiet``."""
    if not quiet:
        for line in block(f"note: {text}"):
            complain(line)


def complain(text: str) -> None:
    """Print a line on standard error, with unprintable characters escaped; a closed pipe is ignored."""
    with suppress(BrokenPipeError):
        print(_encodable(printable(text), sys.stderr), file=sys.stderr, flush=True)


def complain_of(error: RsedgeError, begin: str = "error: ") -> None:
    """Print an error, and the lines it lists below it, indented, so that none looks like a new message."""
    complain(f"{begin}{error.message}")
    for line in error.below:
        complain(f"    {line}")


def counted(number: int, what: str) -> str:
    """Return the number with its noun: ``1 block``, ``2 blocks``."""
    return f"{number} {what}{'s' * (number != 1)}"


def say_json(facts: Any) -> None:
    """Print one JSON object; NaN and infinity, which JSON lacks, become null."""
    _print(
        json.dumps(_plain(facts), allow_nan=False).replace("\x7f", "\\u007f")
    )  # JSON escapes the other control characters


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def say(text: str) -> None:
    """Print a line of the result, with unprintable characters escaped."""
    _print(_encodable(printable(text), sys.stdout))


def say_lines(text: str) -> None:
    """Print several lines as `say` does."""
    for line in text.split("\n"):
        say(line)


def _encodable(text: str, stream: TextIO) -> str:
    """Escape what the stream's encoding lacks, so that no result is lost because of one letter."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text if text.isascii() else text.encode(encoding, "backslashreplace").decode(encoding)


def _print(text: str) -> None:
    """Print a line; a reader that closed the pipe (``| head -1``) is not a failure, because the result stands."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn a missing package into a BackendError with the pip command that installs it."""
    try:
        yield
    except ImportError as error:
        raise BackendError(
            f'this command needs {error.name}, which is not installed. Run `pip install "rsedge[{extra}]"`.'
        ) from error


@contextmanager
def progress_bar(
    what: str, quiet: bool, pixels_each: float | None = None
) -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar with an ETA on standard error, or None off a terminal; ``pixels_each`` adds Mpx/s."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    # Without markup, because a file name may contain brackets.
    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    ]
    if pixels_each:
        columns.append(TextColumn("{task.fields[rate]}"))
    begin = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(printable(what), total=None, rate="")

        def report(done: int, total: int) -> None:
            rate = done * (pixels_each or 0) / 1e6 / max(time.monotonic() - begin, 1e-3)
            progress.update(task, completed=done, total=total, rate=f"{rate:.1f} Mpx/s")

        yield report
