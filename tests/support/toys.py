"""What several test modules build upon: tiny models and rasters, made on the spot."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import rasterio
from onnx import TensorProto, helper, numpy_helper

from rsedge.model.bundle import METADATA_KEY, write_bundle_manifest
from rsedge.model.manifest import ClassInfo, Manifest

TILE = 64
SHARED = Path(os.environ.get("RSEDGE_SHARED", Path(__file__).resolve().parents[3] / "shared/data"))
CLASSES = (ClassInfo("red", (200, 0, 0)), ClassInfo("green", (0, 200, 0)), ClassInfo("blue", (0, 0, 200)))


def pointwise_manifest(tile: int = TILE, **changes: object) -> Manifest:
    facts: dict[str, object] = {
        "name": "strongest-band",
        "bands": ("red", "green", "blue"),
        "dtype": "uint8",
        "tile": tile,
        "classes": CLASSES,
        "fill": (120.0, 120.0, 120.0),
    }
    return Manifest(**{**facts, **changes})  # type: ignore[arg-type]


def pointwise_graph(manifest: Manifest, metadata: bool = True) -> onnx.ModelProto:
    """Scores are the bands themselves (a 1x1 convolution), so the mask is each pixel's strongest band."""
    tile = manifest.tile
    weight = numpy_helper.from_array(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), "weight")
    shape = ["batch", 3, tile, tile]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Conv", ["real", "weight"], ["scores"]),
        ],
        "pointwise",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, shape)],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if metadata:
        model.metadata_props.add(key=METADATA_KEY, value=manifest.to_json())
    return model


def make_bundle(folder: Path, manifest: Manifest, graph: onnx.ModelProto) -> Path:
    folder.mkdir(parents=True)
    onnx.save(graph, folder / "model.fp32.onnx")
    write_bundle_manifest(folder, manifest)
    return folder


def read(mask: Path) -> np.ndarray:
    with rasterio.open(mask) as src:
        return src.read(1)


def strongest(pixels: np.ndarray) -> np.ndarray:
    """What that bundle must answer: (3, h, w) to (h, w)."""
    return pixels.astype(np.int32).argmax(0).astype(np.uint8)


shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
