"""What the compiler of TensorRT for RTX says of an engine's kernels: read, added up, and bounded in time.

With detailed profiling it logs, after the line ``Layers:``, one line a kernel: its kind, the shapes and types of what
it reads and writes, and the ONNX nodes it came from. That is the only account of an engine where no GPU can load it.
The kernels are finished on the device, so the list shows what is moved and in which types, not how long it takes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt

from rsedge.errors import ModelError
from rsedge.model.engines import Traffic
from rsedge_export.engines.check import EngineFacts, GraphFacts
from rsedge_export.engines.monitor import LAYERS

LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName: .*?Metadata: ?(?P<metadata>.*)"
)
TENSOR = re.compile(r"Name: (?P<name>.*?), Dimensions: \[(?P<shape>[\d,]*)\].*?Datatype: (?P<dtype>\w+)")
NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
# The compiler's types: rsedge's names, bytes.
TYPES = {
    "Float": ("FP32", 4),
    "Half": ("FP16", 2),
    "BFloat16": ("BF16", 2),
    "FP8": ("FP8", 1),
    "Int8": ("INT8", 1),
    "UInt8": ("UINT8", 1),
    "Bool": ("BOOL", 1),
    "Int32": ("INT32", 4),
    "Int64": ("INT64", 8),
}
LOWEST_FIRST = ("INT8", "FP8", "BF16", "FP16", "FP32")
GENERATED = "kgen"  # the kind of elementwise kernels; all others multiply matrices


@dataclass(frozen=True)
class Gpu:
    """A GPU as its maker describes it: the fastest consumer card of an SM, so that bounds are low."""

    name: str
    bytes_per_s: float
    macs_per_s: Mapping[str, float]  # by type, dense


# NVIDIA's architecture whitepapers (GA102, AD102, GB202): dense tensor operations, FP16 accumulation, halved to MACs.
GPUS = {
    "86": Gpu("RTX 3090", 936e9, {"INT8": 142e12, "FP16": 71e12, "FP32": 17.8e12}),
    "89": Gpu("RTX 4090", 1008e9, {"INT8": 330e12, "FP16": 165e12, "FP32": 41.3e12}),
    "120": Gpu("RTX 5090", 1792e9, {"INT8": 419e12, "FP16": 210e12, "FP32": 52.4e12}),
}


@dataclass(frozen=True)
class Tensor:
    """An input, constant or output of a kernel."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # "FP16"
    size_bytes: int


@dataclass(frozen=True)
class Kernel:
    """One kernel of an engine, at the batch that the engine is tuned for."""

    name: str
    kind: str  # "correlation" (a convolution), "deconv", "gemm", "runtime_fusion", "kgen"...
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    nodes: tuple[str, ...]  # of the ONNX

    @property
    def read_bytes(self) -> int:
        """Return the bytes of inputs and constants."""
        return sum(tensor.size_bytes for tensor in (*self.inputs, *self.constants))

    @property
    def written_bytes(self) -> int:
        """Return the bytes of the outputs."""
        return sum(tensor.size_bytes for tensor in self.outputs)

    @property
    def dtype(self) -> str:
        """Return the lowest type among the inputs: INT8 factors may meet a bias in FP32."""
        found = {tensor.dtype for tensor in self.inputs}
        return next((name for name in LOWEST_FIRST if name in found), "other")

    @property
    def macs(self) -> int:
        """Return the multiplications of a convolution or a matrix product; 0 for generated kernels."""
        weights = max((t.shape for t in self.constants if len(t.shape) > 1), key=prod, default=())
        if self.kind == GENERATED or not (weights and self.inputs and self.outputs):
            return 0
        read, written = prod(self.inputs[0].shape), prod(self.outputs[0].shape)
        if self.kind == "gemm":  # m x k and k x n make m x n, whatever the order of the sides
            return round(written * sqrt(read * prod(weights) / written))
        return (read if self.kind == "deconv" else written) * prod(weights[1:])


def read_kernels(message: str) -> tuple[Kernel, ...]:
    """Read the compiler's message. Raises ModelError if it is not such a list, or a line of it is not understood."""
    lines = [line for line in message.splitlines()[1:] if line.startswith("Name: ")]
    if not message.startswith(LAYERS) or not lines:
        raise ModelError("the compiler gave no list of kernels. Use the version that `rsedge[rtx]` names")
    return tuple(map(_kernel, lines))


def traffic(kernels: Sequence[Kernel], sm: str) -> Traffic:
    """Add up what the kernels move, and bound their time on a GPU of ``sm`` if `GPUS` knows one.

    A kernel takes at least as long as its bytes or its multiplications need at the rates that the maker states. What a
    GPU keeps in its cache from one kernel to the next is not known, so small tiles can take less.
    """
    gpu = GPUS.get(sm)
    return Traffic(
        kernels=len(kernels),
        read_bytes=sum(kernel.read_bytes for kernel in kernels),
        written_bytes=sum(kernel.written_bytes for kernel in kernels),
        least_ms=1e3 * sum(_least_s(kernel, gpu) for kernel in kernels) if gpu else None,
        on=gpu.name if gpu else None,
    )


def engine_facts(kernels: Iterable[Kernel], graph: GraphFacts) -> EngineFacts:
    """Return the engine's layers by precision, as an inspector would on a device."""
    kinds, layers = {kind: Counter[str]() for kind in graph.kinds}, Counter[str]()
    for kernel in kernels:
        layers[kernel.dtype] += 1
        if kernel.kind == GENERATED:
            continue
        kind = next((k for k, nodes in graph.kinds.items() if not nodes.names.isdisjoint(kernel.nodes)), None)
        if kind:
            kinds[kind][kernel.dtype] += 1
    return EngineFacts({kind: dict(count) for kind, count in kinds.items()}, dict(layers))


def _least_s(kernel: Kernel, gpu: Gpu) -> float:
    moved_s = (kernel.read_bytes + kernel.written_bytes) / gpu.bytes_per_s
    rate = gpu.macs_per_s.get(kernel.dtype)
    return max(moved_s, kernel.macs / rate) if rate else moved_s


def _kernel(line: str) -> Kernel:
    found = LINE.match(line)
    if found is None:
        raise ModelError(
            f"a line of the compiler's list of kernels has another form: {line[:120]!r}. Report it"
        )
    inputs, constants, outputs = (_tensors(found[part]) for part in ("inputs", "constants", "outputs"))
    return Kernel(
        found["name"], found["kind"], inputs, constants, outputs, tuple(NODE.findall(found["metadata"]))
    )


def _tensors(text: str) -> tuple[Tensor, ...]:
    tensors = []
    for part in TENSOR.finditer(text):
        if part["dtype"] not in TYPES:
            raise ModelError(
                f"the compiler's list of kernels names the unknown type {part['dtype']}. Report it"
            )
        shape = tuple(int(side) for side in part["shape"].split(",") if side)
        dtype, each = TYPES[part["dtype"]]
        tensors.append(Tensor(part["name"], shape, dtype, prod(shape) * each))
    if len(tensors) != text.count("Datatype: "):
        raise ModelError(
            f"tensors in the compiler's list of kernels have another form: {text[:120]!r}. Report it"
        )
    return tuple(tensors)
