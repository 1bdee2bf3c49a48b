"""Inputs of peers.py beyond streaming_inputs.py, written in a separate process.

python peers_inputs.py b0 '{"folder": "..."}'
python peers_inputs.py nodata '{"raster": "town.tif", "out": "..."}'
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import rasterio
from onnx import TensorProto, helper, numpy_helper
from streaming_inputs import geodeep_metadata
from streaming_peers import Facts, report

from rsedge.model.bundle import DEFAULT_BUNDLE
from rsedge.model.manifest import Manifest


def write_b0(folder: str) -> Facts:
    """Write the default model's fp32 file, and a copy for geodeep."""
    source, out = DEFAULT_BUNDLE / "model.fp32.onnx", Path(folder, "b0-geodeep.onnx")
    manifest = Manifest.from_json((DEFAULT_BUNDLE / "manifest.json").read_text("utf-8"), "manifest.json")
    names = {str(i): c.name for i, c in enumerate(manifest.classes)}
    model = for_geodeep(onnx.load(source), {**geodeep_metadata(), "class_names": json.dumps(names)})
    onnx.save(model, out)
    return {"onnx": str(source), "geodeep": str(out)}


def for_geodeep(model: onnx.ModelProto, metadata: dict[str, str]) -> onnx.ModelProto:
    """Return a copy of a graph of stored pixels (uint8) that takes geodeep's input: float32, divided by 255."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph, (pixels,) = copy.graph, copy.graph.input
    stored = pixels.name
    pixels.name, pixels.type.tensor_type.elem_type = "scaled", TensorProto.FLOAT
    graph.initializer.append(numpy_helper.from_array(np.array(255, np.float32), "as_stored"))
    graph.node.insert(0, helper.make_node("Mul", ["scaled", "as_stored"], [stored], name="as_stored.mul"))
    del copy.metadata_props[:]
    for key, value in metadata.items():
        copy.metadata_props.add(key=key, value=value)
    return copy


def write_nodata(raster: str, out: str) -> Facts:
    """Write the raster's pixels with nodata 0 in the right third only."""
    with rasterio.open(raster) as src:
        pixels, profile = np.maximum(src.read(), 1), src.profile
    pixels[:, :, 2 * pixels.shape[2] // 3 :] = 0
    with rasterio.open(out, "w", **{**profile, "nodata": 0}) as dst:
        dst.write(pixels)
    return {"raster": out}


if __name__ == "__main__":
    report({"b0": write_b0, "nodata": write_nodata})
