"""What an ONNX asks for and what an engine does: node and layer precisions, read without the onnx package."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsedge.errors import ModelError

FLOAT = 1  # TensorProto.DataType
KEPT = 0.8  # least part of the quantized (halved) convolutions that an engine must run so
# What the inspector calls types, by the names rsedge prints; lower stands before higher.
TYPES = (
    ("UINT8", r"uint8"),
    ("INT8", r"int8"),
    ("FP8", r"fp8"),
    ("BF16", r"bf16|bfloat16"),
    ("FP16", r"fp16|half|float16"),
    ("FP32", r"fp32|float"),
)
LOW = {"int8": {"INT8"}, "fp16": {"FP16", "BF16", "FP8", "INT8"}}  # precisions at least as low as asked for
MOVES = re.compile(r"reformat|constant|shuffle|copy|noop|cast|shape|quantize", re.IGNORECASE)  # no arithmetic


@dataclass(frozen=True)
class GraphFacts:
    """What decides whether TensorRT parses an ONNX, and what its engine must show."""

    opset: int
    convolutions: frozenset[str]  # names of the nodes
    quantized: int  # convolutions fed by DequantizeLinear: those the exporter means to run in INT8
    halved: int  # convolutions whose weights are not float32

    @classmethod
    def read(cls, path: Path) -> GraphFacts:
        """Read an ONNX file. Raises ModelError when it is none."""
        try:
            return _read(memoryview(path.read_bytes()))
        except (IndexError, ValueError) as error:
            raise ModelError(
                f"{path} is not an ONNX file ({error}); it may be damaged or incomplete"
            ) from error

    def share(self, precision: str) -> float:
        """The part of its convolutions that is to run in ``precision``, 0 to 1."""
        count = {"int8": self.quantized, "fp16": self.halved}[precision]
        return count / len(self.convolutions) if self.convolutions else 0.0


@dataclass(frozen=True)
class EngineFacts:
    """Layers of an engine by precision, as its inspector says."""

    convolutions: Mapping[str, int]
    layers: Mapping[str, int]  # all that compute, convolutions included

    @classmethod
    def read(cls, information: str, names: frozenset[str]) -> EngineFacts:
        """Parse the inspector's JSON; ``names`` are the ONNX nodes that are convolutions.

        Raises ModelError when it is no such JSON.
        """
        convolutions, layers = Counter[str](), Counter[str]()
        try:
            entries = json.loads(information)["Layers"]
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"TensorRT's engine inspector gave no readable answer ({error})") from error
        for layer in entries:
            if not isinstance(layer, dict) or MOVES.search(str(layer.get("LayerType", ""))):
                continue
            precision = _layer_precision(layer)
            layers[precision] += 1
            if _is_convolution(layer, names):
                convolutions[precision] += 1
        return cls(dict(convolutions), dict(layers))


def problem(precision: str, graph: GraphFacts, engine: EngineFacts) -> str | None:
    """Why an engine is not of the precision asked for; None where it is.

    The exporter leaves some convolutions float on purpose, and TensorRT merges and splits layers, so what is
    compared are shares: of the ONNX's convolutions that are quantized (fed by DequantizeLinear) or have half weights,
    and of the engine's that run so. Where the engine shows no convolution, as where one compiled
    block holds all, any layer with such an input must do.
    """
    if precision == "fp32" or not graph.convolutions:
        return None
    share = graph.share(precision)
    if share == 0:
        return f"the ONNX has no {'quantized' if precision == 'int8' else 'fp16'} convolution"
    counts = engine.convolutions or engine.layers
    low = sum(n for name, n in counts.items() if name in LOW[precision])
    total = sum(counts.values())
    enough = low >= KEPT * share * total if engine.convolutions else low > 0
    if enough and total:
        return None
    what = "convolutions" if engine.convolutions else "layers (none is shown as a convolution)"
    shown = ", ".join(f"{n} in {name}" for name, n in sorted(counts.items())) or "none"
    return (
        f"{precision} was asked for, and {share:.0%} of the ONNX's {len(graph.convolutions)} convolutions are, "
        f"but of the engine's {what} run: {shown}"
    )


def _layer_precision(layer: Mapping[str, Any]) -> str:
    """The lowest type among a layer's inputs: INT8 weights and activations may meet an FP16 residual."""
    tensors = layer.get("Inputs")
    found = {_type(t) for t in tensors if isinstance(t, dict)} if isinstance(tensors, list) else set()
    return next((name for name, _ in TYPES[1:] if name in found), "other")


def _type(tensor: Mapping[str, Any]) -> str:
    text = " ".join(str(v) for k, v in tensor.items() if re.search("format|datatype", k, re.IGNORECASE))
    return next((name for name, words in TYPES if re.search(words, text, re.IGNORECASE)), "other")


def _is_convolution(layer: Mapping[str, Any], names: frozenset[str]) -> bool:
    kind = f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}"
    if re.search("conv", kind, re.IGNORECASE):
        return True
    # Compiled blocks ("gemm", "fusion", "kgen") tell their ONNX nodes in the metadata only.
    return not names.isdisjoint(re.findall(r"\[ONNX Layer: ([^\]]*)\]", str(layer.get("Metadata", ""))))


def _read(model: memoryview) -> GraphFacts:
    """Field numbers are those of onnx.proto: ModelProto, GraphProto, NodeProto, TensorProto."""
    opset, nodes, types = 0, [], {}
    for number, value in _fields(model):
        if number == 8 and isinstance(value, memoryview):
            entry = dict(_fields(value))
            if not bytes(entry.get(1, b"")):  # the empty domain is ONNX's own
                opset = int(entry.get(2, 0))
        elif number == 7 and isinstance(value, memoryview):
            for kind, item in _fields(value):
                if kind == 1 and isinstance(item, memoryview):
                    nodes.append(_node(item))
                elif kind == 5 and isinstance(item, memoryview):
                    tensor = dict(_fields(item))
                    types[bytes(tensor.get(8, b"")).decode()] = tensor.get(2)
    if not opset:
        raise ValueError("it names no opset")
    made_by = {output: kind for kind, _, _, outputs in nodes for output in outputs}
    convolutions = [(name, inputs) for kind, name, inputs, _ in nodes if kind in {"Conv", "ConvTranspose"}]
    quantized = [n for n, inputs in convolutions if made_by.get(inputs[0]) == "DequantizeLinear"]
    halved = [n for n, inputs in convolutions if types.get(inputs[1]) != FLOAT]
    names = frozenset(name or f"#{at}" for at, (name, _) in enumerate(convolutions))
    return GraphFacts(opset, names, len(quantized), len(halved))


def _node(data: memoryview) -> tuple[str, str, list[str], list[str]]:
    """Of a node: operator, name, inputs, outputs."""
    texts: dict[int, list[str]] = {1: [], 2: [], 3: [""], 4: [""]}
    for number, value in _fields(data):
        if number in texts and isinstance(value, memoryview):
            texts[number].append(bytes(value).decode())
    return texts[4][-1], texts[3][-1], texts[1], texts[2]


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Fields of a protobuf message: numbers as int, nested messages and text as memory."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire_type = key >> 3, key & 7
        if wire_type == 0:
            value, at = _varint(data, at)
            yield number, value
        elif wire_type == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("it ends in the middle of a field")
            yield number, data[at : at + length]
            at += length
        elif wire_type in {1, 5}:
            at += 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"unknown wire type {wire_type}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
