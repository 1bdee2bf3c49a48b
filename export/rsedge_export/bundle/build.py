"""Building of a bundle from a run or from foreign ONNX: the fp32 master and the proof of its equality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rsedge.errors import ModelError
from rsedge.model.bundle import file_sha256, write_bundle_manifest
from rsedge.model.manifest import Manifest
from rsedge.tiling.window import Window
from rsedge.verify.tiles import COARSE, REFERENCE_NAME
from rsedge.version import __version__
from rsedge_export.bundle.assemble import ARTIFACT, Plan, assemble
from rsedge_export.graph.foreign import ForeignFacts, adopt
from rsedge_export.graph.onnx_file import save
from rsedge_export.graph.torch_graph import RawInput, export_onnx
from rsedge_export.proof.parity import Parity, compare
from rsedge_sample import SampleScene
from rsedge_train.data.pixels import MEAN, STD
from rsedge_train.nets.complexity import complexity, macs, parameters
from rsedge_train.nets.deploy import deploy, fold_dilations
from rsedge_train.nets.network import SegNet
from rsedge_train.run.folder import Run, load_network, weights_path

LICENCE = "Apache-2.0 for the code; that of the weights follows from their training data"
MAX_VALUE = 255.0  # of the bands as stored
PARITY_SEED, PARITY_TILES = 21, 8
REFERENCE_TILES = 2


def build_bundle(
    run: Path, plan: Plan, *, name: str | None = None, weights: str = "best"
) -> Mapping[str, Any]:
    """Export a run's ``best`` or ``last`` weights and return what was written.

    ``name`` is the model's; by default the bundle's (``student.rsedge``: ``student``). The bundle
    appears under its name only after its fp32 file is proved equal to the network (``parity``) and the
    reduced precisions were judged; an earlier bundle is kept until then.

    Raises InputError if the run or the calibration data cannot be used, ModelError if weights do not
    match, the network cannot be converted to ONNX, or the file does not compute what the network computes.
    """
    net, facts = load_network(run, weights, fold=False)
    imagery, source = plan.imagery(facts), weights_path(run, weights)
    counts = {"network": facts.network, **_complexity(net, facts)}
    # Taps that no training crop reached are still random, so on a larger tile they would add noise.
    net = fold_dilations(net, facts.crop)
    deployed = deploy(net, facts.tile)
    manifest = replace(
        facts.manifest(name or plan.out.stem),
        provenance=_provenance(facts, source),
        complexity={
            **counts,
            "params_deployed": parameters(deployed),
            "macs_deployed": macs(deployed, facts.tile),
        },
    )

    def write_master(folder: Path) -> Mapping[str, Any]:
        return {
            "against": "torch, fp32, before deployment's rewrites",
            "tiles_from": f"sample scene, seed {PARITY_SEED}: not the images of the run",
            **asdict(_prove(net, deployed, manifest, folder)),
        }

    built = assemble(plan, manifest, imagery, write_master)
    told = {"network": facts.network, "role": facts.role, "rehearsal": facts.rehearsal}
    return {**built, **told, "weights": str(source)}


def adopt_bundle(onnx_file: Path, facts: ForeignFacts, plan: Plan) -> Mapping[str, Any]:
    """Build a bundle from an ONNX file without our metadata and the given facts; return what was written.

    Raises InputError or ModelError if file and facts cannot be used or contradict each other.
    """
    imagery = plan.imagery(None)
    with plan.stages("reading"):
        model, manifest = adopt(onnx_file, facts)

    def write_master(folder: Path) -> Mapping[str, Any]:
        save(model, manifest, "fp32", folder / ARTIFACT)
        return {"against": f"{onnx_file.name}, before opset and batch were changed"}

    built = assemble(plan, manifest, imagery, write_master, manifest.provenance["foreign"]["notes"])
    told = {"network": manifest.complexity["network"], "role": "foreign", "rehearsal": False}
    return {**built, **told, "weights": str(onnx_file)}


def sample_tiles(tile: int) -> Iterator[NDArray[np.uint8]]:
    """Yield tiles (3, tile, tile) of a sample scene, as the run's own images may not be on this machine."""
    scene = SampleScene(tile, tile * PARITY_TILES, PARITY_SEED)
    for i in range(PARITY_TILES):
        yield scene.render(Window(i * tile, 0, tile, tile))[0]


def _export(deployed: nn.Module, manifest: Manifest, path: Path) -> None:
    """Export the network. Raises ModelError naming the network, because torch raises errors of any type."""
    try:
        export_onnx(RawInput(deployed, MEAN, STD, MAX_VALUE), manifest, path)
    except (ImportError, MemoryError, OSError):  # the machine's fault, not the network's
        raise
    except Exception as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise ModelError(
            f"{manifest.complexity['network']} cannot be converted to ONNX ({type(error).__name__}: {reason}). Distil "
            "it into a student and export that"
        ) from error


def _prove(net: SegNet, deployed: SegNet, manifest: Manifest, folder: Path) -> Parity:
    """Export, compare with ``net``, and store the network's answer in the bundle.

    Raises ModelError if the file does not compute what the network computes.
    """
    _export(deployed, manifest, folder / ARTIFACT)
    write_bundle_manifest(folder, manifest)  # needed by the runtime that ``compare`` opens
    raw = RawInput(net, MEAN, STD, MAX_VALUE)
    parity = compare(raw, folder, sample_tiles(manifest.tile))
    parity.check()
    write_reference(raw, list(islice(sample_tiles(manifest.tile), REFERENCE_TILES)), folder)
    return parity


def write_reference(model: nn.Module, tiles: Sequence[NDArray[Any]], folder: Path) -> None:
    """Write the answers of ``model`` to ``tiles``, for ``rsedge verify`` elsewhere; see ``ReferenceAnswer``."""
    pixels = np.stack(tiles)
    with torch.inference_mode():
        scores = np.concatenate([model(torch.from_numpy(tile[None])).numpy() for tile in tiles])
    coarse = scores[..., ::COARSE, ::COARSE].astype(np.float16)
    np.savez_compressed(
        folder / REFERENCE_NAME, pixels=pixels, classes=scores.argmax(1).astype(np.uint8), scores=coarse
    )


def _complexity(net: SegNet, run: Run) -> dict[str, Any]:
    """Return counts of the network as trained, and of the teacher if the run records them."""
    counts: dict[str, Any] = {"params": parameters(net), "macs": macs(net, run.tile), "macs_tile": run.tile}
    teacher = run.teacher or {}
    if teacher.get("network"):
        counts["teacher"] = _teacher(teacher, run)
    return counts


def _teacher(teacher: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Return the run's facts on its teacher, recounted if its MACs are not for the student's tile."""
    if members := teacher.get("members"):
        each = [_teacher(member, run) for member in members]
        sums = {key: sum(facts[key] for facts in each) for key in ("params", "macs", "size_bytes")}
        return {"network": teacher["network"], **sums, "macs_tile": run.tile}
    facts = {key: teacher.get(key) for key in ("network", "params", "macs", "macs_tile", "size_bytes")}
    if facts["params"] and facts["macs"] and facts["macs_tile"] == run.tile:
        return facts
    counted = complexity(str(facts["network"]), len(run.classes), run.tile)
    return {
        "network": counted.name,
        "params": counted.params,
        "macs": counted.macs,
        "macs_tile": counted.tile,
        "size_bytes": counted.size_bytes,
    }


def _without_folders(facts: Any) -> Any:
    """Return JSON values with every absolute path shortened to its last name."""
    if isinstance(facts, Mapping):
        return {key: _without_folders(value) for key, value in facts.items()}
    if isinstance(facts, list | tuple):
        return [_without_folders(value) for value in facts]
    return Path(facts).name if isinstance(facts, str) and Path(facts).is_absolute() else facts


def _provenance(run: Run, weights: Path) -> dict[str, Any]:
    """Return the weights' origin, with only the last names of paths, because a bundle leaves this machine."""
    told = ("role", "rehearsal", "crop", "uncounted", "data", "settings", "teacher", "progress")
    facts = asdict(run)
    return {
        "licence": run.data.get("licence") or LICENCE,
        "rsedge": __version__,
        "training": {
            **{key: _without_folders(facts[key]) for key in told},
            "weights": {"file": weights.name, "sha256": file_sha256(weights)},
        },
    }
