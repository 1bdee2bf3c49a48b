"""Request for one training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsedge.errors import InputError
from rsedge_train.data.crops import CropConfig
from rsedge_train.fit.loop import FitConfig
from rsedge_train.nets.encoder_weights import NONE
from rsedge_train.run.teachers import VIEWS


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
class Distillation:
    """Teachers of a student and settings of distillation (ARAFNet eq. 6 to 8)."""

    teachers: tuple[Path, ...]  # run folders; the student learns from their mean probability
    weights: str = "best"  # or last
    temperature: float = 0.5
    relation_weight: float = 1.0
    views: int = 1  # dihedral views of each crop over which a teacher's probability is averaged

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

    def __post_init__(self) -> None:
        if self.sample_share is not None and not 0 <= self.sample_share <= 1:
            raise InputError(f"sample share {self.sample_share:g}: not between 0 and 1")
        if self.workers < 0 or self.ram_bytes < 0 or (self.epochs is not None and self.epochs < 1):
            raise InputError(
                f"{self.workers} workers, {self.ram_bytes} bytes of memory, {self.epochs} epochs: use no negative "
                "numbers and at least 1 epoch"
            )
        if self.quantization and self.fit.precision not in {"auto", "fp32"}:
            raise InputError(
                f"precision {self.fit.precision}: too coarse to imitate INT8. Use fp32 with --quantize"
            )
