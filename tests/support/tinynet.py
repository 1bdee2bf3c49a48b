"""A convolutional network of a few layers, as ONNX and in torch, for what the export makes of a bundle."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from graphs import graph, make, normal
from rsedge.model.bundle import write_bundle_manifest
from rsedge.model.manifest import Manifest
from rsedge_export.graph.onnx_file import save
from toys import pointwise_manifest

MANIFEST = pointwise_manifest(name="tiny")
WIDTH, LAYERS = 6, 4
LAYER_NAMES = tuple(f"node_conv{i}" for i in range(LAYERS))
STRETCH = 512.0


def weights() -> list[NDArray[np.float32]]:
    """Of each layer: smoothing, with a little of the other channels, so that scores are the smoothed bands."""
    sides = [(WIDTH, 3), *[(WIDTH, WIDTH)] * (LAYERS - 2), (3, WIDTH)]
    return [
        (np.eye(*side, dtype=np.float32) + normal(*side, seed=i, scale=0.1))[:, :, None, None]
        * np.full((3, 3), 1 / 9, np.float32)
        for i, side in enumerate(sides)
    ]


def tiny_graph(fragile: Collection[int] = (), raw: bool = True) -> onnx.ModelProto:
    """Scores of pixels as stored (``raw``) or of float32 in 0..1, and then a file as others write it.

    One channel of a ``fragile`` layer's input is STRETCH times the others, and its weights undo that. The
    channels share one scale, so in INT8 the others vanish; in floating point nothing changes.
    """
    side = MANIFEST.tile
    nodes, known, x = [], {}, "pixels"
    if raw:
        nodes += [make("Cast", [x], "real", to=TensorProto.FLOAT), make("Mul", ["real", "gain"], "scaled")]
        known["gain"], x = np.full((1, 1, 1, 1), 1 / 255, np.float32), "scaled"
    for i, weight in enumerate(weights()):
        if i in fragile:
            factors = np.ones((1, weight.shape[1], 1, 1), np.float32)
            factors[0, 0] = STRETCH
            known[f"factors{i}"], weight = factors, weight / factors  # noqa: PLW2901
            nodes.append(make("Mul", [x, f"factors{i}"], f"stretched{i}"))
            x = f"stretched{i}"
        known[f"w{i}"] = weight
        last = i == LAYERS - 1
        nodes.append(make("Conv", [x, f"w{i}"], "scores" if last else f"conv{i}", pads=[1, 1, 1, 1]))
        nodes[-1].name = LAYER_NAMES[i]
        if not last:
            nodes.append(make("Relu", [f"conv{i}"], f"relu{i}"))
            x = f"relu{i}"
    shape = ["batch", 3, side, side]
    return graph(nodes, known, shape, shape, dtype=TensorProto.UINT8 if raw else TensorProto.FLOAT)


def tiny_answer(values: NDArray[Any]) -> NDArray[np.float32]:
    """What it must answer to (n, 3, h, w) in 0..1: in torch, float64, whichever layers are fragile."""
    x = torch.from_numpy(np.asarray(values, np.float64))
    for i, weight in enumerate(weights()):
        x = torch.nn.functional.conv2d(x, torch.from_numpy(weight.astype(np.float64)), padding=1)
        x = x.relu() if i < LAYERS - 1 else x
    return x.numpy().astype(np.float32)


def tiny_bundle(folder: Path, fragile: Collection[int] = (), manifest: Manifest = MANIFEST) -> Path:
    """A bundle of its fp32 master alone."""
    folder.mkdir(parents=True)
    save(tiny_graph(fragile), manifest, "fp32", folder / "model.fp32.onnx")
    write_bundle_manifest(folder, manifest)
    return folder
