"""What one training is asked for."""

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
    """Which network, and the weights it begins with."""

    name: str  # in the registry
    encoder_weights: str = NONE  # auto, hub, a file or an installed package; none: random, and all is trained
    start: Path | None = None  # safetensors of the whole network, from an earlier run

    @property
    def has_pretrained_encoder(self) -> bool:
        """Whether the encoder begins with weights that a small learning rate should keep."""
        return self.encoder_weights != NONE


@dataclass(frozen=True)
class Distillation:
    """Whom a student learns from, and how (ARAFNet eq. 6 to 8)."""

    teachers: tuple[Path, ...]  # run folders; of several the mean probability is learnt from
    weights: str = "best"  # or last
    temperature: float = 0.5
    relation_weight: float = 1.0
    views: int = 1  # dihedral views of each crop that a teacher's probability is the mean of

    def __post_init__(self) -> None:
        if not self.teachers:
            raise InputError("no teacher: name the run folder of at least one")
        if self.views not in VIEWS:
            raise InputError(f"{self.views} teacher views: choose one of {', '.join(map(str, VIEWS))}")
        if not self.temperature > 0:
            raise InputError(f"temperature {self.temperature}: allowed is above 0; the paper has 0.5")


@dataclass(frozen=True)
class Job:
    """All that one training is asked for. ``fit.steps`` is replaced where ``epochs`` counts."""

    role: str  # "teacher" or "student"
    out: Path
    net: NetChoice
    crops: CropConfig
    fit: FitConfig
    epochs: int | None = None  # passes over the area of the training scenes; None: ``fit.steps``
    validate_epochs: int = 1  # between validations; 0: only at the end
    distillation: Distillation | None = None
    class_weights: bool = False
    sample_share: float | None = None  # share of crops from sample scenes, where the data hold others too
    skip_damaged: bool = False
    allow_missing: bool = False  # classes of the table without a label pixel
    device: str = "auto"
    workers: int = 2
    ram_bytes: int = 4 << 30  # scenes are kept in memory if all fit into this
    resume: bool = False
    overwrite: bool = False
    rehearsal: bool = False
    source: Mapping[str, Any] | None = None  # how to open the same data again
    compare: Path | None = None  # run folder of the student alone, for the sheet

    def __post_init__(self) -> None:
        if self.sample_share is not None and not 0 <= self.sample_share <= 1:
            raise InputError(f"sample share {self.sample_share:g}: allowed is 0 to 1")
        if self.workers < 0 or self.ram_bytes < 0 or (self.epochs is not None and self.epochs < 1):
            raise InputError(
                f"{self.workers} workers, {self.ram_bytes} bytes of memory, {self.epochs} epochs: negative "
                "numbers and 0 epochs make no sense"
            )
