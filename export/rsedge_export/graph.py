"""From a torch network to an ONNX graph that takes raw pixels."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from rsedge.bundle import METADATA_KEY
from rsedge.files import whole_or_nothing
from rsedge.manifest import Manifest

OPSET = 18
SMALL = 256  # elements; below this a halved initializer saves less than its Cast node costs


class RawInput(nn.Module):
    """``net`` with its preprocessing in front: bands as stored go in.

    (N, bands, H, W) of any real dtype to scores (N, classes, H, W) float32, where ``net`` expects
    ``(value / max_value - mean) / std`` per band.
    """

    def __init__(
        self, net: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], max_value: float
    ) -> None:
        super().__init__()
        self.net = net
        self.gain: Tensor
        self.offset: Tensor
        shape = (1, len(mean), 1, 1)
        self.register_buffer("gain", 1 / (torch.tensor(std).view(shape) * max_value))
        self.register_buffer("offset", torch.tensor(mean).view(shape) / torch.tensor(std).view(shape))

    def forward(self, pixels: Tensor) -> Tensor:
        """Scores of raw pixels."""
        scores: Tensor = self.net(pixels.float() * self.gain - self.offset)
        return scores


def export_onnx(model: nn.Module, manifest: Manifest, path: Path, *, halve: bool = True) -> None:
    """Write ``model`` (raw pixels in, scores out) as ONNX: batch free, tile fixed.

    The manifest's facts go into the file's metadata. With ``halve`` weights are rounded to fp16 in the file and cast
    to fp32 by the graph; runtimes fold that cast when they load it, so it costs nothing to run.
    """
    example = torch.zeros(
        2, len(manifest.bands), manifest.tile, manifest.tile, dtype=getattr(torch, manifest.dtype)
    )
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own internals
        program = torch.onnx.export(
            model.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["pixels"],
            output_names=["scores"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    _strip_debug(graph)
    if halve:
        halve_stored_weights(graph)
    del graph.metadata_props[:]
    for key, value in metadata(manifest).items():
        graph.metadata_props.add(key=key, value=value)
    graph.producer_name, graph.producer_version = "rsedge", ""
    onnx.checker.check_model(graph, full_check=True)
    with whole_or_nothing(path) as partial:
        partial.write_bytes(graph.SerializeToString(deterministic=True))


def metadata(manifest: Manifest) -> Mapping[str, str]:
    """The manifest as ONNX metadata: rsedge's own, QGIS Deepness's keys, STAC MLM's fields."""
    names = {str(i): c.name for i, c in enumerate(manifest.classes)}
    tile, bands = manifest.tile, len(manifest.bands)
    mlm: dict[str, Any] = {
        "mlm:name": manifest.name,
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:framework": "ONNX",
        "mlm:input": [
            {
                "name": "pixels",
                "bands": list(manifest.bands),
                "input": {
                    "shape": [-1, bands, tile, tile],
                    "dim_order": ["batch", "bands", "height", "width"],
                    "data_type": manifest.dtype,
                },
            }
        ],
        "mlm:output": [
            {
                "name": "scores",
                "tasks": ["semantic-segmentation"],
                "result": {
                    "shape": [-1, len(names), tile, tile],
                    "dim_order": ["batch", "class", "height", "width"],
                    "data_type": "float32",
                },
                "classification:classes": [
                    {"value": i, "name": c.name, "color_hint": "{:02X}{:02X}{:02X}".format(*c.color)}
                    for i, c in enumerate(manifest.classes)
                ],
            }
        ],
    }
    deepness = {
        "model_type": json.dumps("Segmentor"),
        "class_names": json.dumps(names),
        "tiles_size": json.dumps(tile),
        "tiles_overlap": json.dumps(25),
    }
    if manifest.gsd_m:
        deepness["resolution"] = json.dumps(round(100 * float(np.sqrt(np.prod(manifest.gsd_m))), 1))
    return {METADATA_KEY: manifest.to_json(), "stac_mlm": json.dumps(mlm), **deepness}


def halve_stored_weights(graph: onnx.ModelProto) -> None:
    """Store large fp32 initializers as fp16 with a Cast behind each; arithmetic stays fp32."""
    casts = []
    for tensor in graph.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < SMALL:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, f"{name}.fp16"))
        casts.append(
            helper.make_node("Cast", [tensor.name], [name], name=f"{name}.fp32", to=TensorProto.FLOAT)
        )
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    # Types of the graph's inner values are inferred again by whoever loads it.
    kept = [v for v in graph.graph.value_info if v.name not in {c.output[0] for c in casts}]
    del graph.graph.value_info[:]
    graph.graph.value_info.extend(kept)


def _strip_debug(graph: onnx.ModelProto) -> None:
    """Drop the exporter's notes: they hold stack traces with the paths of this machine."""
    graph.doc_string = ""
    graph.graph.doc_string = ""
    holders = [graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.initializer]
    for holder in (*holders, *graph.graph.input, *graph.graph.output):
        del holder.metadata_props[:]
        holder.doc_string = ""
