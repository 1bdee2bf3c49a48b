"""What of building an engine needs no TensorRT: which ONNX, its opset and precisions, the engine's report, refusals.

Nothing here builds an engine. That its calls are right is shown in tests/bindings, as far as it can be without a GPU.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rsedge.bundle import write_bundle_manifest
from rsedge.errors import BackendError, InputError, ModelError
from rsedge_export.trt import TrtOptions, _check_memory, build_engine, check_opset, open_source
from rsedge_export.trt_check import EngineFacts, GraphFacts, problem
from toys import make_bundle, pointwise_graph, pointwise_manifest

OLD, NEW = SimpleNamespace(__version__="8.6.1"), SimpleNamespace(__version__="10.3.0")
NO_NAMES: frozenset[str] = frozenset()


def chain(quantized: int, halved: int, plain: int, opset: int = 17) -> onnx.ModelProto:
    """Convolutions one after the other: between Q/DQ nodes, with half weights, with float weights."""
    nodes: list[Any] = []
    weights = [numpy_helper.from_array(np.float32(1), "s"), numpy_helper.from_array(np.int8(0), "z")]
    last = "x"
    for at, kind in enumerate(["q"] * quantized + ["h"] * halved + ["f"] * plain):
        dtype = np.float16 if kind == "h" else np.float32
        weights.append(numpy_helper.from_array(np.ones((1, 1, 1, 1), dtype), f"w{at}"))
        if kind == "q":
            nodes.append(helper.make_node("QuantizeLinear", [last, "s", "z"], [f"q{at}"], f"Q{at}"))
            nodes.append(helper.make_node("DequantizeLinear", [f"q{at}", "s", "z"], [f"d{at}"], f"D{at}"))
            last = f"d{at}"
        nodes.append(helper.make_node("Conv", [last, f"w{at}"], [f"c{at}"], f"/conv{at}/Conv"))
        last = f"c{at}"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, 8, 8]) for n in ("x", last)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    imports = [helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports)


def read_graph(model: onnx.ModelProto, tmp_path: Path) -> GraphFacts:
    onnx.save(model, tmp_path / "g.onnx")
    return GraphFacts.read(tmp_path / "g.onnx")


def engine(*layers: tuple[str, str, str]) -> str:
    """Inspector JSON of (kind, type of the input, ONNX node)."""
    return json.dumps(
        {
            "Layers": [
                {
                    "Name": f"__myl_{kind}_{at}",
                    "LayerType": kind,
                    "Inputs": [{"Name": "x", "Dimensions": [1, 1, 8, 8], "Format/Datatype": dtype}],
                    "Metadata": f"[ONNX Layer: {node}]",
                }
                for at, (kind, dtype, node) in enumerate(layers)
            ]
        }
    )


def test_a_graph_is_read_without_the_onnx_package(tmp_path: Path) -> None:
    facts = read_graph(chain(3, 2, 1, opset=19), tmp_path)
    assert (facts.opset, facts.quantized, facts.halved) == (19, 3, 2)
    assert facts.convolutions == {f"/conv{i}/Conv" for i in range(6)}
    assert (facts.share("int8"), facts.share("fp16")) == (0.5, 2 / 6)


@pytest.mark.parametrize("content", [b"", b"not an onnx file", b"\x0a\xff\xff"])
def test_what_is_no_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="is not an ONNX file"):
        GraphFacts.read(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [
        ("Thirty-two wide channel vectorized row major Int8 format", "INT8"),
        ("Int8", "INT8"),
        ("Channel major FP16 format where channel % 8 == 0", "FP16"),
        ("Half", "FP16"),
        ("BFloat16", "BF16"),
        ("Row major linear FP32", "FP32"),
        ("Float", "FP32"),
        ("Row major linear UInt8 format", "other"),
        ("Int32", "other"),
    ],
)
def test_the_inspectors_words_for_types(dtype: str, precision: str) -> None:
    facts = EngineFacts.read(engine(("CaskConvolution", dtype, "")), NO_NAMES)
    assert facts.convolutions == facts.layers == {precision: 1}


def test_convolutions_are_found_in_compiled_blocks_and_copies_are_not_counted() -> None:
    text = engine(
        ("Reformat", "Float", "/a/Conv"),
        ("fusion", "Int8", "/a/Conv"),
        ("kgen", "Half", "/relu"),
        ("CaskGemmConvolution", "Half", "/b/Conv"),
        ("Constant", "Float", ""),
    )
    facts = EngineFacts.read(text, frozenset({"/a/Conv", "/b/Conv"}))
    assert facts.convolutions == {"INT8": 1, "FP16": 1}
    assert facts.layers == {"INT8": 1, "FP16": 2}


def test_an_unreadable_inspector_is_an_error() -> None:
    for text in ("", "[]", '{"layers": []}'):
        with pytest.raises(ModelError, match="no readable answer"):
            EngineFacts.read(text, NO_NAMES)
    assert EngineFacts.read('{"Layers": ["names", "only"]}', NO_NAMES).layers == {}


@pytest.mark.parametrize(
    ("precision", "layers", "fine"),
    [
        ("int8", {"Int8": 8, "Half": 2}, True),  # what the exporter left float stays so
        ("int8", {"Int8": 7, "Half": 3}, True),
        ("int8", {"Int8": 6, "Half": 4}, False),
        ("int8", {"Half": 10}, False),
        ("int8", {"Float": 10}, False),
        ("fp16", {"Half": 9, "Float": 1}, True),
        ("fp16", {"Half": 6, "Float": 4}, False),
        ("fp16", {"Float": 10}, False),
        ("fp32", {"Float": 10}, True),
    ],
)
def test_an_engine_is_what_was_asked_for_or_a_problem(
    tmp_path: Path, precision: str, layers: dict[str, int], fine: bool
) -> None:
    graph = read_graph(chain(8, 0, 2) if precision == "int8" else chain(0, 9, 1), tmp_path)
    shown = [("CaskConvolution", dtype, "") for dtype, count in layers.items() for _ in range(count)]
    found = problem(precision, graph, EngineFacts.read(engine(*shown), graph.convolutions))
    assert (found is None) == fine
    assert fine or f"{precision} was asked for" in str(found)


def test_an_engine_that_shows_no_convolution_must_show_the_precision(tmp_path: Path) -> None:
    graph = read_graph(chain(4, 0, 0), tmp_path)
    blocks = engine(("Myelin", "Float", ""), ("Myelin", "Int8", ""))
    assert problem("int8", graph, EngineFacts.read(blocks, graph.convolutions)) is None
    found = problem("int8", graph, EngineFacts.read(engine(("Myelin", "Float", "")), graph.convolutions))
    assert "none is shown as a convolution" in str(found)
    assert "run: none" in str(problem("int8", graph, EngineFacts({}, {})))


def test_a_graph_that_is_not_of_the_precision_is_a_problem(tmp_path: Path) -> None:
    graph = read_graph(chain(0, 0, 3), tmp_path)
    assert problem("int8", graph, EngineFacts({"INT8": 3}, {})) == "the ONNX has no quantized convolution"


def full_bundle(tmp_path: Path, **facts: object) -> Path:
    manifest = pointwise_manifest(**facts)
    folder = make_bundle(tmp_path / "full.rsedge", manifest, pointwise_graph(manifest))
    for name in ("fp16", "int8", "int8-trt8", "int8-trt10"):
        onnx.save(pointwise_graph(manifest), folder / f"model.{name}.onnx")
    write_bundle_manifest(folder, manifest)
    return folder


@pytest.mark.parametrize(
    ("trt", "precision", "name"),
    [
        (OLD, "fp16", "model.fp16.onnx"),
        (NEW, "fp16", "model.fp16.onnx"),
        (OLD, "int8", "model.int8-trt8.onnx"),
        (NEW, "int8", "model.int8-trt10.onnx"),
        (NEW, "fp32", "model.fp32.onnx"),
    ],
)
def test_which_onnx_is_built_from(tmp_path: Path, trt: Any, precision: str, name: str) -> None:
    assert open_source(trt, full_bundle(tmp_path), precision).artifact.name == name


def test_what_cannot_be_built_is_refused(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(InputError, match="precision 'int4' is unknown"):
        open_source(NEW, bundle, "int4")
    with pytest.raises(InputError, match="is a file"):
        open_source(NEW, bundle / "model.fp32.onnx", "fp32")
    with pytest.raises(ModelError, match="has no model.fp16.onnx"):
        open_source(NEW, bundle, "fp16")
    with pytest.raises(ModelError, match=r"uint16 pixels, which TensorRT has no input for"):
        open_source(NEW, full_bundle(tmp_path, dtype="uint16"), "fp16")


def test_an_opset_that_tensorrt_8_does_not_parse(bundle: Path) -> None:
    source = open_source(OLD, bundle, "fp32")
    graph = GraphFacts.read(source.artifact)
    with pytest.raises(
        ModelError, match=r"unsupported opset: .* opset 18, TensorRT 8\.6\.1 .* 17; use --precision fp16"
    ):
        check_opset(OLD, source, graph)
    check_opset(NEW, source, graph)


def test_too_little_memory_is_said_before_building(bundle: Path) -> None:
    source = open_source(NEW, bundle, "fp32")
    with pytest.raises(BackendError, match="256 MiB of device memory, 100 MiB are free"):
        _check_memory(source, 100 << 20)
    _check_memory(source, 1 << 30)


def test_without_tensorrt_nothing_is_written(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match="TensorRT is not installed"):
        build_engine(bundle, "fp32")
    assert not (bundle / "engines").exists()


@pytest.mark.parametrize("options", [{"level": 6}, {"workspace_bytes": 5}])
def test_impossible_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InputError):
        TrtOptions(**options)


def test_the_builder_needs_neither_torch_nor_onnx() -> None:
    """It runs on a Jetson."""
    import subprocess

    code = (
        "import sys\nfor m in ('torch', 'onnx', 'rsedge_train', 'onnxruntime'): sys.modules[m] = None\n"
        "import rsedge_export.trt, rsedge.backends.tensorrt"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
