"""What ``rsedge eval --json`` prints: written by `Evaluation.to_dict`, read back by `rsedge.documents.from_json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rsedge.documents import Count
from rsedge.errors import InputError


@dataclass(frozen=True)
class ClassScores:
    """One class; its scores are None where it occurs neither in the truth nor in the mask."""

    name: str
    iou: float | None
    f1: float | None
    boundary_f: float | None
    pixels: Count  # of the truth


@dataclass(frozen=True)
class Uncounted:
    """Pixels that no score speaks of: of images without data, and by what labels store there."""

    pixels: Count
    share: float  # of all pixels
    no_data: Count
    unlabelled: Mapping[str, Count]


@dataclass(frozen=True)
class Majority:
    """What always answering the most frequent class would score."""

    class_: str
    miou: float | None
    oa: float | None


@dataclass(frozen=True)
class EvalResult:
    """Scores on labelled rasters. Raises InputError where the confusion is no square of the classes."""

    model: str
    precision: str | None
    sha256: str | None  # of the artifact that ran
    provider: str | None
    rasters: Count | None
    pixels: Count | None  # labelled
    uncounted: Uncounted | None
    miou: float | None
    mean_f1: float | None
    oa: float | None
    mean_boundary_f: float | None
    boundary_tolerance_px: float | None
    majority_baseline: Majority | None
    classes: tuple[ClassScores, ...]
    confusion_truth_by_row: tuple[tuple[Count, ...], ...]  # pixels, a row a class of the truth
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count, rows = len(self.classes), self.confusion_truth_by_row
        if not count or [len(row) for row in rows] != [count] * count:
            raise InputError(f"confusion_truth_by_row is not a square of {count} classes")

    @property
    def counted(self) -> int:
        """Labelled pixels: the sum of the confusion."""
        return sum(map(sum, self.confusion_truth_by_row))
