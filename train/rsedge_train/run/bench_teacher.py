"""A teacher beside its students in ``rsedge bench``: from a run's folder, or a network by name with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from rsedge.bench.contender import Contender
from rsedge.bench.facts import Cost
from rsedge.errors import InputError
from rsedge.model.bundle import Bundle, file_sha256
from rsedge.model.manifest import Manifest
from rsedge_train.nets.complexity import complexity, macs, parameters
from rsedge_train.nets.deploy import fold_dilations
from rsedge_train.nets.registry import build, names
from rsedge_train.run.folder import RUN_NAME, Run, load_network, weights_path
from rsedge_train.run.validate import TorchBackend

ON_CPU = ("cpu", "openvino")  # devices that keep the teacher off a GPU, too


def open_teacher(contender: Contender) -> tuple[TorchBackend, Mapping[str, Any]]:
    """The network that ``contender.path`` names, on CUDA where there is one and it is wanted, and its facts for a row.

    Raises InputError where it is neither a run nor a network, or has not the classes and bands of ``like``.
    """
    if contender.threads:
        torch.set_num_threads(contender.threads)
    like = Bundle.open(contender.like).manifest
    device = "cuda" if contender.device not in ON_CPU and torch.cuda.is_available() else "cpu"
    folder = Path(contender.path)
    if (folder / RUN_NAME).is_file():
        return _of_run(folder, like, device)
    if contender.path not in names():
        raise InputError(
            f"--teacher {contender.path} is neither the folder of a run (with {RUN_NAME}) nor a network of "
            "`rsedge models`; give one of them, or none"
        )
    net = build(contender.path, len(like.classes)).eval()
    counted = complexity(contender.path, len(like.classes), like.tile)
    manifest = replace(like, name=contender.path, complexity={}, provenance={})
    return TorchBackend(_laid_out(net, device), manifest, device), {
        "device": "torch",
        "cost": asdict(Cost(counted.name, counted.params, counted.macs, counted.tile)),
        "size_bytes": counted.size_bytes,
        "notes": ("its weights are random: its speed is that of a trained one, its answers mean nothing",),
    }


def _of_run(folder: Path, like: Manifest, device: str) -> tuple[TorchBackend, Mapping[str, Any]]:
    run = Run.read(folder)
    own, wanted = [c.name for c in run.classes], [c.name for c in like.classes]
    if own != wanted or run.bands != like.bands:
        raise InputError(
            f"--teacher {folder} knows {', '.join(own)} in {', '.join(run.bands)}, {like.name} knows "
            f"{', '.join(wanted)} in {', '.join(like.bands)}; give the teacher of this student, or --teacher none"
        )
    net, _ = load_network(folder, fold=False)
    cost = Cost(run.network, parameters(net), macs(net, like.tile), like.tile)
    # On the student's tile, so that one row's figures are of the same work as the other's.
    manifest = replace(run.manifest(run.network), tile=like.tile)
    weights = weights_path(folder)
    backend = TorchBackend(_laid_out(fold_dilations(net, run.crop), device), manifest, device)
    backend.bundle = replace(backend.bundle, sha256=file_sha256(weights))
    return backend, {
        "device": "torch",
        "cost": asdict(cost),
        "size_bytes": weights.stat().st_size,
        "accuracy": _validated(run.progress, run.data),
        "notes": (f"{folder} is a rehearsal (--quick)",) if run.rehearsal else (),
    }


def _laid_out(net: torch.nn.Module, device: str) -> torch.nn.Module:
    return net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _validated(progress: Mapping[str, Any], data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found = progress.get("val_best") or progress.get("val_last")
    if not found:
        return None
    source = f"run.json: validation on {', '.join(data.get('val') or ()) or 'its scenes'}"
    return {"miou": found["miou"], "oa": found["oa"], "iou": found["iou"], "source": source}
