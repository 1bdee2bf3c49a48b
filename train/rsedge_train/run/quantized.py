"""Fine-tuning of a finished student under the rounding of INT8, taught by itself in floating point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from rsedge.errors import InputError
from rsedge_train.data import Dataset
from rsedge_train.data.crops import CropSource
from rsedge_train.data.pixels import normalise
from rsedge_train.fit.loop import StepLoss
from rsedge_train.fit.losses import dist_relations, divergence, supervised_loss
from rsedge_train.nets.deploy import deploy
from rsedge_train.nets.fake_int8 import calibrate, check_simple, imitate, int8_layers, on_grids, use_signed
from rsedge_train.nets.network import SegNet
from rsedge_train.run.request import Distillation, Job, Quantization
from rsedge_train.run.teachers import Member, load_member

CALIBRATION_BATCHES = 8

Teacher = Callable[[Tensor], Tensor]


def load_base(job: Job, wanted: Quantization, dataset: Dataset) -> Member:
    """Load the run to quantize, with its network's unreached taps folded.

    Raises InputError if network, crop, classes or bands differ from the job's, if the run is not finished or was
    trained on scenes that are scored, or if INT8 of its network cannot be imitated.
    """
    base = load_member(wanted.run, wanted.weights, dataset, "run to quantize")
    if base.run.network != job.net.name:
        raise InputError(
            f"--quantize {wanted.run}: trained {base.run.network}, not {job.net.name}. Leave out --student, or "
            "quantize a run of that network"
        )
    if base.run.crop != job.crops.size:
        raise InputError(
            f"--quantize {wanted.run}: trained on crops of {base.run.crop} px, not {job.crops.size}. Leave out --crop"
        )
    check_simple(deploy(base.net, base.run.crop), base.run.network)
    return base


def imitation(base: Member) -> SegNet:
    """Return the network of ``base`` as deployed for its crops, with the layers in INT8 that export chooses."""
    layers = int8_layers(deploy(base.net, base.run.tile), base.run.tile)
    return imitate(deploy(base.net, base.run.crop), layers)


def calibrate_on(net: SegNet, plain: CropSource, device: torch.device) -> None:
    """Set the grids of the activations from the first batches of ``plain``, crops of unaltered look."""
    batches = islice(plain.between(0, CALIBRATION_BATCHES), CALIBRATION_BATCHES)
    calibrate(net, (normalise(images.to(device)) for images, _, _ in batches))


def quantization_loss(
    base: Member,
    wanted: Quantization,
    weight: Tensor | None,
    device: torch.device,
    teacher: Teacher | None = None,
    lesson: Distillation | None = None,
) -> StepLoss:
    """Return KL to ``base`` + ``label_weight`` x (labels' loss, and DIST's relations to ``teacher`` if there is one).

    Each step rounds activations as one of the two kinds of file does, by chance from the step's seed.
    """
    exact = base.net.to(device).to(memory_format=torch.channels_last).eval()

    def loss(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        use_signed(model, bool(torch.rand(()) < wanted.signed_share))
        with torch.no_grad():
            target = exact(images)
        student = model(images)
        parts = {**supervised_loss(student, labels, weight), **divergence(student, target)}
        task = parts.pop("loss")
        if teacher is not None and lesson is not None:
            with torch.autocast(device.type, enabled=device.type == "cuda"):
                told = teacher(images)
            parts["inter"], parts["intra"] = dist_relations(student, told, labels, lesson.temperature)
            task = task + lesson.relation_weight * (parts["inter"] + parts["intra"])
        return {"loss": parts["kl"] + wanted.label_weight * task, **parts}

    return loss


def quantization_facts(base: Member, net: SegNet) -> Mapping[str, Any]:
    """Describe for a run what was quantized."""
    kept = ("folder", "network", "weights", "sha256", "val")
    return {**{key: base.facts[key] for key in kept}, "int8_layers": sum(1 for _ in on_grids(net))}
