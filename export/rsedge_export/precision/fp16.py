"""FP16 graph: types are stored in the graph, so no runtime flag decides the precision.

Kept fp32 are the preprocessing (16-bit pixels do not fit fp16), all tensors *measured* to come near fp16's
limit on real tiles, sums inside reductions included, and nodes that read constants beyond fp16, such as
the epsilon of a division, including the division. LayerNormalization keeps fp16 tensors: by its
``stash_type`` the operator itself computes in fp32. Tensors between two fp32 nodes stay fp32, so casts occur
only at the borders.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from rsedge.errors import ModelError
from rsedge_export.graph.rewrite import LARGEST, REDUCTIONS, attributes, constants, drop_unused
from rsedge_export.graph.session import open_session

HEADROOM = 8.0  # unmeasured tiles may have larger values
SMALLEST = 2.0**-14  # the smallest normal number of fp16
GROUP = 48  # tensors measured in one run
ELEMENTWISE = ("Add", "Cast", "Div", "Mul", "Sub")
FLOOR = ("Add", "Clip", "Max")  # operators in which an epsilon keeps a divisor from zero
CARRY = ("Expand", "Identity", "Reciprocal", "Reshape", "Sqrt", "Squeeze", "Transpose", "Unsqueeze")
DIVIDE = ("Div", "Log", "Mul")  # steps up to the division; in fp16 its divisor would be zero again
ALWAYS_FP32 = {"Resize": (1, 2)}  # inputs that the operator requires as fp32: roi, scales
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


def to_fp16(model: onnx.ModelProto, kept: Iterable[str]) -> onnx.ModelProto:
    """Return an fp32 graph converted to fp16 except for the nodes named in ``kept``; "scores" stay fp32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return _Halver(copy, set(kept)).run()


def keep_fp32(model: onnx.ModelProto, tiles: Sequence[NDArray[Any]]) -> dict[str, str]:
    """Return names of nodes of ``model`` that must stay fp32, with reasons, measured on ``tiles`` (bands, h, w)."""
    kept = {node.name: "preprocessing" for node in _preprocessing(model)}
    for node, value in _misfits(model):
        kept.setdefault(node.name, f"a constant of {value:.1e} does not fit fp16")
    highest = _measure(model, tiles)
    for node in model.graph.node:
        touched = [highest.get(name, 0.0) for name in (*node.input, *node.output, _sum_of(node))]
        if max(touched) * HEADROOM > LARGEST:
            kept.setdefault(node.name, f"values up to {max(touched):.0f} on the calibration tiles")
    return kept


class _Halver:
    """Rewriter of one graph, node by node, adding a cast wherever a type differs from the required one."""

    def __init__(self, model: onnx.ModelProto, kept: set[str]) -> None:
        self._model, self._kept = model, kept
        self._known = constants(model)
        inferred = onnx.shape_inference.infer_shapes(model).graph
        self._floats = {
            v.name
            for v in (*inferred.value_info, *inferred.input, *inferred.output)
            if v.type.tensor_type.elem_type == TensorProto.FLOAT
        }
        self._full = {v.name for v in model.graph.input} & self._floats  # tensors that are fp32
        self._made: set[str] = set()
        self._nodes: list[onnx.NodeProto] = []

    def run(self) -> onnx.ModelProto:
        """Return the rewritten graph."""
        graph = self._model.graph
        outputs = {v.name for v in graph.output}
        for node in list(graph.node):
            full = node.name in self._kept
            for slot, name in enumerate(node.input):
                wants_full = full or slot in ALWAYS_FP32.get(node.op_type, ())
                node.input[slot] = self._as(name, wants_full)
            self._nodes.append(node)
            if full:
                self._full |= set(node.output) & self._floats
            else:
                _retype(node)
                self._return_outputs(node, outputs)
        del graph.node[:]
        graph.node.extend(self._nodes)
        drop_unused(self._model)
        return self._model

    def _as(self, name: str, full: bool) -> str:
        """Return ``name`` in the wanted type: unchanged, another copy of a constant, or through a cast."""
        if name in self._known:
            return name if full else self._halved_constant(name)
        if name not in self._floats or (name in self._full) == full:
            return name
        cast = f"{name}.{'fp32' if full else 'fp16'}"
        if cast not in self._made:
            self._made.add(cast)
            to = TensorProto.FLOAT if full else TensorProto.FLOAT16
            self._nodes.append(helper.make_node("Cast", [name], [cast], name=f"{cast}.cast", to=to))
        return cast

    def _halved_constant(self, name: str) -> str:
        values = self._known[name]
        if values.dtype != np.float32:
            return name
        halved = f"{name}.fp16"
        if halved not in self._made:
            self._made.add(halved)
            self._model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), halved))
        return halved

    def _return_outputs(self, node: onnx.NodeProto, outputs: set[str]) -> None:
        """Cast the graph's outputs to fp32, whatever type the node behind them computes in."""
        for slot, name in enumerate(node.output):
            if name in outputs & self._floats:
                node.output[slot] = f"{name}.fp16"
                self._nodes.append(
                    helper.make_node(
                        "Cast", [node.output[slot]], [name], name=f"{name}.cast", to=TensorProto.FLOAT
                    )
                )
                self._full.add(name)
                self._made.add(node.output[slot])


def _retype(node: onnx.NodeProto) -> None:
    """Change nodes that state their output's type from fp32 to fp16."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        elif attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(attribute.t).astype(np.float16)
            attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))


def _preprocessing(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the elementwise nodes between the pixels and the first other node."""
    raw, known = {v.name for v in model.graph.input}, constants(model)
    for node in model.graph.node:
        if node.op_type in ELEMENTWISE and all(n in raw or n in known for n in node.input):
            raw |= set(node.output)
            yield node


def _misfits(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, float]]:
    """Yield nodes that read a constant beyond fp16, or whose divisor a constant too small for fp16 keeps from zero."""
    known, floors = constants(model), dict[str, float]()  # floors by tensor
    for node in model.graph.node:
        own = next((v for n in node.input if n in known and (v := _misfit(known[n]))), None)
        floor = next((floors[n] for n in node.input if n in floors), None)
        if own is not None:
            yield node, own
        elif floor is not None and node.op_type in (*CARRY, *DIVIDE):
            yield node, floor
        if own is not None and own < SMALLEST and node.op_type in FLOOR:
            floors[node.output[0]] = own
        elif floor is not None and node.op_type in CARRY:
            floors[node.output[0]] = floor


def _misfit(values: NDArray[Any]) -> float | None:
    if values.dtype != np.float32 or not values.size:
        return None
    value = float(np.abs(values).max())
    return value if value > LARGEST or (values.size == 1 and 0 < value < SMALLEST) else None


def _sum_of(node: onnx.NodeProto) -> str:
    return f"{node.output[0]}.sum"


def _measure(model: onnx.ModelProto, tiles: Sequence[NDArray[Any]]) -> dict[str, float]:
    """Return the highest absolute value of every float tensor, and of the sums inside every reduction.

    The maxima are computed in the graph, so no tensor leaves it. Tensors are measured in groups, because ONNX Runtime
    keeps every tensor of a group until the end of a run.
    """
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    floats = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    wanted: list[tuple[str, onnx.NodeProto | None]] = [(v.name, None) for v in inferred.input]
    for node in model.graph.node:
        wanted += [(name, None) for name in node.output]
        if node.op_type in REDUCTIONS and node.op_type not in {"ReduceMax", "ReduceMin"}:
            wanted.append((_sum_of(node), node))
    wanted = [(name, node) for name, node in wanted if node or name in floats]
    highest = dict.fromkeys((name for name, _ in wanted), 0.0)
    for start in range(0, len(wanted), GROUP):
        group = wanted[start : start + GROUP]
        session = _open_probe(model, group)
        for tile in tiles:
            found = session.run([f"{name}.highest" for name, _ in group], {"pixels": tile[None]})
            for (name, _), value in zip(group, found, strict=True):
                if not np.isfinite(value):
                    raise ModelError(
                        f"{name} holds NaN or infinity on a calibration tile. Train the model again"
                    )
                highest[name] = max(highest[name], float(value))
    return highest


def _open_probe(model: onnx.ModelProto, wanted: Sequence[tuple[str, onnx.NodeProto | None]]) -> Any:
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]  # outputs that are not requested are not computed
    for name, reduction in wanted:
        if reduction is None:
            _add_maximum(probe, name, name)
        else:
            _add_sum(probe, reduction)
    return open_session(probe)


def _add_maximum(probe: onnx.ModelProto, tensor: str, name: str) -> None:
    nodes = [
        helper.make_node("Abs", [tensor], [f"{name}.abs"]),
        helper.make_node("ReduceMax", [f"{name}.abs"], [f"{name}.highest"], keepdims=0),
    ]
    probe.graph.node.extend(nodes)
    probe.graph.output.append(helper.make_tensor_value_info(f"{name}.highest", TensorProto.FLOAT, []))


def _add_sum(probe: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """Add the sum of absolute values (or of squares) inside a reduction, squares included."""
    name, squared = _sum_of(node), node.op_type in {"ReduceL2", "ReduceSumSquare"}
    size = "Mul" if squared else "Abs"
    operands = [node.input[0]] * (2 if squared else 1)
    probe.graph.node.append(helper.make_node(size, operands, [f"{name}.parts"]))
    facts = attributes(node)
    axes = facts.get("axes")
    inputs = [f"{name}.parts", *node.input[1:2]]
    if isinstance(axes, list):
        probe.graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), f"{name}.axes"))
        inputs = [f"{name}.parts", f"{name}.axes"]
    probe.graph.node.append(helper.make_node("ReduceSum", inputs, [name]))
    _add_maximum(probe, name, name)
