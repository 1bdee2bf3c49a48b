"""From a run's folder to a bundle: the ONNX file, its manifest, and the proof that it is the network."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from rsedge.bundle import MANIFEST_NAME, file_sha256, write_bundle_manifest
from rsedge.errors import InputError, ModelError
from rsedge.manifest import Manifest
from rsedge.sample import SampleScene
from rsedge.version import __version__
from rsedge.window import Window
from rsedge_export.graph import RawInput, export_onnx
from rsedge_export.parity import Parity, compare
from rsedge_train.nets.complexity import complexity, macs, parameters
from rsedge_train.nets.deploy import deploy, fold_dilations
from rsedge_train.nets.network import SegNet
from rsedge_train.pixels import MEAN, STD
from rsedge_train.run_folder import Run, load_network, weights_path

SUFFIX = ".rsedge"
ARTIFACT = "model.fp32.onnx"
LICENCE = "Apache-2.0 for the code; that of the weights follows from their training data"
MAX_VALUE = 255.0  # of the bands as stored
PARITY_SEED, PARITY_TILES = 21, 8


def build_bundle(
    run: Path, out: Path, *, name: str | None = None, weights: str = "best"
) -> Mapping[str, Any]:
    """Export a run's ``best`` or ``last`` weights to the bundle ``out``; returns what was written.

    ``name`` is the model's, without it that of ``out`` (``student.rsedge``: ``student``). The bundle
    appears under its name only when the file is proved equal to the network (``parity``); an earlier
    bundle stands until then.

    Raises InputError when the run or ``out`` cannot be used, ModelError when weights do not fit, the
    network does not go to ONNX, or the file does not compute what the network computes.
    """
    check_out(out)
    net, facts = load_network(run, weights, fold=False)
    source = weights_path(run, weights)
    counts = {"network": facts.network, **_complexity(net, facts)}
    # Taps that no training crop reached are random numbers still: on a larger tile they would be noise.
    net = fold_dilations(net, facts.crop)
    deployed = deploy(net, facts.tile)
    manifest = replace(
        facts.manifest(name or out.stem),
        provenance=_provenance(facts, source),
        complexity={
            **counts,
            "params_deployed": parameters(deployed),
            "macs_deployed": macs(deployed, facts.tile),
        },
    )
    with replaced_when_whole(out) as folder:
        parity, stored = _prove(net, deployed, manifest, folder)
        _write_report(folder, parity, stored)
        write_bundle_manifest(folder, manifest)
    return {
        "out": str(out),
        "name": manifest.name,
        "network": facts.network,
        "role": facts.role,
        "weights": str(source),
        "rehearsal": facts.rehearsal,
        "tile": facts.tile,
        "artifact": ARTIFACT,
        "artifact_bytes": (out / ARTIFACT).stat().st_size,
        "size_bytes": sum(p.stat().st_size for p in out.rglob("*") if p.is_file()),
        "complexity": dict(manifest.complexity),
        "parity": asdict(parity),
        "weights_stored_as": stored,
    }


def check_out(out: Path) -> None:
    """Raise InputError when ``out`` cannot become a bundle, or is somebody's folder that is none."""
    if out.suffix != SUFFIX:
        raise InputError(f"--out {out}: a bundle's folder is named NAME{SUFFIX}, such as student{SUFFIX}")
    if not out.parent.is_dir():
        raise InputError(f"{out}: the folder {out.parent} does not exist; create it first")
    if not os.access(out.parent, os.W_OK):
        raise InputError(
            f"{out}: the folder {out.parent} is not writable; choose another or change its permissions"
        )
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise InputError(f"{out} exists and is not a folder; choose another name")
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST_NAME).is_file():
        raise InputError(
            f"{out} exists and is not a bundle (it has no {MANIFEST_NAME}); choose another name or empty it"
        )


@contextmanager
def replaced_when_whole(out: Path) -> Iterator[Path]:
    """A folder to fill that takes the name ``out`` when the block ends well, and goes away otherwise.

    What stood at ``out`` goes only then. No system call swaps two folders everywhere, so a crash
    between the two renames leaves the old one beside it as ``.NAME.old``.
    """
    partial, old = out.with_name(f".{out.name}.part"), out.with_name(f".{out.name}.old")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
            out.rename(old)
        partial.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sample_tiles(tile: int) -> Iterator[NDArray[np.uint8]]:
    """Tiles (3, tile, tile) of a sample scene; the run's own images may not be on this machine."""
    scene = SampleScene(tile, tile * PARITY_TILES, PARITY_SEED)
    for i in range(PARITY_TILES):
        yield scene.render(Window(i * tile, 0, tile, tile))[0]


def _export(deployed: nn.Module, manifest: Manifest, path: Path, *, halve: bool) -> None:
    """Raises ModelError naming the network: torch's exporter raises whatever broke inside it."""
    try:
        export_onnx(RawInput(deployed, MEAN, STD, MAX_VALUE), manifest, path, halve=halve)
    except (ImportError, MemoryError, OSError):  # the machine's fault, not the network's
        raise
    except Exception as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise ModelError(
            f"{manifest.complexity['network']} does not go to ONNX ({type(error).__name__}: {reason}); distil "
            "it into a student and export that"
        ) from error


def _prove(net: SegNet, deployed: SegNet, manifest: Manifest, folder: Path) -> tuple[Parity, str]:
    """Export and compare with ``net``; weights are stored as fp16 where that is close enough, else as fp32.

    Raises ModelError when neither computes what the network computes.
    """
    for stored in ("float16", "float32"):
        _export(deployed, manifest, folder / ARTIFACT, halve=stored == "float16")
        write_bundle_manifest(folder, manifest)  # for the runtime that ``compare`` opens
        parity = compare(RawInput(net, MEAN, STD, MAX_VALUE), folder, sample_tiles(manifest.tile))
        if parity.holds:
            break
    parity.check()
    return parity, stored


def _write_report(folder: Path, parity: Parity, stored: str) -> None:
    facts = {
        "against": "torch, fp32, before deployment's rewrites",
        "weights_stored_as": stored,
        "tiles_from": f"sample scene, seed {PARITY_SEED}: not the images of the run",
        **asdict(parity),
    }
    text = json.dumps({ARTIFACT: facts}, indent=2) + "\n"
    (folder / "report.json").write_text(text, encoding="utf-8")


def _complexity(net: SegNet, run: Run) -> dict[str, Any]:
    """Counts of the network as trained; the teacher's where the run knows them."""
    counts: dict[str, Any] = {"params": parameters(net), "macs": macs(net, run.tile), "macs_tile": run.tile}
    teacher = run.teacher or {}
    if teacher.get("network"):
        counts["teacher"] = _teacher(teacher, run)
    return counts


def _teacher(teacher: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """What the run says of its teacher; counted again where its MACs are not of the student's tile."""
    facts = {key: teacher.get(key) for key in ("network", "params", "macs", "macs_tile")}
    if facts["params"] and facts["macs"] and facts["macs_tile"] == run.tile:
        return facts
    counted = complexity(str(facts["network"]), len(run.classes), run.tile)
    return {
        "network": counted.name,
        "params": counted.params,
        "macs": counted.macs,
        "macs_tile": counted.tile,
    }


def _without_folders(facts: Any) -> Any:
    """JSON values with every absolute path cut to its last name."""
    if isinstance(facts, Mapping):
        return {key: _without_folders(value) for key, value in facts.items()}
    if isinstance(facts, list | tuple):
        return [_without_folders(value) for value in facts]
    return Path(facts).name if isinstance(facts, str) and Path(facts).is_absolute() else facts


def _provenance(run: Run, weights: Path) -> dict[str, Any]:
    """Where the weights come from; of paths the last name only: a bundle leaves this machine."""
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
