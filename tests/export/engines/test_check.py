"""What an ONNX asks for, what an engine's inspector says, and whether they fit. Nothing here builds an engine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rsedge.errors import ModelError
from rsedge_export.engines.check import EngineFacts, GraphFacts, Nodes, problem
from rsedge_export.precision.qdq import quantize
from rsedge_export.precision.sites import find_sites
from rsedge_train.nets.grids import Scale
from toys import pointwise_graph, pointwise_manifest

NO_NAMES = GraphFacts(17, frozenset(), {})


def chain(
    quantized: int, halved: int, plain: int, opset: int = 17, op: str = "Conv", stored_float: bool = False
) -> onnx.ModelProto:
    """Layers one after the other: behind Q/DQ nodes, with half weights, with float weights.

    ``stored_float``: as for TensorRT 8, quantized weights are floats with a QuantizeLinear of their own.
    """
    nodes: list[Any] = []
    weights = [numpy_helper.from_array(np.float32(1), "s"), numpy_helper.from_array(np.int8(0), "z")]

    def add(kind: str, inputs: list[str], output: str, name: str) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], name))
        return output

    last = "x"
    for at, kind in enumerate(["q"] * quantized + ["h"] * halved + ["f"] * plain):
        stored = np.float32 if stored_float else np.int8
        dtype = {"q": stored, "h": np.float16, "f": np.float32}[kind]
        shape = (1, 1, 1, 1) if op == "Conv" else (8, 8)
        weights.append(numpy_helper.from_array(np.ones(shape, dtype), weight := f"w{at}"))
        if kind == "q":
            last = add("QuantizeLinear", [last, "s", "z"], f"q{at}", f"Q{at}")
            last = add("DequantizeLinear", [last, "s", "z"], f"d{at}", f"D{at}")
            if stored_float:
                weight = add("QuantizeLinear", [weight, "s", "z"], f"wq{at}", f"WQ{at}")
            weight = add("DequantizeLinear", [weight, "s", "z"], f"wd{at}", f"WD{at}")
        last = add(op, [last, weight], f"c{at}", f"/layer{at}/{op}")
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
    found = facts.kinds["convolution"]
    assert (facts.opset, found.quantized, found.halved) == (19, 3, 2)
    assert found.names == {f"/layer{i}/Conv" for i in range(6)}
    assert (found.share("int8"), found.share("fp16")) == (0.5, 2 / 6)
    assert {"Q0", "D0", "WD2", "/layer5/Conv"} <= facts.nodes
    assert facts.kinds["matrix product"] == Nodes()


@pytest.mark.parametrize("stored_float", [False, True])
@pytest.mark.parametrize("op", ["Conv", "Gemm", "MatMul"])
def test_weights_of_either_form_are_quantized(tmp_path: Path, op: str, stored_float: bool) -> None:
    facts = read_graph(chain(2, 1, 1, op=op, stored_float=stored_float), tmp_path)
    kind, other = ("convolution", "matrix product") if op == "Conv" else ("matrix product", "convolution")
    assert (facts.kinds[kind].quantized, facts.kinds[kind].halved, len(facts.kinds[kind].names)) == (2, 1, 4)
    assert facts.kinds[other] == Nodes()


@pytest.mark.parametrize("slot", [0, 1])
def test_one_input_dequantized_is_not_int8(tmp_path: Path, slot: int) -> None:
    model = chain(1, 0, 0)
    model.graph.node[-1].input[slot] = "x"
    assert read_graph(model, tmp_path).kinds["convolution"].quantized == 0


@pytest.mark.parametrize("stored_float", [False, True])
def test_what_ships_is_counted(tmp_path: Path, stored_float: bool) -> None:
    """The exporter's own quantizer."""
    model = pointwise_graph(pointwise_manifest())
    model.graph.node[1].name = "conv"
    sites = find_sites(model)
    scales = {"real": Scale(1.0, 0)}
    made = quantize(model, sites, {"conv"}, scales, unsigned=False, stored_float=stored_float)
    assert read_graph(made, tmp_path).kinds["convolution"] == Nodes(frozenset({"conv"}), 1, 0)


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
    named = Nodes(frozenset({"/a/Conv", "/b/Conv"}), 1, 1)
    facts = EngineFacts.read(text, GraphFacts(17, frozenset(), {"convolution": named}))
    assert facts.convolutions == {"INT8": 1, "FP16": 1}
    assert facts.layers == {"INT8": 1, "FP16": 2}


@pytest.mark.parametrize(
    ("kind", "node", "counted"),
    [
        ("CaskConvolution", "", "convolution"),
        ("CaskGemmConvolution", "", "convolution"),
        ("CaskGemmMatrixMultiply", "", "matrix product"),
        ("MatrixMultiply", "", "matrix product"),
        ("gemm", "", "matrix product"),
        ("gemm", "/c", "convolution"),
        ("kgen", "/m", "matrix product"),
        ("PointWiseV2", "", None),
        ("kgen", "/other", None),
    ],
)
def test_layers_are_counted_by_kind(kind: str, node: str, counted: str | None) -> None:
    kinds = {"convolution": Nodes(frozenset({"/c"})), "matrix product": Nodes(frozenset({"/m"}))}
    facts = EngineFacts.read(engine((kind, "Int8", node)), GraphFacts(17, frozenset(), kinds))
    assert {k for k, count in facts.kinds.items() if count} == ({counted} if counted else set())


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
    for op, layer in (("Conv", "CaskConvolution"), ("MatMul", "MatrixMultiply"), ("Gemm", "gemm")):
        graph = read_graph(chain(8, 0, 2, op=op) if precision == "int8" else chain(0, 9, 1, op=op), tmp_path)
        shown = [(layer, dtype, "") for dtype, count in layers.items() for _ in range(count)]
        found = problem(precision, graph, EngineFacts.read(engine(*shown), graph))
        assert (found is None) == fine
        assert fine or f"{precision} was requested" in str(found)


def test_each_kind_must_run_so_for_itself(tmp_path: Path) -> None:
    """A transformer whose matrix products are in compiled blocks is not judged by its few convolutions."""
    graph = read_graph(chain(8, 0, 0, op="MatMul"), tmp_path)
    plain = Nodes(frozenset({"/patch"}))
    graph = replace(graph, kinds={**graph.kinds, "convolution": plain})
    block, patch = ("Myelin", "Int8", ""), ("CaskConvolution", "Float", "")
    assert problem("int8", graph, EngineFacts.read(engine(block, patch), graph)) is None
    found = problem("int8", graph, EngineFacts.read(engine(("Myelin", "Half", ""), patch), graph))
    assert "100% of the ONNX's 8 matrix products have it" in str(found)
    assert "none is shown as a matrix product" in str(found)
    both = replace(graph, kinds={**graph.kinds, "convolution": replace(plain, quantized=1)})
    found = problem("int8", both, EngineFacts.read(engine(block, patch), both))
    assert "1 convolutions have it, but the engine's convolutions run as: 1 in FP32" in str(found)


def test_an_engine_that_shows_no_convolution_must_show_the_precision(tmp_path: Path) -> None:
    graph = read_graph(chain(4, 0, 0), tmp_path)
    blocks = engine(("Myelin", "Float", ""), ("Myelin", "Int8", ""))
    assert problem("int8", graph, EngineFacts.read(blocks, graph)) is None
    found = problem("int8", graph, EngineFacts.read(engine(("Myelin", "Float", "")), graph))
    assert "none is shown as a convolution" in str(found)
    assert "run as: none" in str(problem("int8", graph, EngineFacts({}, {})))


def test_a_graph_that_is_not_of_the_precision_is_a_problem(tmp_path: Path) -> None:
    graph = read_graph(chain(0, 0, 3), tmp_path)
    some = EngineFacts({"convolution": {"INT8": 3}}, {})
    assert problem("int8", graph, some) == "the ONNX has no quantized convolution and no matrix product"
    assert problem("fp16", graph, some) == "the ONNX has no fp16 convolution and no matrix product"
    assert problem("fp32", graph, some) is None
