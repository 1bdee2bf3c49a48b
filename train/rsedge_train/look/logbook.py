"""Log of a run: ``log.csv`` for curves and spreadsheets, ``tensorboard/`` for watching live."""

from __future__ import annotations

import csv
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
LOSSES = ("loss", "ce", "dice", "aux", "inter", "intra", "unlabelled", "kl")
COLUMNS = ("step", *LOSSES, "confidence", "changed", "lr", "images_per_s", "wait_share", "val_miou", "val_oa")
"""Columns of the log. ``loss`` is the sum of the parts after it, some with a weight; shares and scores are 0..1."""
HEADER = ",".join(COLUMNS)


class Logbook:
    """Writer of ``folder/log.csv`` and ``folder/tensorboard``; a context manager.

    A new log replaces an old one. With ``resume_at``, rows up to that step are kept and later ones, which
    are trained again, are removed. Each row is flushed, so a killed run loses at most a
    partial last line. Entering raises InputError if the log to resume is invalid, OutputError if
    the folder cannot be written.
    """

    def __init__(self, folder: Path, resume_at: int | None = None) -> None:
        self.folder, self.resume_at = folder, resume_at
        self._open = ExitStack()
        self._rows: IO[str] | None = None
        self._board: SummaryWriter | None = None

    @property
    def path(self) -> Path:
        """Return the path of the CSV file."""
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

        Raises InputError for an unknown column, OutputError if the log cannot be written.
        """
        if self._rows is None or self._board is None:
            raise RuntimeError("the logbook is closed. Use it inside `with Logbook(...) as book:`")
        if unknown := sorted(values.keys() - set(COLUMNS[1:])):
            raise InputError(f"unknown log column {unknown[0]!r}. Choose from {', '.join(COLUMNS[1:])}")
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
        rows = csv.DictReader(lines)  # an older log may lack columns
        return [
            ",".join(row.get(name, "") for name in COLUMNS)
            for row, step in zip(rows, steps, strict=True)
            if step <= self.resume_at
        ]


def read_log(path: Path) -> list[dict[str, float]]:
    """Read the rows of a log, even of one still being written; empty cells are left out.

    Raises InputError if the log is not found or is damaged before its last line.
    """
    try:
        return _parse(_whole_lines(path), path)
    except FileNotFoundError:
        raise InputError(f"{path} not found. A training writes the log into its run folder") from None
    except OSError as error:
        raise InputError(f"the log {path} cannot be read: {error.strerror or error}") from error


def _whole_lines(path: Path) -> list[str]:
    """Return the lines that end with a newline, dropping a partial one that a killed run left."""
    return path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]


def _parse(lines: list[str], path: Path) -> list[dict[str, float]]:
    names = lines[0].split(",") if lines else []
    if names != [name for name in COLUMNS if name in names]:
        raise InputError(
            f"{path} is not a log of this version of rsedge (first line {lines[0][:60]!r}). Move it away"
        )
    return [_parse_row(names, line, f"{path}, line {number}") for number, line in enumerate(lines[1:], 2)]


def _parse_row(names: list[str], line: str, place: str) -> dict[str, float]:
    try:
        row = {name: float(cell) for name, cell in zip(names, line.split(","), strict=True) if cell}
    except ValueError as error:
        raise InputError(f"{place} is damaged ({error}). Delete that line") from error
    if not math.isfinite(row.get("step", math.nan)):
        raise InputError(f"{place} has no step. Delete that line")
    return row


def _tag(column: str) -> str:
    """Return the column's tag; TensorBoard groups by the part before the slash."""
    if column in LOSSES:
        return "loss/total" if column == "loss" else f"loss/{column}"
    return f"val/{column.removeprefix('val_')}" if column.startswith("val_") else f"train/{column}"


def _board(folder: Path, purge: int) -> SummaryWriter:
    """Return a writer; TensorBoard hides what earlier writers logged from step ``purge`` on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # raised by TensorBoard's dependencies at import
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (a second's import)

    return SummaryWriter(str(folder), purge_step=purge)


class NoLog:
    """A log that writes nothing, for all processes but the first."""

    def __enter__(self) -> NoLog:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing."""
