"""What several commands share: printing, progress, what is taken from the current folder."""

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

from rsedge.errors import BackendError, InputError
from rsedge.files import is_trusted
from rsedge.text import block, printable

OWN_MODEL = Path("student.rsedge")  # what `rsedge export` writes, in the current folder


def model_or_default(path: str | None, quiet: bool = False, how: str = "--model") -> str | None:
    """``path``, else ``./student.rsedge`` where there is one (and says so), else None: the default model.

    ``how``: what the command calls the model.

    A damaged or half-copied student.rsedge is taken too: opening it fails, which beats another model's mask.
    """
    if path is not None or not OWN_MODEL.exists():
        return path
    own_default(OWN_MODEL, how)
    note(f"model {OWN_MODEL} (in this folder); choose another with {how}", quiet)
    return str(OWN_MODEL)


def own_default(path: Path, how: str) -> Path:
    """What a command takes from the current folder unasked, if it is there: the user's own only.

    ``how``: what takes another's. Raises InputError where somebody else could have put it there.
    """
    if path.exists() and not is_trusted(path):
        raise InputError(
            f"{path} (in this folder) is another user's or can be written by others, and is not taken unasked; name "
            f"it with {how}"
        )
    return path


def make_out_dir(folder: Path) -> None:
    """Make the folder of --out-dir where it is not there. Raises InputError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out-dir {folder} cannot be a folder: {error.strerror}") from error


def note(text: str, quiet: bool) -> None:
    """Tell what the user should know, on standard error; not where only errors are wanted."""
    if not quiet:
        for line in block(f"note: {text}"):
            complain(line)


def complain(text: str) -> None:
    """Print a line on standard error, whatever is in it. Nobody who reads it is no failure."""
    with suppress(BrokenPipeError):
        print(_encodable(printable(text), sys.stderr), file=sys.stderr, flush=True)


def counted(number: int, what: str) -> str:
    """``1 block``, ``2 blocks``."""
    return f"{number} {what}{'s' * (number != 1)}"


def say_json(facts: Any) -> None:
    """Print one JSON object. Numbers that JSON has not, NaN and infinity, become null."""
    _print(
        json.dumps(_plain(facts), allow_nan=False).replace("\x7f", "\\u007f")
    )  # the rest is escaped by JSON


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def say(text: str) -> None:
    """Print a line of the result, whatever is in it."""
    _print(_encodable(printable(text), sys.stdout))


def say_lines(text: str) -> None:
    """Print several lines, as `say` does each."""
    for line in text.split("\n"):
        say(line)


def _encodable(text: str, stream: TextIO) -> str:
    """The text with what a stream's encoding lacks escaped: no result is lost for a letter."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text if text.isascii() else text.encode(encoding, "backslashreplace").decode(encoding)


def _print(text: str) -> None:
    """Print a line. A reader that has gone (``| head -1``) is no failure: the result stands."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turns a missing package into the pip command that installs it."""
    try:
        yield
    except ImportError as error:
        raise BackendError(
            f'this command needs {error.name}, which is not installed; run `pip install "rsedge[{extra}]"`'
        ) from error


@contextmanager
def progress_bar(
    what: str, quiet: bool, pixels_each: float | None = None
) -> Iterator[Callable[[int, int], None] | None]:
    """A bar with an ETA on standard error; None where nobody watches. ``pixels_each``: also shows Mpx/s."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    # The name of a file is neither a format nor markup.
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
