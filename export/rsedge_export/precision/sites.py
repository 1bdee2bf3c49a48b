"""Layers of a graph that can be quantized, and their share of the work."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from rsedge_export.graph.rewrite import attributes
from rsedge_train.nets.grids import work_shares


@dataclass(frozen=True)
class Site:
    """A convolution or a matrix product with constant weights, which INT8 makes faster."""

    name: str  # of the node
    op: str  # "Conv", "Gemm" or "MatMul"
    tensor: str  # its activations
    weight: str  # its weights
    axis: int  # of the output channels in the weights
    shape: tuple[int, ...]  # of the weights
    macs: int  # a tile
    share: float  # of the graph's work: the mean of its shares of MACs and of elements read and written


#: Nodes between layers that can compute in integers, and those that pass integers on.
JOINS, PASSED = {"Add", "Concat", "Resize"}, {"Clip", "Relu", "MaxPool"}


@dataclass(frozen=True)
class Join:
    """A sum, concatenation or resizing of layers' outputs, which stays in INT8 if these are quantized."""

    name: str  # of the node
    tensors: tuple[str, ...]  # its activations


def find_sites(model: onnx.ModelProto) -> list[Site]:
    """Return the layers worth quantizing, in the graph's order.

    Squeeze-excite and spatial attention fall below ``grids.LEAST_SHARE``: their cost is negligible, and OpenVINO
    carries the int8 of such a layer on into the pooling and the concatenation before it.
    """
    shapes = _shapes(model)
    weights = {t.name: tuple(t.dims) for t in model.graph.initializer}
    layers = []
    for node in model.graph.node:
        if node.op_type not in {"Conv", "Gemm", "MatMul"} or node.input[1] not in weights:
            continue
        out, weight = shapes.get(node.output[0]), weights[node.input[1]]
        if out is None or node.input[0] not in shapes or (node.op_type != "Conv" and len(weight) != 2):
            continue
        macs = _macs(node, weight, out)
        elements = int(np.prod(out)) + int(np.prod(shapes[node.input[0]]))
        layers.append((node, weight, macs, elements))
    shares = work_shares([(macs, elements) for _, _, macs, elements in layers]) if layers else []
    return [
        Site(node.name, node.op_type, node.input[0], node.input[1], _channel_axis(node), weight, macs, share)
        for (node, weight, macs, _), share in zip(layers, shares, strict=True)
        if share is not None
    ]


def find_joins(model: onnx.ModelProto, sites: Collection[Site]) -> list[Join]:
    """Return the nodes that join outputs of ``sites`` alone, in the graph's order, but not the last before the scores.

    Without them ONNX Runtime computes a layer before a sum in floating point. A residual stream that
    passes norms or attention is not joined, because rounding it costs too much.
    """
    names = {site.name for site in sites}
    weights = {tensor.name for tensor in model.graph.initializer}
    ends = {output.name for output in model.graph.output}
    whole = set[str]()  # tensors that integers can reach
    found = []
    for node in model.graph.node:
        read = tuple(node.input[:1]) if node.op_type == "Resize" else tuple(node.input)
        is_layer = node.name in names or node.op_type == "ConvTranspose"
        is_joined = whole.issuperset(read) and not weights.intersection(read)
        if is_layer or (node.op_type in PASSED and node.input[0] in whole):
            whole.add(node.output[0])
        elif node.op_type in JOINS and is_joined and node.output[0] not in ends:
            whole.add(node.output[0])
            found.append(Join(node.name, read))
    return found


def _channel_axis(node: onnx.NodeProto) -> int:
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and attributes(node).get("transB") else 1


def _macs(node: onnx.NodeProto, weight: tuple[int, ...], out: tuple[int, ...]) -> int:
    if node.op_type == "Conv":
        return int(np.prod(weight[1:])) * int(np.prod(out))
    return weight[1 - _channel_axis(node)] * int(np.prod(out))


def _shapes(model: onnx.ModelProto) -> Mapping[str, tuple[int, ...]]:
    """Return shapes of all tensors at batch 1, as far as ONNX can infer them."""
    single = onnx.ModelProto()
    single.CopyFrom(model)
    single.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    for output in single.graph.output:
        output.type.tensor_type.shape.dim[0].Clear()
    del single.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(single, data_prop=True).graph
    found = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if all(d.HasField("dim_value") for d in dims):
            found[value.name] = tuple(d.dim_value for d in dims)
    return found
