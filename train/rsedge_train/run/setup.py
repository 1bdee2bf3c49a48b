"""Preparation before the first step: checks, the network, the schedule, and scene and class weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsedge.errors import InputError, OutputError
from rsedge.score.truth import describe_missing, doubts
from rsedge_train.data import Dataset, Scan, SceneScan
from rsedge_train.data.crops import SceneStore
from rsedge_train.data.scan import missing_classes
from rsedge_train.fit.loop import FitConfig
from rsedge_train.fit.state import LAST_NAME, STATE_NAME
from rsedge_train.nets.encoder_weights import AUTO, HUB, NONE, EncoderWeights, find_weights
from rsedge_train.nets.network import SegNet
from rsedge_train.nets.registry import build, entry
from rsedge_train.run.folder import RUN_NAME, Run, load_weights
from rsedge_train.run.request import Job, NetChoice

NO_TEACHER = (
    "unlabelled imagery teaches nothing without a teacher. Give one with --teacher instead of --alone, or leave out "
    "--unlabelled"
)


def check_folder(job: Job) -> None:
    """Raise InputError or OutputError if ``job.out`` cannot take the run."""
    held = [name for name in (LAST_NAME, STATE_NAME) if (job.out / name).exists()]
    if job.out.exists() and not job.out.is_dir():
        raise OutputError(f"{job.out} is a file. Give a folder with --out")
    if held and not job.resume and not job.overwrite:
        raise InputError(
            f"{job.out} already holds a run. Resume with --resume, replace it with --overwrite, or choose "
            "another --out"
        )
    inputs = [*(job.distillation.teachers if job.distillation else ()), job.compare]
    if any(folder and folder.resolve() == job.out.resolve() for folder in inputs):
        raise InputError(f"{job.out} is the teacher's or the compared run. Choose another --out")
    if job.quantization and job.quantization.run.resolve() == job.out.resolve():
        raise InputError(f"{job.out} is the run to quantize. Choose another --out")


def check_classes(dataset: Dataset) -> None:
    """Raise InputError if the data has a single class."""
    if dataset.num_classes < 2:
        raise InputError(
            f"data {dataset.name}: only one class ({dataset.table.names[0]}). Segmentation needs two"
        )


def check_taught(job: Job, dataset: Dataset) -> None:
    """Raise InputError unless unlabelled imagery comes with a teacher that answers for it, and without --quantize."""
    if dataset.unlabelled and job.quantization:
        raise InputError("--quantize learns from labelled scenes only. Leave out --unlabelled")
    if dataset.unlabelled and not job.unlabelled:
        raise InputError(NO_TEACHER)
    if job.unlabelled and not dataset.unlabelled:
        raise InputError(f"data {dataset.name} has no unlabelled imagery. Give a folder with --unlabelled")


def check_present(dataset: Dataset, scans: Sequence[SceneScan], *, allow_missing: bool) -> None:
    """Raise InputError if a class has no label pixel in train or val.

    Without a class table, two classes that occur are enough.
    """
    if allow_missing or all(s.files.drawn for s in scans):
        return
    counts = np.sum([s.counts for s in scans], axis=0)
    missing = missing_classes(dataset.table.names, counts, told=dataset.told)
    if missing:
        unlabelled = sum((Counter(s.unlabelled) for s in scans), Counter[str]())
        raise InputError(f"data {dataset.name} hold {describe_missing(missing, unlabelled)}")


def label_doubts(dataset: Dataset, scans: Sequence[SceneScan]) -> tuple[str, ...]:
    """Return notes on labels that may be misread; see ``rsedge.score.truth.doubts``."""
    own = [s for s in scans if not s.files.drawn]
    if not own:
        return ()
    unlabelled = sum((Counter(s.unlabelled) for s in own), Counter[str]())
    counts = np.sum([s.counts for s in own], axis=0).tolist()
    return doubts(dataset.table.colors, dataset.table.names, unlabelled, counts)


def build_net(choice: NetChoice, num_classes: int, *, empty: bool) -> SegNet:
    """Build the network with its initial weights; with ``empty``, a saved state will replace the weights."""
    spec = entry(choice.name)
    wanted = NONE if empty else choice.encoder_weights
    if spec.trunk is not None:
        hub = wanted in {AUTO, HUB}
        net = build(choice.name, num_classes, checkpoint=HUB if hub else None if wanted == NONE else wanted)
        if choice.encoder_weights == NONE:  # a frozen random trunk would learn nothing useful
            net.encoder.trunk.requires_grad_(True)
    else:
        found = None if wanted == NONE else find_weights(wanted, spec.backbone)
        net = build(choice.name, num_classes, pretrained=found.path if found else wanted != NONE)
    if choice.start is not None and not empty:
        load_weights(net, choice.start, choice.name)
    return net


def encoder_facts(job: Job) -> Mapping[str, Any] | None:
    """Describe the encoder's initial weights for provenance; None for random weights.

    A resumed run keeps the facts of its run.json, because the weights may no longer exist.
    """
    wanted, spec = job.net.encoder_weights, entry(job.net.name)
    if wanted == NONE:
        return None
    if job.resume and (job.out / RUN_NAME).is_file():
        facts: Mapping[str, Any] | None = Run.read(job.out).settings.get("encoder_weights")
        return facts
    if spec.trunk is not None:
        hub = wanted in {AUTO, HUB}
        return {"source": HUB} if hub else EncoderWeights(Path(wanted), Path(wanted).name).facts()
    found = find_weights(wanted, spec.backbone)
    return found.facts() if found else {"source": HUB}


def schedule(job: Job, scanned: Scan) -> FitConfig:
    """Return the settings with all durations in steps; one epoch covers the training area once."""
    area = sum(s.height * s.width for s in scanned.scenes)
    epoch = max(1, -(-area // (job.crops.size**2 * job.crops.batch)))
    steps = job.fit.steps if job.epochs is None else job.epochs * epoch
    precision = "fp32" if job.quantization else job.fit.precision  # half types cannot hold INT8's grids
    return replace(
        job.fit,
        precision=precision,
        steps=steps,
        seed=job.crops.seed,
        validate_every=job.validate_epochs * epoch,
    )


def scene_weights(
    store: SceneStore, sample_share: float | None, unlabelled_share: float | None = None
) -> list[float] | None:
    """Return the probability of each scene: by the root of its area within its kind, kinds by their shares.

    Sample scenes and unlabelled imagery have the given shares, the user's own labelled scenes the rest. None if
    only scenes of one kind, or without a given share, are there.
    """
    roots = np.sqrt([s.height * s.width for s in store.scans])
    bare = np.array([s.files.label is None for s in store.scans])
    drawn = np.array([s.files.drawn for s in store.scans])
    own = ~bare & ~drawn
    kinds = [(bare, unlabelled_share), (drawn, sample_share if own.any() else None)]
    rest, left, shares, sums = np.ones(len(roots), bool), 1.0, np.zeros(len(roots)), np.ones(len(roots))
    for kind, share in kinds:
        if share is not None and kind.any():
            shares[kind], sums[kind] = share, roots[kind].sum()
            rest, left = rest & ~kind, max(0.0, left - share)
    if rest.all() or not rest.any():
        return None
    shares[rest], sums[rest] = left, roots[rest].sum()
    return list(map(float, shares * roots / sums))


def class_weights(scanned: Scan) -> Tensor:
    """Return class weights by median frequency, limited to 0.1 to 10."""
    share = scanned.counts / scanned.counts.sum()
    median = np.median(share[share > 0])
    return torch.tensor(np.clip(median / np.maximum(share, 1e-9), 0.1, 10.0), dtype=torch.float32)
