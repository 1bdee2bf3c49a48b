"""A teacher beside its students in ``rsedge bench``: a run's network, or a named one with random weights."""

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

ON_CPU = ("cpu", "openvino")  # devices for which the teacher stays off the GPU


def open_teacher(contender: Contender) -> tuple[TorchBackend, Mapping[str, Any]]:
    """Return the network named by ``contender.path``, on CUDA if available and wanted, and facts for its row.

    Raises InputError if the path is neither a run nor a network, or if classes or bands differ from ``like``'s.
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
            f"--teacher {contender.path}: neither a run folder (with {RUN_NAME}) nor a network of "
            "`rsedge models`. Give one of these, or none"
        )
    net = build(contender.path, len(like.classes)).eval()
    counted = complexity(contender.path, len(like.classes), like.tile)
    manifest = replace(like, name=contender.path, complexity={}, provenance={})
    return TorchBackend(_laid_out(net, device), manifest, device), {
        "device": "torch",
        "cost": asdict(Cost(counted.name, counted.params, counted.macs, counted.tile)),
        "size_bytes": counted.size_bytes,
        "notes": ("random weights: speed equals that of trained weights, accuracy means nothing",),
    }


def _of_run(folder: Path, like: Manifest, device: str) -> tuple[TorchBackend, Mapping[str, Any]]:
    run = Run.read(folder)
    own, wanted = [c.name for c in run.classes], [c.name for c in like.classes]
    if own != wanted or run.bands != like.bands:
        raise InputError(
            f"--teacher {folder}: trained on {', '.join(own)} in {', '.join(run.bands)}, but {like.name} has "
            f"{', '.join(wanted)} in {', '.join(like.bands)}. Give this student's teacher, or --teacher none"
        )
    net, _ = load_network(folder, fold=False)
    cost = Cost(run.network, parameters(net), macs(net, like.tile), like.tile)
    # Use the student's tile, so that both rows measure the same work.
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
