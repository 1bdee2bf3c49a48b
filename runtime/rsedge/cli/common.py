"""What several commands share: option values, progress, printing."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import typer

from rsedge.errors import BackendError, InputError
from rsedge.files import is_trusted
from rsedge.text import block, printable

OWN_MODEL = Path("student.rsedge")  # what `rsedge export` writes, in the current folder

INTERRUPTED = 130  # the shell's code for a process ended by Ctrl-C
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C; systemd and docker; a lost terminal
PATIENCE_S = 1.5  # from a stop to the end, where a run can go on from the disk


class Interrupted(BaseException):
    """Ctrl-C or a request to end. Not KeyboardInterrupt, which typer turns into a silent exit."""


def _nothing_half_done() -> str:
    return "interrupted; a result appears under its name only when it is whole"


interrupted: Callable[[], str] = _nothing_half_done  # what is said after Ctrl-C
_waits, _pending = False, False


def stop(*_: object) -> None:
    """The handler of signals that stop a command."""
    global _pending  # noqa: PLW0603 - a handler has no other memory
    _pending = True
    if not _waits:
        ignore_stops()  # a second Ctrl-C must not cut the tidying up
        raise Interrupted


def ignore_stops() -> None:
    """Too late to stop, or stopping already."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def stops_wait() -> Iterator[None]:
    """Stop after the block, not in it: libraries that are being loaded make other errors of an interruption."""
    global _waits, _pending  # noqa: PLW0603 - as above
    _waits, _pending = True, False
    try:
        yield
    finally:
        _waits = False
        if _pending:
            stop()


# Headings of --help, for options that several commands share.
READING, TILES, MACHINE, PRINTING = (
    "How the raster is read",
    "How tiles are put together",
    "Where the model runs",
    "What is printed",
)

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Bundle folder or rsedge .onnx.",
        show_default="./student.rsedge where there is one, else the default model",
        metavar="PATH",
    ),
]
Overlap = Annotated[
    float, typer.Option(help="Least share of a tile common to neighbours, 0 to 0.75.", rich_help_panel=TILES)
]
Seam = Annotated[
    str,
    typer.Option(
        help="blend: smooth weights; crop: keep tile centres.", metavar="blend|crop", rich_help_panel=TILES
    ),
]
Bands = Annotated[
    str | None,
    typer.Option(
        help="1-based bands that feed the model, e.g. 4,3,2.",
        metavar="I,J,K",
        show_default="by colour",
        rich_help_panel=READING,
    ),
]
Scale = Annotated[
    str | None,
    typer.Option(
        help="Raster values mapped to the model's range; needed where rasters are not uint8.",
        metavar="LOW,HIGH",
        rich_help_panel=READING,
    ),
]
Nodata = Annotated[
    str | None,
    typer.Option(
        help="Stored value that is no data, or one a band.",
        metavar="VALUE[,...]",
        show_default="as in the file",
        rich_help_panel=READING,
    ),
]
Alpha = Annotated[
    str | None,
    typer.Option(
        help="Band that is 0 where there is no data.",
        metavar="BAND|none",
        show_default="as tagged in the file",
        rich_help_panel=READING,
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace also a raster that rsedge did not write.")
]
Device = Annotated[
    str,
    typer.Option(
        help="Where the model runs.",
        metavar="auto|cpu|cuda|openvino|tensorrt|ort-tensorrt",
        rich_help_panel=MACHINE,
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="Which of the bundle's artifacts.",
        show_default="fp32; of a TensorRT engine, its own",
        metavar="fp32|fp16|int8",
        rich_help_panel=MACHINE,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(help="CPU threads of the model.", show_default="all cores", rich_help_panel=MACHINE),
]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing-classes", help="Go on where labels lack a class of the table.")
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print the result as one JSON object on the last line.", rich_help_panel=PRINTING
    ),
]
SETTINGS_NOTES = "rsedge.settings"  # key of the context's notes on rsedge.toml, told once --quiet is known


def tell_settings(context: typer.Context, quiet: bool) -> bool:
    """Say what ``rsedge.toml`` has set, once it is known whether the user (not that file) wants errors only."""
    source = context.get_parameter_source("quiet")
    by_user = quiet and source is not None and source.name == "COMMANDLINE"
    for text in context.meta.pop(SETTINGS_NOTES, ()):
        note(text, by_user)
    return quiet


Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="Print errors only.",
        callback=tell_settings,
        is_eager=True,
        rich_help_panel=PRINTING,
    ),
]


def parse_bands(text: str | None) -> tuple[int, ...] | None:
    """``"4,3,2"`` to (4, 3, 2)."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--bands {text!r} is not a list of band numbers such as 4,3,2") from None


def parse_nodata(text: str | None) -> tuple[float, ...] | None:
    """``"0"`` to (0.0,), ``"255,255,0"`` to (255.0, 255.0, 0.0)."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"--nodata {text!r} is not a number, or one a band, such as 0 or 255,255,255"
        ) from None


def parse_alpha(text: str | None) -> int | Literal["none"] | None:
    """``"4"`` to 4; ``"none"`` as it is."""
    if text is None:
        return None
    if text == "none":
        return "none"
    if not text.isdecimal() or not int(text):
        raise InputError(f"--alpha {text!r} is neither the number of a band, such as 4, nor none")
    return int(text)


def parse_scale(text: str | None) -> tuple[float, float] | None:
    """``"0,3000"`` to (0.0, 3000.0)."""
    if text is None:
        return None
    if text == "auto":
        raise InputError(
            "--scale auto is for `rsedge infer`, which looks at all its rasters and prints what it found; give these "
            "two numbers, LOW,HIGH"
        )
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--scale {text!r} is not LOW,HIGH such as 0,3000") from None
    return low, high


def parse_bytes(text: str | None) -> int | None:
    """``"800M"`` or ``"1.5G"`` to bytes; units of 1024."""
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG])(?:i?B)?\s*", text, re.IGNORECASE)
    if not found or not float(found[1]):
        raise InputError(f"--max-ram {text!r} is not a size such as 800M or 1.5G")
    return round(float(found[1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[found[2].upper()])


def parse_number(text: str, option: str) -> float:
    """``"20G"`` or ``"1e9"`` to a number; units of 1000."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e\d{1,2})?)\s*([KMG]?)\s*", text, re.IGNORECASE)
    if not found or not float(found[1]):
        raise InputError(f"{option} {text!r} is not a number such as 500M or 20G")
    return float(found[1]) * {"": 1, "K": 1e3, "M": 1e6, "G": 1e9}[found[2].upper()]


@contextmanager
def stopping_says(text: Callable[[], str]) -> Iterator[None]:
    """While the block lasts, Ctrl-C says ``text()``, and within two seconds, since what is finished is on disk."""
    global interrupted  # noqa: PLW0603 - the handler of signals has no other way to know
    before, interrupted = interrupted, text
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    # Python calls a signal's handler only when a library's long call is over; this is written to at once.
    old = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(told,), name="rsedge-stop", daemon=True).start()
    stopped = False
    try:
        yield
    except BaseException as error:
        stopped = not isinstance(error, Exception)
        raise
    finally:
        if not stopped:  # else until all is unwound, or time is up
            signal.set_wakeup_fd(old)
            os.close(tell)
            interrupted = before


def _end_in_time(told: int) -> None:
    """End the process some time after a signal that stops it; return when nobody tells any more."""
    while number := os.read(told, 1):
        if number[0] in STOPS:
            time.sleep(PATIENCE_S)
            complain(interrupted())
            os._exit(INTERRUPTED)
    os.close(told)


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
