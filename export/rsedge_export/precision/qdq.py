"""INT8 by explicit Q/DQ: the graph alone decides which layers compute in integers.

Weights are int8 per output channel, symmetric; activations int8 symmetric (all that TensorRT takes) or
uint8 with a zero point (CPUs). Biases and the layers' outputs stay in floating point: TensorRT refuses int32
biases behind a DequantizeLinear, and the runtime decides what to fuse after a layer. For CPUs, sums, concatenations
and resizings between layers are quantized as well, since ONNX Runtime fuses only what has Q/DQ on both sides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from rsedge_export.graph.rewrite import constants, drop_unused
from rsedge_export.precision.sites import Join, Site
from rsedge_train.nets.grids import SMALLEST_SCALE, Scale, along, integers, weight_scales


def quantize(
    model: onnx.ModelProto,
    sites: Sequence[Site],
    chosen: Collection[str],
    scales: Mapping[str, Scale],
    *,
    unsigned: bool,
    stored_float: bool = False,
    joins: Sequence[Join] = (),
) -> onnx.ModelProto:
    """Return a copy of ``model`` whose ``chosen`` layers, and the ``joins`` between layers, compute in INT8.

    ``scales``: of the activations, by the tensor's name (``Site.tensor``, ``Join.tensors``). The model may be
    fp32 or fp16; Q/DQ use the type of the surrounding nodes. ``stored_float``: weights stay floating point in the
    file, on the integers' grid, with a QuantizeLinear of their own, because parsers of TensorRT 8 refuse int8
    constants.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    writer = _Writer(copy, {s.name: s for s in sites if s.name in chosen}, scales, unsigned, stored_float)
    writer.joins = {join.name for join in joins}
    for node in list(copy.graph.node):
        writer.add(node)
    writer.finish()
    return copy


def switchable(
    model: onnx.ModelProto, sites: Sequence[Site], scales: Mapping[str, Scale], *, unsigned: bool
) -> onnx.ModelProto:
    """Return a copy with a second input "quantized", (sites,) bool, that switches layers to simulated INT8.

    A single session then measures every choice of layers.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.input.append(helper.make_tensor_value_info("quantized", TensorProto.BOOL, [len(sites)]))
    index = {site.name: i for i, site in enumerate(sites)}
    writer = _Writer(copy, {s.name: s for s in sites}, scales, unsigned)
    for node in list(copy.graph.node):
        site = writer.sites.get(node.name)
        if site is None:
            writer.nodes.append(node)
            continue
        i = index[node.name]
        at = writer.constant(f"switch{i}.at", np.array([i], np.int64))
        writer.node("Gather", ["quantized", at], f"switch{i}")
        for slot, dequantized in enumerate(writer.pair(node, site)):
            chosen = f"switch{i}.{slot}"
            writer.node("Where", [f"switch{i}", dequantized, node.input[slot]], chosen)
            node.input[slot] = chosen
        writer.nodes.append(node)
    writer.finish()
    return copy


class _Writer:
    """Writer that appends nodes to a graph in order; every Q/DQ pair is written once and shared."""

    def __init__(
        self,
        model: onnx.ModelProto,
        sites: Mapping[str, Site],
        scales: Mapping[str, Scale],
        unsigned: bool,
        stored_float: bool = False,
    ) -> None:
        self._stored_float = stored_float
        self.sites, self.nodes = sites, list[onnx.NodeProto]()
        self._model, self._scales, self._unsigned = model, scales, unsigned
        self._known = constants(model)
        self._made: set[str] = set()
        self.joins: set[str] = set()

    def add(self, node: onnx.NodeProto) -> None:
        """Append ``node``, quantized if it is a site."""
        if site := self.sites.get(node.name):
            node.input[0], node.input[1] = self.pair(node, site)
        elif node.name in self.joins:
            for slot, tensor in enumerate(node.input):
                if tensor in self._scales:
                    node.input[slot] = self._activations(tensor, tensor, np.dtype(np.float32))
        self.nodes.append(node)

    def pair(self, node: onnx.NodeProto, site: Site) -> tuple[str, str]:
        """Return the names of a layer's activations and weights after their Q/DQ."""
        kind = self._known[node.input[1]].dtype  # the node's own type, because an fp16 graph has both kinds
        return self._activations(node.input[0], site.tensor, kind), self._weights(node.input[1], site.axis)

    def _activations(self, tensor: str, known_as: str, kind: np.dtype[Any]) -> str:
        if f"{tensor}.dq" not in self._made:
            facts = self._scales[known_as]
            scale = max(facts.scale, SMALLEST_SCALE) if kind == np.float16 else facts.scale
            zero = np.uint8(facts.zero) if self._unsigned else np.int8(facts.zero)
            names = [
                self.constant(f"{tensor}.scale", np.asarray(scale, kind)),
                self.constant(f"{tensor}.zero", np.asarray(zero)),
            ]
            self.node("QuantizeLinear", [tensor, *names], f"{tensor}.q")
            self.node("DequantizeLinear", [f"{tensor}.q", *names], f"{tensor}.dq")
        return f"{tensor}.dq"

    def _weights(self, name: str, axis: int) -> str:
        if f"{name}.dq" not in self._made:
            # Rounded to the graph's type first, so that the integers match the stored scale.
            values = self._known[name]
            steps = weight_scales(values, axis).astype(values.dtype)
            whole = integers(values.astype(np.float32), steps.astype(np.float32), axis)
            grid = [
                self.constant(f"{name}.scale", steps),
                self.constant(f"{name}.zero", np.zeros(steps.shape, np.int8)),
            ]
            if self._stored_float:
                on_grid = (whole * along(steps, axis, whole.ndim)).astype(values.dtype)
                self.node(
                    "QuantizeLinear", [self.constant(f"{name}.grid", on_grid), *grid], f"{name}.q", axis=axis
                )
            else:
                self.constant(f"{name}.q", whole.astype(np.int8))
            self.node("DequantizeLinear", [f"{name}.q", *grid], f"{name}.dq", axis=axis)
        return f"{name}.dq"

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Add an initializer and return its name."""
        stored = np.ascontiguousarray(values).reshape(values.shape)  # ascontiguousarray makes scalars (1,)
        self._model.graph.initializer.append(numpy_helper.from_array(stored, name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        """Append a new node."""
        self._made.add(output)
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{output}.{op}", **attributes))

    def finish(self) -> None:
        """Store the nodes in the graph."""
        del self._model.graph.node[:]
        self._model.graph.node.extend(self.nodes)
        drop_unused(self._model)
