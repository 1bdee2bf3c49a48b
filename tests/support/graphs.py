"""Small ONNX graphs "pixels" -> "scores" for the tests of what the export does to graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str | None]


def graph(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, np.ndarray],
    shape: Shape,
    out: Shape,
    *,
    dtype: int = TensorProto.FLOAT,
    opset: int = 18,
) -> onnx.ModelProto:
    """Nodes without a name get that of their first output, as keep_fp32 and sites go by names."""
    for node in nodes:
        node.name = node.name or f"node_{node.output[0]}"
    built = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("pixels", dtype, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(built, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(
    model: onnx.ModelProto, pixels: np.ndarray, *, exact: bool = True, **others: np.ndarray
) -> np.ndarray:
    """The scores by ONNX Runtime; ``exact``: without any optimisation."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if exact:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"pixels": pixels, **others})
    return np.asarray(scores)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor, as shape inference finds it; fails where it cannot type one."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    found = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input)}
    found.update({v.name: v.type.tensor_type.elem_type for v in inferred.output})
    found.update({t.name: t.data_type for t in inferred.initializer})
    missing = {name for node in inferred.node for name in node.output} - found.keys()
    assert not missing, missing
    return found


def node_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    (node,) = (n for n in model.graph.node if n.name == name)
    return node


def tensor_of(model: onnx.ModelProto, name: str) -> np.ndarray:
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    return numpy_helper.to_array(tensor)


def make(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], **attributes)
