"""What ``rsedge eval --json`` says, checked; what it leaves out is None."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rsedge.errors import InputError
from rsedge.report.facts import MOST, Facts

CONFUSION_KEY = "confusion_truth_by_row"


@dataclass(frozen=True)
class ClassScore:
    """One class; ``iou`` and ``f1`` are None where it occurs neither in the truth nor in the mask."""

    name: str
    iou: float | None
    f1: float | None
    pixels: int


@dataclass(frozen=True)
class Eval:
    """Scores on labelled rasters. ``confusion``: pixels, a row a class of the truth."""

    source: str  # the file
    model: str
    precision: str | None
    provider: str | None
    sha256: str | None
    rasters: int | None
    miou: float | None
    mean_f1: float | None
    oa: float | None
    majority: Facts | None
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...]

    @classmethod
    def read(cls, values: Mapping[str, Any], source: str) -> Eval:
        """Raises InputError where it is not what ``rsedge eval --json`` prints."""
        facts = Facts(values, source)
        classes = tuple(
            ClassScore(p.text("name") or "", p.number("iou"), p.number("f1"), p.count("pixels") or 0)
            for p in facts.parts("classes")
        )
        return cls(
            source=source,
            model=facts.text("model") or "unnamed model",
            precision=facts.text("precision"),
            provider=facts.text("provider"),
            sha256=facts.text("sha256"),
            rasters=facts.count("rasters"),
            miou=facts.number("miou"),
            mean_f1=facts.number("mean_f1"),
            oa=facts.number("oa"),
            majority=facts.part("majority_baseline"),
            classes=classes,
            confusion=_confusion(facts, len(classes)),
            notes=facts.texts("notes"),
        )

    @property
    def pixels(self) -> int:
        """Labelled pixels."""
        return sum(sum(row) for row in self.confusion)


def _confusion(facts: Facts, classes: int) -> tuple[tuple[int, ...], ...]:
    rows = facts.values.get(CONFUSION_KEY)
    square = isinstance(rows, list) and len(rows) == classes > 0
    if not square or not all(isinstance(row, list) and len(row) == classes for row in rows or ()):
        raise InputError(f"{facts.where}: {CONFUSION_KEY} is not a square of {classes} classes")
    if not all(type(v) is int and 0 <= v <= MOST for row in rows or () for v in row):
        raise InputError(f"{facts.where}: {CONFUSION_KEY} holds something else than counts of pixels")
    return tuple(tuple(row) for row in rows or ())
