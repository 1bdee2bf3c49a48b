"""Conversion of ONNX to a plan of TensorRT 8.5 to 11 or TensorRT for RTX: one path, one branch (`strongly_typed`).

Variables are named for TensorRT's classes (``builder``, ``network``, ``config``...): tests/export/engines/test_names.py
reads this source and checks every name against the bindings of four versions.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsedge.backends.gpu import is_rtx, strongly_typed
from rsedge.backends.tensorrt import CLASSES, MEAN, PIXELS, SCORES
from rsedge.errors import BackendError, ModelError
from rsedge.model.engines import RTX, TENSORRT, Batch
from rsedge_export.engines.monitor import Log, Progress, watch

AXIS_CLASSES, AXES_ALL_BUT_BATCH = 1 << 1, 0b1110  # TensorRT numbers axes by bits
SUFFIX = re.compile(r"_\d+$")  # added by TensorRT's parser if one ONNX node becomes several layers


@dataclass(frozen=True)
class Job:
    """Settings of one build."""

    onnx: Path
    precision: str
    batch: Batch
    workspace_bytes: int
    tactics_bytes: int  # device memory for trying out kernels
    level: int  # 0 to 5
    timings: Path | None = None  # cache of earlier builds' timings, which need a GPU; None without one
    nodes: frozenset[str] = frozenset()  # names of all of the ONNX's nodes
    kept_fp32: frozenset[str] = frozenset()  # names of the nodes that the exporter keeps fp32
    sm: str | None = None  # compute capability to build for without a GPU, "86"; TensorRT for RTX only


def build_plan(trt: Any, log: Log, job: Job, progress: Progress | None) -> tuple[bytes, bytes]:
    """Return the serialized engine and the timing cache. Needs a current CUDA context, or ``job.sm``.

    Raises ModelError with TensorRT's message if the ONNX does not parse or build, and any error that ``progress``
    raises (also KeyboardInterrupt).
    """
    builder = trt.Builder(log.logger)
    network = _network(trt, builder, log, job.onnx)
    config = _config(trt, builder, job)
    if not strongly_typed(trt) and job.precision != "fp32" and job.kept_fp32:
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        _keep_fp32(trt, network, job)
    _set_profile(builder, network, config, job.batch)
    if job.timings is not None:
        _load_timings(config, job.timings)
    watch(trt, config, log, progress)  # even without ``progress``, as Ctrl-C must end a build
    with log.held():
        memory = builder.build_serialized_network(network, config)
    if memory is None:
        raise ModelError(f"{named(trt)} built no engine from {job.onnx}: {log.said()}")
    cache = None if job.timings is None else config.get_timing_cache()
    return bytes(memory), b"" if cache is None else bytes(cache.serialize())


def inspect_plan(trt: Any, log: Log, plan: bytes) -> str:
    """Return the inspector's JSON on the engine's layers. Raises BackendError if the plan does not load."""
    runtime = trt.Runtime(log.logger)
    with log.held():
        engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BackendError(f"the new engine does not load: {log.said()}")
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def named(trt: Any) -> str:
    """Return the library's name and version."""
    return f"{RTX if is_rtx(trt) else TENSORRT} {trt.__version__}"


def parse(trt: Any, builder: Any, log: Log, onnx: Path) -> Any:
    """Return the network of an ONNX file. Raises ModelError with the parser's words if it does not parse."""
    flag = (
        trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        if strongly_typed(trt)
        else trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH
    )
    network = builder.create_network(1 << int(flag))
    parser = trt.OnnxParser(network, log.logger)
    with log.held():
        is_parsed = parser.parse_from_file(str(onnx))
    if not is_parsed:
        raise ModelError(f"{named(trt)} does not parse {onnx}: {_parser_errors(parser)}")
    return network


def _network(trt: Any, builder: Any, log: Log, onnx: Path) -> Any:
    """Parse the ONNX and add two outputs, so that neither argmax nor the check for NaN needs the scores."""
    network = parse(trt, builder, log, onnx)
    tensor = network.get_input(0)
    scores = network.get_output(0)
    if (network.num_inputs, network.num_outputs, tensor.name, scores.name) != (1, 1, PIXELS, SCORES):
        raise ModelError(f"{onnx} does not convert {PIXELS!r} to {SCORES!r}. Export the bundle again")
    # Indices stay int32: TensorRT makes uint8 from floats only, and 4 bytes a pixel are a sixth of 6 classes' scores.
    top = network.add_topk(scores, trt.TopKOperation.MAX, 1, AXIS_CLASSES)
    _mark(network, top.get_output(1), CLASSES, log)
    # A mean, not a sum: in fp16 a sum of good scores could overflow.
    mean = network.add_reduce(scores, trt.ReduceOperation.AVG, AXES_ALL_BUT_BATCH, True)
    _mark(network, mean.get_output(0), MEAN, log)
    return network


def _mark(network: Any, tensor: Any, name: str, log: Log) -> None:
    """Add an output. Raises ModelError if the name is taken, which TensorRT only logs."""
    before = len(log.lines)
    tensor.name = name
    network.mark_output(tensor)
    if len(log.lines) > before:
        raise ModelError(f"the network takes no output {name}: {log.said()}. Export the bundle again")


def _parser_errors(parser: Any) -> str:
    """Return the parser's errors, with the nodes' names."""
    lines = []
    for at in range(parser.num_errors):
        parser_error = parser.get_error(at)
        name = parser_error.node_name() if hasattr(parser_error, "node_name") else ""
        lines.append(f"node {name or parser_error.node()}: {parser_error.desc()}")
    return "; ".join(lines) or "TensorRT gave no reason"


def _config(trt: Any, builder: Any, job: Job) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace_bytes)
    if hasattr(trt.MemoryPoolType, "TACTIC_DRAM"):
        # By default kernels may use all memory, which on a Jetson is also the system's.
        config.set_memory_pool_limit(
            trt.MemoryPoolType.TACTIC_DRAM, max(job.workspace_bytes, job.tactics_bytes)
        )
    if hasattr(config, "builder_optimization_level"):
        config.builder_optimization_level = job.level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # otherwise the inspector omits types
    if is_rtx(trt) and job.sm:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{job.sm}"), 0)
    if job.precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # an engine named fp32 computes in fp32
    if not strongly_typed(trt) and job.precision != "fp32":
        config.set_flag(trt.BuilderFlag.FP16)
        if job.precision == "int8":
            config.set_flag(trt.BuilderFlag.INT8)
    # Hardware compatibility stays off, the default, because it costs speed and plans are built where they run.
    return config


def _keep_fp32(trt: Any, network: Any, job: Job) -> None:
    """Constrain layers that the exporter measured to need fp32, because the FP16 flag would lower them too.

    Only layers that compute with floats take a precision: not those of shapes, integers, or pixels being cast.
    """
    floats = (trt.DataType.FLOAT, trt.DataType.HALF)
    for at in range(network.num_layers):
        layer = network.get_layer(at)
        if not comes_from(layer.name, job.kept_fp32, job.nodes) or not layer.num_inputs:
            continue
        tensor = layer.get_input(0)
        if tensor is None or tensor.is_shape_tensor or tensor.dtype not in floats:
            continue
        layer.precision = trt.DataType.FLOAT
        for index in range(layer.num_outputs):
            tensor = layer.get_output(index)
            if tensor.dtype in floats and not tensor.is_shape_tensor:
                layer.set_output_type(index, trt.DataType.FLOAT)


def comes_from(layer_name: str, wanted: Collection[str], nodes: Collection[str]) -> bool:
    """Return True if a layer belongs to one of the ``wanted`` ONNX nodes.

    The parser names layers after their nodes, and adds "_" and a number to all but a node's first. "Conv_12" belongs
    to "Conv" only if no node has that very name (``nodes``: all).
    """
    return layer_name in wanted or (layer_name not in nodes and SUFFIX.sub("", layer_name) in wanted)


def _set_profile(builder: Any, network: Any, config: Any, batch: Batch) -> None:
    tensor = network.get_input(0)
    sides = tuple(tensor.shape)[1:]
    profile = builder.create_optimization_profile()
    profile.set_shape(tensor.name, (1, *sides), (batch.max, *sides), (batch.max, *sides))
    config.add_optimization_profile(profile)


def _load_timings(config: Any, path: Path) -> None:
    """Load an earlier build's timings for this kind of device, which make the next build faster."""
    known = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(known)
    if known and (cache is None or not config.set_timing_cache(cache, False)):
        known, cache = b"", config.create_timing_cache(b"")  # damaged, or from another device: start over
    if not known:
        config.set_timing_cache(cache, False)
