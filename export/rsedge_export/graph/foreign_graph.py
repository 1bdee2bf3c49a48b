"""Rewrites that convert a foreign graph to ours; ``foreign`` checks that its answers stay the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, version_converter

from rsedge.errors import ModelError
from rsedge_export.graph.onnx_file import OPSET
from rsedge_export.graph.rewrite import constants, set_opset

PIXELS, SCORES = "pixels", "scores"
RESERVED = (PIXELS, SCORES, "quantized")  # all other names given by rsedge contain a dot


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators, or 0 if unknown."""
    return next((o.version for o in model.opset_import if not o.domain), 0)


def to_master_opset(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Return a copy in our opset. Raises ModelError if ONNX's converter fails."""
    found = opset_of(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = max(copy.ir_version, 9)  # older versions require weights among the inputs
    if found != OPSET:
        try:
            copy = version_converter.convert_version(copy, OPSET)
        except Exception as error:  # the C++ converter raises undocumented types
            raise ModelError(
                f"{path}: unsupported opset {found} ({first_line(error)}). Export it again with opset_version={OPSET}"
            ) from error
    set_opset(copy, OPSET)
    return copy


def tidy(model: onnx.ModelProto) -> None:
    """Turn constants into initializers, which our rewrites read, and drop unused nodes and notes."""
    graph = model.graph
    kept = list[onnx.NodeProto]()
    needed = {v.name for v in graph.output}
    for node in reversed(graph.node):
        if not needed & set(node.output):
            continue
        values = _constant(node)
        if values is not None:
            graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
            continue
        needed |= {name for name in node.input if name}
        kept.insert(0, node)
    del graph.node[:], graph.value_info[:], graph.quantization_annotation[:]
    del model.metadata_props[:], model.training_info[:], model.functions[:]
    model.doc_string = graph.doc_string = ""
    graph.node.extend(kept)
    for holder in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        holder.doc_string = ""
        del holder.metadata_props[:]


def all_constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Return initializers and the values of Constant nodes, by name."""
    nodes = {n.output[0]: value for n in model.graph.node if (value := _constant(n)) is not None}
    return {**constants(model), **nodes}


def _constant(node: onnx.NodeProto) -> NDArray[Any] | None:
    """Return a Constant node's value; None for other nodes, strings and sparse tensors."""
    if node.op_type != "Constant":
        return None
    (given,) = node.attribute
    value = helper.get_attribute_value(given)
    if given.name == "value":
        return numpy_helper.to_array(value)
    kinds = {
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    return np.array(value, kinds[given.name]) if given.name in kinds else None


def name_nodes(model: onnx.ModelProto) -> None:
    """Give each node a unique name, because quantizer and fp16 conversion find nodes by name."""
    taken = Counter(n.name for n in model.graph.node)
    for i, node in enumerate(model.graph.node):
        if node.name and taken[node.name] == 1:
            continue
        taken[node.name] -= 1
        node.name = f"{node.op_type}_{i}"
        while taken[node.name]:
            node.name += "_"
        taken[node.name] += 1


def free_batch(model: onnx.ModelProto, shape: Sequence[int]) -> None:
    """Declare the batch free; ``shape`` is the output's at any batch. The nodes must still be tested with a batch."""
    set_shape(model.graph.input[0], ("batch", *_shape(model.graph.input[0])[1:]))
    set_shape(model.graph.output[0], ("batch", *shape[1:]))


def parameters(model: onnx.ModelProto) -> int:
    """Count floating-point constants, without the statistics of batch norms."""
    statistics = {
        n for node in model.graph.node if node.op_type == "BatchNormalization" for n in node.input[3:]
    }
    known = constants(model).items()
    return sum(v.size for name, v in known if v.dtype.kind == "f" and name not in statistics)


def rename_clashing(model: onnx.ModelProto) -> None:
    """Rename tensors with reserved names: ``RESERVED``, and "x.scale" beside an "x" to quantize."""
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
    new = dict[str, str]()
    for name in sorted(taken):
        if name in RESERVED or "." in name:
            new[name] = f"{name}_" if name in RESERVED else name.replace(".", "/")
            while new[name] in taken:
                new[name] += "_"
            taken.add(new[name])
    _rename(model, new)


def _rename(model: onnx.ModelProto, new: Mapping[str, str]) -> None:
    graph = model.graph
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = new.get(name, name)
    for holder in (*graph.initializer, *graph.input, *graph.output):
        holder.name = new.get(holder.name, holder.name)


def upsample(model: onnx.ModelProto, factor: int) -> None:
    """Name the output ``SCORES`` and upsample it to the tile's resolution."""
    output = model.graph.output[0]
    if factor == 1:
        _rename(model, {output.name: SCORES})
        return
    batch, classes, height, width = _shape(output)
    scales = np.array([1, 1, factor, factor], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(scales, "scores.scales"))
    model.graph.node.append(
        helper.make_node(
            "Resize", [output.name, "", "scores.scales"], [SCORES], name="scores.upsample", mode="linear",
            coordinate_transformation_mode="half_pixel",
        )
    )  # fmt: skip
    output.name = SCORES
    set_shape(output, (batch, classes, int(height) * factor, int(width) * factor))


def preprocess(
    model: onnx.ModelProto, mean: Sequence[float], std: Sequence[float], max_value: float, dtype: str
) -> None:
    """Put ``value * gain - offset`` before the graph, as in ``graph.RawInput``; the new input is ``PIXELS``."""
    (image,) = model.graph.input
    means, stds = (np.array(v, np.float32).reshape(1, -1, 1, 1) for v in (mean, std))
    gain, offset = np.float32(1) / (stds * np.float32(max_value)), means / stds
    for name, values in (("pixels.gain", gain), ("pixels.offset", offset)):
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    nodes = [
        helper.make_node("Cast", [PIXELS], ["pixels.float"], name="pixels.cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels.float", "pixels.gain"], ["pixels.scaled"], name="pixels.scale"),
        helper.make_node("Sub", ["pixels.scaled", "pixels.offset"], [image.name], name="pixels.shift"),
        *model.graph.node,
    ]
    kind, shape = helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), _shape(image)
    del model.graph.node[:], model.graph.input[:]
    model.graph.node.extend(nodes)
    model.graph.input.append(helper.make_tensor_value_info(PIXELS, kind, shape))


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_value if d.HasField("dim_value") else d.dim_param for d in value.type.tensor_type.shape.dim]


def set_shape(value: onnx.ValueInfoProto, shape: Sequence[int | str]) -> None:
    """Declare a tensor's shape; a string is a free side."""
    kind = value.type.tensor_type.elem_type
    value.CopyFrom(helper.make_tensor_value_info(value.name, kind, shape))


def first_line(error: Exception) -> str:
    """Return the first line of an exception, without the C++ stack that some have."""
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
