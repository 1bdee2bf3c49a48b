"""The log of a run: ``log.csv`` for curves and spreadsheets, ``tensorboard/`` for watching it live."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING

from rsedge.errors import InputError
from rsedge.files import whole_or_nothing, writing

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG_NAME, BOARD_NAME = "log.csv", "tensorboard"
LOSSES = ("loss", "ce", "dice", "aux", "inter", "intra")
COLUMNS = ("step", *LOSSES, "lr", "images_per_s", "wait_share", "val_miou", "val_oa")
"""Columns of the log. ``loss`` is the sum of the parts behind it; shares and scores are 0..1."""
HEADER = ",".join(COLUMNS)


class Logbook:
    """Appends to ``folder/log.csv`` and ``folder/tensorboard``; a context manager.

    A new log replaces what is there. With ``resume_at`` the rows up to that step stay, later ones (from
    a part of the run that is trained again) go. Each row is flushed, so a killed run loses at most a
    partial last line. Entering raises InputError when the log to go on with is none, OutputError when
    nothing can be written there.
    """

    def __init__(self, folder: Path, resume_at: int | None = None) -> None:
        self.folder, self.resume_at = folder, resume_at
        self._open = ExitStack()
        self._rows: IO[str] | None = None
        self._board: SummaryWriter | None = None

    @property
    def path(self) -> Path:
        """The CSV file."""
        return self.folder / LOG_NAME

    def __enter__(self) -> Logbook:
        purge = 0 if self.resume_at is None else self.resume_at + 1
        with writing(f"the log {self.path}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            kept = self._lines_to_keep()
            with whole_or_nothing(self.path) as partial:
                partial.write_text("".join(f"{line}\n" for line in (HEADER, *kept)), encoding="utf-8")
            with ExitStack() as stack:
                self._rows = stack.enter_context(self.path.open("a", encoding="utf-8", newline="\n"))
                self._board = stack.enter_context(_board(self.folder / BOARD_NAME, purge))
                self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rows = self._board = None
        self._open.close()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row, to six digits; a column without a value stays empty.

        Raises InputError for a column that the log does not have, OutputError when it cannot be written.
        """
        if self._rows is None or self._board is None:
            raise RuntimeError("the logbook is closed; use it inside `with Logbook(...) as book:`")
        if unknown := sorted(values.keys() - set(COLUMNS[1:])):
            raise InputError(f"the log has no column {unknown[0]!r}; choose from {', '.join(COLUMNS[1:])}")
        cells = [f"{values[name]:.6g}" if name in values else "" for name in COLUMNS[1:]]
        with writing(f"the log {self.path}"):
            self._rows.write(",".join((str(step), *cells)) + "\n")
            self._rows.flush()
            for name, value in values.items():
                self._board.add_scalar(_tag(name), value, step)

    def _lines_to_keep(self) -> list[str]:
        if self.resume_at is None or not self.path.exists():
            return []
        lines = _whole_lines(self.path)
        steps = [row["step"] for row in _parse(lines, self.path)]
        return [line for line, step in zip(lines[1:], steps, strict=True) if step <= self.resume_at]


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a log, also of one still being written; empty cells are left out.

    Raises InputError when there is none or it is damaged before its last line.
    """
    try:
        return _parse(_whole_lines(path), path)
    except FileNotFoundError:
        raise InputError(f"no log at {path}; a training writes it into its run folder") from None
    except OSError as error:
        raise InputError(f"the log {path} cannot be read: {error.strerror or error}") from error


def _whole_lines(path: Path) -> list[str]:
    """Lines that end with a newline; what a killed run left behind the last one is dropped."""
    return path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]


def _parse(lines: list[str], path: Path) -> list[dict[str, float]]:
    if lines and lines[0] != HEADER:
        raise InputError(
            f"{path} is no log of this version of rsedge (first line {lines[0][:60]!r}); move it away"
        )
    return [_parse_row(line, f"{path}, line {number}") for number, line in enumerate(lines[1:], 2)]


def _parse_row(line: str, place: str) -> dict[str, float]:
    try:
        row = {name: float(cell) for name, cell in zip(COLUMNS, line.split(","), strict=True) if cell}
    except ValueError as error:
        raise InputError(f"{place} is damaged ({error}); delete that line") from error
    if not math.isfinite(row.get("step", math.nan)):
        raise InputError(f"{place} has no step; delete that line")
    return row


def _tag(column: str) -> str:
    """TensorBoard groups by what stands before the slash."""
    if column in LOSSES:
        return "loss/total" if column == "loss" else f"loss/{column}"
    return f"val/{column.removeprefix('val_')}" if column.startswith("val_") else f"train/{column}"


def _board(folder: Path, purge: int) -> SummaryWriter:
    """A writer; TensorBoard hides what earlier writers logged at steps from ``purge`` on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its own dependencies, at import
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (a second's import)

    return SummaryWriter(str(folder), purge_step=purge)


class NoLog:
    """Stands for a log in processes that write none."""

    def __enter__(self) -> NoLog:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""
