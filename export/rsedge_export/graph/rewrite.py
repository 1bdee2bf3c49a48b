"""Exact rewrites of an ONNX graph for runtimes with older opsets or missing operators."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from rsedge.errors import ModelError

LARGEST = 65504.0  # of fp16
SMALL = 256  # elements; below this size a halved constant saves less than its Cast costs
LINEAR = ("QuantizeLinear", "DequantizeLinear")  # their scales may be too small for fp16
SPATIAL = ({2, 3}, {-2, -1})
REDUCTIONS = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare")
RESIZE_18 = {"antialias": 0, "keep_aspect_ratio_policy": b"stretch"}  # defaults of what opset 18 added


def constants(model: onnx.ModelProto) -> dict[str, NDArray]:  # type: ignore[type-arg]
    """Return initializers by name."""
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    """Return a node's attributes as Python values."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def drop_unused(model: onnx.ModelProto) -> None:
    """Drop initializers that no node reads, and the stored shapes, which are inferred again."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [t for t in model.graph.initializer if t.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    del model.graph.value_info[:]


def pool_spatial_means(model: onnx.ModelProto) -> None:
    """Replace ReduceMean over height and width by the equivalent GlobalAveragePool.

    TensorRT before 10.0 gives wrong answers for a ReduceMean whose axes are an input (TensorRT #3467), and
    pooling accumulates in fp32 even if its tensors are fp16.
    """
    known, ranks = constants(model), _ranks(model)
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or not attributes(node).get("keepdims", 1):
            continue
        if ranks.get(node.input[0]) == 4 and set(_axes(node, known) or ()) in SPATIAL:
            pooled = helper.make_node("GlobalAveragePool", node.input[:1], node.output, name=node.name)
            node.CopyFrom(pooled)
    drop_unused(model)


def to_opset_17(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of an opset 18 graph in opset 17, the newest that TensorRT 8.x reads.

    Undoes the changes of opset 18 in the operators that our networks use: axes of reductions were an
    attribute, Resize and Split lacked attributes that have default values in our graphs. The checker in ``save``
    finds any other newer feature.

    Raises ModelError if an operator uses a feature missing in opset 17.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = constants(copy)
    for node in copy.graph.node:
        if node.op_type in REDUCTIONS and node.op_type != "ReduceSum":  # ReduceSum's axes moved in opset 13
            _axes_to_attribute(node, known)
        elif node.op_type == "Resize":
            _drop_defaults(node, RESIZE_18)
        elif node.op_type == "Split":
            kept = [a for a in node.attribute if a.name != "num_outputs"]  # implied by the outputs
            del node.attribute[:]
            node.attribute.extend(kept)
    drop_unused(copy)
    set_opset(copy, 17)
    return copy


def set_opset(model: onnx.ModelProto, version: int) -> None:
    """Declare the opset; the nodes must already conform to it."""
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", version))
    model.ir_version = min(model.ir_version, 8 if version <= 17 else 9)


def _ranks(model: onnx.ModelProto) -> Mapping[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    return {v.name: len(v.type.tensor_type.shape.dim) for v in values if v.type.tensor_type.HasField("shape")}


def _axes(node: onnx.NodeProto, known: Mapping[str, NDArray]) -> list[int] | None:  # type: ignore[type-arg]
    if len(node.input) < 2 or not node.input[1]:
        found = attributes(node).get("axes")
        return list(found) if isinstance(found, list) else None
    values = known.get(node.input[1])
    return None if values is None else [int(v) for v in values]


def _axes_to_attribute(node: onnx.NodeProto, known: Mapping[str, NDArray]) -> None:  # type: ignore[type-arg]
    given = len(node.input) > 1 and node.input[1] != ""
    axes = _axes(node, known) if given else []
    if axes is None:
        raise ModelError(
            f"{node.name} ({node.op_type}) computes its axes, which opset 17 and TensorRT 8 cannot"
        )
    if not axes and attributes(node).get("noop_with_empty_axes"):
        raise ModelError(
            f"{node.name} ({node.op_type}) has no axes and reduces nothing, which opset 17 cannot"
        )
    kept = [a for a in node.attribute if a.name != "noop_with_empty_axes"]
    del node.input[1:]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("axes", axes)] if axes else kept)


def _drop_defaults(node: onnx.NodeProto, defaults: Mapping[str, object]) -> None:
    for name, value in attributes(node).items():
        if name in defaults and value != defaults[name]:
            raise ModelError(f"{node.name} ({node.op_type}) needs {name}={value!r}, which opset 17 lacks")
    kept = [a for a in node.attribute if a.name not in defaults]
    del node.attribute[:]
    node.attribute.extend(kept)


def halve_stored_floats(model: onnx.ModelProto) -> None:
    """Store large fp32 constants as fp16, each followed by a Cast; arithmetic stays fp32.

    CPU runtimes fold the casts when they load the file. TensorRT's parser needs weights without a Cast.
    """
    casts = []
    scales = {n for node in model.graph.node if node.op_type in LINEAR for n in node.input[1:]}
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < SMALL or tensor.name in scales:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        if np.abs(values).max() > LARGEST:
            continue
        values = values.astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, f"{name}.fp16"))
        cast = helper.make_node("Cast", [tensor.name], [name], name=f"{name}.fp32", to=TensorProto.FLOAT)
        casts.append(cast)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]
