"""Comparison of every student in ONNX Runtime with torch, and its time with EfficientNet-b0's.

    python benchmarks/onnx_parity.py [--tiles 512 640] [--names efficientnet_b0 ...] [--json out.json]

Per student (random weights, BN statistics perturbed to test their folding): export as rsedge
does (opset 18, any batch) at each tile; run batch 2; print the largest difference of logits over their
range, the share of pixels with the same argmax, and the median CPU time of one tile on one thread
(least affected by a busy machine), relative to efficientnet_b0's. ``deployed``: after
``deploy(net, tile)``, for the first tile alone. Exit code 1 if a student misses a bound.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn

from rsedge.backends.ort_module import import_onnxruntime
from rsedge_export.graph.torch_graph import trace
from rsedge_train.nets import registry
from rsedge_train.nets.complexity import macs
from rsedge_train.nets.deploy import deploy

MAX_ERROR = 1e-4
MIN_AGREEMENT = 0.9999
REFERENCE = "efficientnet_b0"


@dataclass(frozen=True)
class Result:
    """One export, compared and timed."""

    name: str
    tile: int
    deployed: bool
    gmacs: float
    error: float
    agreement: float
    milliseconds: float

    def __post_init__(self) -> None:
        if not 0 <= self.agreement <= 1 or self.milliseconds <= 0:
            raise ValueError(f"{self.name}: impossible measurement")

    @property
    def holds(self) -> bool:
        """Return True if both bounds are met."""
        return self.error <= MAX_ERROR and self.agreement >= MIN_AGREEMENT


def shake(net: nn.Module, seed: int = 0) -> None:
    """Give BN layers statistics and weights that are not the identity."""
    torch.manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            if module.running_mean is not None and module.running_var is not None:
                module.running_mean.normal_(std=0.2)
                module.running_var.uniform_(0.5, 2.0)


def compare(net: nn.Module, name: str, tile: int, deployed: bool, repeats: int) -> Result:
    """Export, run batch 2, time batch 1 on one thread."""
    x = torch.randn(2, 3, tile, tile, generator=torch.Generator().manual_seed(1))
    graph = trace(net, x, ("image", "logits"))
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = np.asarray(session.run(None, {"image": x.numpy()})[0])
    with torch.no_grad():
        expected = net(x).numpy()
    span = float(expected.max() - expected.min())
    times = []
    for _ in range(repeats):
        start = time.process_time()
        session.run(None, {"image": x[:1].numpy()})
        times.append(time.process_time() - start)
    return Result(
        name,
        tile,
        deployed,
        macs(net, tile) / 1e9,
        float(np.abs(expected - found).max()) / span,
        float((expected.argmax(1) == found.argmax(1)).mean()),
        1e3 * median(times),
    )


def students() -> tuple[str, ...]:
    """Return all registered students, the reference first."""
    return (REFERENCE, *(n for n in registry.names() if registry.entry(n).trunk is None and n != REFERENCE))


def show(result: Result, reference: float) -> str:
    """Return one line of the table."""
    kind = "deployed" if result.deployed else "plain"
    return (
        f"{result.name:30s} {result.tile:5d} {kind:9s} {result.gmacs:7.2f} {result.error:9.1e} "
        f"{100 * result.agreement:9.4f} {result.milliseconds:8.1f} {result.milliseconds / reference:6.2f}  "
        f"{'ok' if result.holds else 'MISSED'}"
    )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tiles", type=int, nargs="+", default=[512, 640])
    parser.add_argument("--names", nargs="+", default=list(students()))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    head = f"{'student':30s} {'tile':>5s} {'graph':9s} {'G MACs':>7s} {'error':>9s} {'argmax %':>9s}"
    print(f"{head} {'ms':>8s} {'ratio':>6s}  (1 thread; ratio to {args.names[0]} plain at the same tile)")
    results: list[Result] = []
    reference: dict[int, float] = {}
    for name in args.names:
        net = registry.build(name, 5)
        shake(net)
        net.eval()
        jobs = [(net, tile, False) for tile in args.tiles] + [
            (deploy(net, args.tiles[0]), args.tiles[0], True)
        ]
        for model, tile, deployed in jobs:
            result = compare(model, name, tile, deployed, args.repeats)
            base = reference.setdefault(tile, result.milliseconds)
            results.append(result)
            print(show(result, base), flush=True)
    if args.json:
        args.json.write_text(json.dumps([asdict(r) for r in results], indent=2) + "\n", encoding="utf-8")
    return 0 if all(r.holds for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
