"""Bundles of several artifacts, one file a precision, all of them tiny."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from rsedge.model.bundle import PRECISION_KEY, write_bundle_manifest
from rsedge.model.manifest import Manifest
from toys import pointwise_graph


def graph_of(
    manifest: Manifest, precision: str = "fp32", gains: tuple[float, ...] = (1, 1, 1)
) -> onnx.ModelProto:
    """Scores are the bands, each times its gain; with other gains than 1 it is another network."""
    model = pointwise_graph(manifest)
    weight = np.diag(gains).astype(np.float32).reshape(3, 3, 1, 1)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "weight"))
    model.metadata_props.add(key=PRECISION_KEY, value=precision)
    return model


def nan_graph(manifest: Manifest, precision: str) -> onnx.ModelProto:
    """Scores are logarithms of negative numbers."""
    model = graph_of(manifest, precision, (-1, -1, -1))
    model.graph.node[1].output[0] = "negative"
    model.graph.node.append(helper.make_node("Log", ["negative"], ["scores"]))
    return model


def make_artifacts(
    folder: Path,
    manifest: Manifest,
    graphs: Mapping[str, onnx.ModelProto],
    report: object = None,
    reference: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """A bundle with one ONNX file a precision, and what an exporter puts beside them."""
    folder.mkdir(parents=True)
    for precision, graph in graphs.items():
        onnx.save(graph, folder / f"model.{precision}.onnx")
    if report is not None:
        (folder / "report.json").write_text(json.dumps(report))
    if reference is not None:
        np.savez(folder / "reference.npz", **reference)
    write_bundle_manifest(folder, manifest)
    return folder
