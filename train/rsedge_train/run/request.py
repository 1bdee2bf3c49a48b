"""Request for one training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsedge.errors import InputError
from rsedge_train.data.crops import CropConfig
from rsedge_train.fit.loop import FitConfig
from rsedge_train.nets.encoder_weights import NONE
from rsedge_train.run.teachers import VIEWS

UNLABELLED_LOSSES = ("dist", "kl")
CONFIDENCES = ("entropy", "none")


@dataclass(frozen=True)
class NetChoice:
    """A network and its initial weights."""

    name: str  # in the registry
    encoder_weights: str = NONE  # auto, hub, a file or an installed package; none: random, train all
    start: Path | None = None  # safetensors of the whole network, from an earlier run

    @property
    def has_pretrained_encoder(self) -> bool:
        """Return True if the encoder is pretrained and should use a small learning rate."""
        return self.encoder_weights != NONE


@dataclass(frozen=True)
class Unlabelled:
    """How the unlabelled imagery of a data set takes part: there, the loss is the distillation's alone."""

    share: float = 0.5  # of the crops
    loss: str = "dist"  # DIST's two relations, or kl
    weight: float = 1.0  # of that loss beside the labelled crops' loss
    confidence: str = (
        "entropy"  # a pixel counts by 1 - entropy / ln K of the teacher's answer; none: all alike
    )

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(f"unlabelled share {self.share:g}: not above 0 and at most 1. 0.5 is usual")
        if self.loss not in UNLABELLED_LOSSES:
            raise InputError(
                f"unlabelled loss {self.loss!r}: unknown. Choose {' or '.join(UNLABELLED_LOSSES)}"
            )
        if self.confidence not in CONFIDENCES:
            raise InputError(
                f"unlabelled confidence {self.confidence!r}: unknown. Choose {' or '.join(CONFIDENCES)}"
            )
        if not 0 < self.weight < math.inf:
            raise InputError(f"unlabelled weight {self.weight:g}: not above 0. 1 is usual")


@dataclass(frozen=True)
class Distillation:
    """Teachers of a student and settings of distillation (ARAFNet eq. 6 to 8)."""

    teachers: tuple[Path, ...]  # run folders; the student learns from their mean probability
    weights: str = "best"  # or last
    temperature: float = 0.5
    relation_weight: float = 1.0
    views: int = 1  # dihedral views of each crop over which a teacher's probability is averaged
    unlabelled: Unlabelled | None = None  # None: the data set has labelled rasters only

    def __post_init__(self) -> None:
        if not self.teachers:
            raise InputError("no teacher. Name at least one run folder")
        if self.views not in VIEWS:
            raise InputError(
                f"{self.views} teacher views: not supported. Choose one of {', '.join(map(str, VIEWS))}"
            )
        if not self.temperature > 0:
            raise InputError(f"temperature {self.temperature}: not above 0. The paper uses 0.5")


@dataclass(frozen=True)
class Quantization:
    """A finished student to fine-tune under the rounding of INT8."""

    run: Path
    weights: str = "best"  # or last
    label_weight: float = (
        0.05  # of the labels' and the teacher's losses, beside the divergence from the run itself
    )
    signed_share: float = 0.5  # of the steps that round as files for TensorRT do; the others as for CPUs


@dataclass(frozen=True)
class Job:
    """Complete request for one training. ``fit.steps`` is replaced if ``epochs`` is set."""

    role: str  # "teacher" or "student"
    out: Path
    net: NetChoice
    crops: CropConfig
    fit: FitConfig
    epochs: int | None = None  # passes over the area of the training scenes; None: ``fit.steps``
    validate_epochs: int = 1  # between validations; 0: only at the end
    distillation: Distillation | None = None
    quantization: Quantization | None = None
    class_weights: bool = False
    sample_share: float | None = None  # share of crops from sample scenes, if the data has other scenes too
    skip_damaged: bool = False
    allow_missing: bool = False  # accept classes of the table without a label pixel
    device: str = "auto"
    workers: int = 2
    ram_bytes: int = 4 << 30  # limit for keeping all scenes in memory
    resume: bool = False
    overwrite: bool = False
    rehearsal: bool = False
    source: Mapping[str, Any] | None = None  # arguments for opening the same data again
    compare: Path | None = None  # run folder of the student alone, shown in the sheet

    @property
    def unlabelled(self) -> Unlabelled | None:
        """Return how unlabelled imagery takes part, None if it does not."""
        return self.distillation.unlabelled if self.distillation else None

    def __post_init__(self) -> None:
        if self.sample_share is not None and not 0 <= self.sample_share <= 1:
            raise InputError(f"sample share {self.sample_share:g}: not between 0 and 1")
        if (self.sample_share or 0) + (self.unlabelled.share if self.unlabelled else 0) > 1:
            raise InputError(
                "the shares of sample scenes and of unlabelled imagery are more than 1 together. Lower one"
            )
        if self.workers < 0 or self.ram_bytes < 0 or (self.epochs is not None and self.epochs < 1):
            raise InputError(
                f"{self.workers} workers, {self.ram_bytes} bytes of memory, {self.epochs} epochs: use no negative "
                "numbers and at least 1 epoch"
            )
        if self.quantization and self.fit.precision not in {"auto", "fp32"}:
            raise InputError(
                f"precision {self.fit.precision}: too coarse to imitate INT8. Use fp32 with --quantize"
            )
