"""Turns the run of ``rsedge_train.shipped`` into the default bundle of the wheel.

python -m rsedge_export.shipped --run runs/shipped --out runtime/rsedge/models/landcover5-b0.rsedge
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

from rsedge.bundle import write_bundle_manifest
from rsedge.errors import ModelError, RsedgeError
from rsedge.manifest import Manifest
from rsedge.sample import SampleScene
from rsedge.sample_files import LANDCOVER
from rsedge.version import __version__
from rsedge.window import Window
from rsedge_export.graph import RawInput, export_onnx
from rsedge_export.parity import compare
from rsedge_train.data import MEAN, STD
from rsedge_train.nets import build_student
from rsedge_train.nets.complexity import macs, parameters
from rsedge_train.nets.deploy import deploy, fold_dilations

TILE = 512
MAX_VALUE = 255.0  # of the bands as stored
GSD_M = (0.25, 1.0)  # of the training scenes
PARITY_SEED, PARITY_TILES, LEAST_AGREEMENT = 21, 8, 0.999


def main() -> None:
    """Parse the command line and write the bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of weights.safetensors, report.json")
    parser.add_argument("--out", type=Path, required=True, help="bundle folder to write")
    args = parser.parse_args()
    try:
        report = build_bundle(args.run, args.out)
    except RsedgeError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


def build_bundle(run: Path, out: Path) -> Mapping[str, Any]:
    """Export the run's weights to ``out``, prove them equal, and return the report stored inside.

    Raises ModelError when the exported file does not agree with the network; ``out`` is then untouched.
    """
    training = json.loads((run / "report.json").read_text(encoding="utf-8"))
    net = build_student(training["backbone"], num_classes=len(LANDCOVER)).eval()
    net.load_state_dict(load_file(run / "weights.safetensors"))
    complexity = {"params": parameters(net), "macs": macs(net, TILE), "macs_tile": TILE}
    # Taps that no training crop reached are random numbers still: on a larger tile they would be noise.
    net = fold_dilations(net, training["crop"]["size"])
    deployed = deploy(net, TILE)
    manifest = Manifest(
        name="landcover5-b0",
        bands=("red", "green", "blue"),
        dtype="uint8",
        tile=TILE,
        classes=LANDCOVER,
        fill=tuple(round(255 * m) for m in MEAN),
        gsd_m=GSD_M,
        provenance={"licence": "Apache-2.0", "rsedge": __version__, "training": training},
        complexity={
            **complexity,
            "params_deployed": parameters(deployed),
            "macs_deployed": macs(deployed, TILE),
        },
    )
    partial = out.with_name(f"{out.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        export_onnx(RawInput(deployed, MEAN, STD, MAX_VALUE), manifest, partial / "model.fp32.onnx")
        write_bundle_manifest(partial, manifest)
        parity = compare(RawInput(net, MEAN, STD, MAX_VALUE), partial, _tiles())
        if parity.argmax_agreement < LEAST_AGREEMENT:
            raise ModelError(f"the exported graph does not compute what the network computes: {parity}")
        report = {"model.fp32.onnx": {"against": "torch", "weights_stored_as": "float16", **asdict(parity)}}
        (partial / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        write_bundle_manifest(partial, manifest)
        shutil.rmtree(out, ignore_errors=True)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report


def _tiles() -> Iterator[NDArray[np.uint8]]:
    """Tiles of a sample scene that no training saw."""
    scene = SampleScene(TILE * PARITY_TILES, TILE, PARITY_SEED)
    for i in range(PARITY_TILES):
        yield scene.render(Window(0, i * TILE, TILE, TILE))[0]


if __name__ == "__main__":
    main()
