from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from rsedge.errors import ModelError
from rsedge.model.bundle import PRECISIONS, Bundle
from rsedge.model.onnx_metadata import onnx_metadata
from rsedge_export.graph.onnx_file import metadata, save
from toys import TILE, pointwise_graph, pointwise_manifest


def test_a_saved_graph_carries_its_manifest_and_precision_and_nothing_else(tmp_path: Path) -> None:
    manifest = pointwise_manifest()
    for precision in PRECISIONS:
        graph = pointwise_graph(manifest, metadata=False)
        graph.metadata_props.add(key="left over", value="/home/somebody")
        graph.producer_name, graph.producer_version = "pytorch", "2.9"
        save(graph, manifest, precision, path := tmp_path / f"{precision}.onnx")
        opened = Bundle.open(path)
        assert (opened.manifest, opened.precision) == (manifest, precision)
        assert onnx_metadata(path.read_bytes(), "m") == metadata(manifest, precision)
        stored = onnx.load(path)
        assert (stored.producer_name, stored.producer_version) == ("rsedge", "")
        assert stored.graph == graph.graph


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    manifest = pointwise_manifest()
    for name in ("a.onnx", "b.onnx"):
        save(pointwise_graph(manifest), manifest, "fp32", tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def broken(kind: str) -> onnx.ModelProto:
    model = pointwise_graph(pointwise_manifest())
    conv = model.graph.node[1]
    if kind == "wrong type":
        model.graph.node[0].attribute[0].i = TensorProto.FLOAT16
    elif kind == "no such tensor":
        conv.input[0] = "nowhere"
    elif kind == "no such operator":
        conv.op_type = "Convolve"
    elif kind == "wrong shape":
        conv.attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))
    else:
        conv.attribute.append(helper.make_attribute("antialias", 1))
    return model


@pytest.mark.parametrize(
    "kind", ["wrong type", "no such tensor", "no such operator", "wrong shape", "no such attribute"]
)
def test_an_invalid_graph_is_not_written(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelError, match="the fp16 graph is not valid ONNX"):
        save(broken(kind), pointwise_manifest(), "fp16", path)
    assert not list(tmp_path.iterdir())


def test_metadata_serve_rsedge_deepness_and_stac() -> None:
    facts = metadata(pointwise_manifest(gsd_m=(0.25, 1.0)), "fp32")
    assert json.loads(facts["model_type"]) == "Segmentor"
    assert json.loads(facts["class_names"]) == {"0": "red", "1": "green", "2": "blue"}
    assert json.loads(facts["tiles_size"]) == TILE
    assert json.loads(facts["resolution"]) == 50.0  # cm a pixel
    mlm = json.loads(facts["stac_mlm"])
    assert mlm["mlm:input"][0]["input"]["shape"] == [-1, 3, TILE, TILE]
    assert mlm["mlm:input"][0]["input"]["data_type"] == "uint8"
    classes = mlm["mlm:output"][0]["classification:classes"]
    assert [(c["name"], c["color_hint"]) for c in classes] == [
        ("red", "C80000"),
        ("green", "00C800"),
        ("blue", "0000C8"),
    ]


def test_without_a_known_size_of_pixels_there_is_no_resolution() -> None:
    assert "resolution" not in metadata(pointwise_manifest(), "fp32")
