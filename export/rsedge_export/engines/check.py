"""Required precisions of an ONNX and actual precisions of an engine, read without the onnx package."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsedge.errors import ModelError
from rsedge.model.protobuf import fields, messages, text

HALVES = (10, 16)  # TensorProto.DataType: FLOAT16, BFLOAT16
KEPT = 0.8  # least share of the quantized (halved) layers that the engine must run in the lower precision
# Layers that gain by a lower precision: operators of ONNX, and words of the inspector. "gemm" may be either kind.
KINDS = {
    "convolution": (("Conv", "ConvTranspose"), "conv"),
    "matrix product": (("Gemm", "MatMul"), "gemm|mat(rix)?_?mul"),
}
# The inspector's names of types, by rsedge's names, lower precisions first.
TYPES = (
    ("UINT8", r"uint8"),
    ("INT8", r"int8"),
    ("FP8", r"fp8"),
    ("BF16", r"bf16|bfloat16"),
    ("FP16", r"fp16|half|float16"),
    ("FP32", r"fp32|float"),
)
LOW = {"int8": {"INT8"}, "fp16": {"FP16", "BF16", "FP8", "INT8"}}  # precisions at least as low as requested
MOVES = re.compile(r"reformat|constant|shuffle|copy|noop|cast|shape|quantize", re.IGNORECASE)  # no arithmetic


@dataclass(frozen=True)
class Nodes:
    """Nodes of an ONNX that are worth a lower precision, of one kind."""

    names: frozenset[str] = frozenset()
    quantized: int = 0  # fed only by DequantizeLinear: meant by the exporter to run in INT8
    halved: int = 0  # with half weights

    def share(self, precision: str) -> float:
        """Return the share of the nodes that must run in ``precision``, 0 to 1."""
        count = {"int8": self.quantized, "fp16": self.halved}[precision]
        return count / len(self.names) if self.names else 0.0


@dataclass(frozen=True)
class GraphFacts:
    """Facts on an ONNX that decide whether TensorRT parses it, and what its engine must show."""

    opset: int
    nodes: frozenset[str]  # names of all nodes
    kinds: Mapping[str, Nodes]  # the names are those of ``KINDS``

    @classmethod
    def read(cls, path: Path) -> GraphFacts:
        """Read an ONNX file. Raises ModelError if the file is not ONNX."""
        try:
            return _read(memoryview(path.read_bytes()))
        except (IndexError, ValueError) as error:
            raise ModelError(
                f"{path} is not an ONNX file: {error}. It may be damaged or incomplete"
            ) from error


@dataclass(frozen=True)
class EngineFacts:
    """Layers of an engine by precision, according to its inspector."""

    kinds: Mapping[str, Mapping[str, int]]  # of ``KINDS``
    layers: Mapping[str, int]  # all layers that compute, including those of ``kinds``

    @property
    def convolutions(self) -> Mapping[str, int]:
        """Return the number of convolutions by precision."""
        return self.kinds.get("convolution", {})

    @classmethod
    def read(cls, information: str, graph: GraphFacts) -> EngineFacts:
        """Parse the inspector's JSON of an engine built from ``graph``. Raises ModelError if the JSON is invalid."""
        kinds, layers = {kind: Counter[str]() for kind in KINDS}, Counter[str]()
        try:
            entries = json.loads(information)["Layers"]
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"TensorRT's engine inspector gave no readable answer: {error}") from error
        for layer in entries:
            if not isinstance(layer, dict) or MOVES.search(str(layer.get("LayerType", ""))):
                continue
            precision = _layer_precision(layer)
            layers[precision] += 1
            if kind := _kind(layer, graph):
                kinds[kind][precision] += 1
        return cls({kind: dict(count) for kind, count in kinds.items()}, dict(layers))


def problem(precision: str, graph: GraphFacts, engine: EngineFacts) -> str | None:
    """Return why an engine does not have the requested precision, or None if it does.

    The exporter leaves some layers float on purpose, and TensorRT merges and splits layers, so shares are
    compared, separately for each of ``KINDS``: of the ONNX's nodes that are quantized (fed by DequantizeLinear) or have
    half weights, and of the engine's layers that run in that precision. If the engine shows no layer of a kind, as when
    one compiled block holds all, a single layer with such an input is enough.
    """
    if precision == "fp32":
        return None
    wanted = {kind: nodes for kind, nodes in graph.kinds.items() if nodes.share(precision)}
    if not wanted:
        what = "quantized" if precision == "int8" else "fp16"
        return f"the ONNX has no {what} {' and no '.join(KINDS)}"
    found = (_shortfall(precision, kind, nodes, engine) for kind, nodes in wanted.items())
    return "; ".join(why for why in found if why) or None


def _shortfall(precision: str, kind: str, nodes: Nodes, engine: EngineFacts) -> str | None:
    share, shown = nodes.share(precision), engine.kinds.get(kind)
    counts = shown or engine.layers
    low = sum(n for name, n in counts.items() if name in LOW[precision])
    total = sum(counts.values())
    if total and (low >= KEPT * share * total if shown else low > 0):
        return None
    what = f"{kind}s" if shown else f"layers (none is shown as a {kind})"
    listed = ", ".join(f"{n} in {name}" for name, n in sorted(counts.items())) or "none"
    return (
        f"{precision} was requested, and {share:.0%} of the ONNX's {len(nodes.names)} {kind}s have it, "
        f"but the engine's {what} run as: {listed}"
    )


def _layer_precision(layer: Mapping[str, Any]) -> str:
    """Return the lowest type among a layer's inputs: INT8 weights and activations may meet an FP16 residual."""
    tensors = layer.get("Inputs")
    found = {_type(t) for t in tensors if isinstance(t, dict)} if isinstance(tensors, list) else set()
    return next((name for name, _ in TYPES[1:] if name in found), "other")


def _type(tensor: Mapping[str, Any]) -> str:
    text = " ".join(str(v) for k, v in tensor.items() if re.search("format|datatype", k, re.IGNORECASE))
    return next((name for name, words in TYPES if re.search(words, text, re.IGNORECASE)), "other")


def _kind(layer: Mapping[str, Any], graph: GraphFacts) -> str | None:
    """Return the layer's kind in ``KINDS``; None for others."""
    # Compiled blocks ("gemm", "fusion", "kgen") name their ONNX nodes only in the metadata; a "gemm" may be a Conv.
    inside = re.findall(r"\[ONNX Layer: ([^\]]*)\]", str(layer.get("Metadata", "")))
    for kind, nodes in graph.kinds.items():
        if not nodes.names.isdisjoint(inside):
            return kind
    words = f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}"
    return next((kind for kind, (_, said) in KINDS.items() if re.search(said, words, re.IGNORECASE)), None)


def _read(model: memoryview) -> GraphFacts:
    """Parse a model by the field numbers of onnx.proto: ModelProto, GraphProto, NodeProto, TensorProto."""
    imports = [dict(fields(entry)) for entry in messages(model, 8)]
    opset = sum(int(i.get(2, 0)) for i in imports if not text(i.get(1)))  # the empty domain is ONNX's own
    if not opset:
        raise ValueError("the file names no opset")
    nodes, types = list[_Node](), {}
    for graph in messages(model, 7):
        nodes += map(_Node.read, messages(graph, 1))
        for item in messages(graph, 5):
            tensor = dict(fields(item))
            types[text(tensor.get(8))] = tensor.get(2)
    made_by = {output: node.op for node in nodes for output in node.outputs}
    kinds = {kind: _of_kind(nodes, ops, made_by, types) for kind, (ops, _) in KINDS.items()}
    return GraphFacts(opset, frozenset(node.name for node in nodes), kinds)


def _of_kind(
    nodes: Sequence[_Node], ops: Collection[str], made_by: Mapping[str, str], types: Mapping[str, object]
) -> Nodes:
    own = [node for node in nodes if node.op in ops]
    # Weights in int8 behind a DequantizeLinear, or (for TensorRT 8) in floats behind both, look alike at this point.
    quantized = sum(all(made_by.get(i) == "DequantizeLinear" for i in node.inputs[:2]) for node in own)
    halved = sum(any(types.get(i) in HALVES for i in node.inputs[:2]) for node in own)
    return Nodes(frozenset(n.name or f"#{at}" for at, n in enumerate(own)), quantized, halved)


@dataclass(frozen=True)
class _Node:
    op: str
    name: str
    inputs: Sequence[str]
    outputs: Sequence[str]

    @classmethod
    def read(cls, data: memoryview) -> _Node:
        texts: dict[int, list[str]] = {1: [], 2: [], 3: [""], 4: [""]}
        for number, value in fields(data):
            if number in texts:
                texts[number].append(text(value))
        return cls(texts[4][-1], texts[3][-1], texts[1], texts[2])
