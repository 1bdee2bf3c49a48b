"""From an ONNX to a serialized TensorRT plan: one path for TensorRT 8.5 to 11, with one branch (`strongly_typed`).

Variables are named for TensorRT's classes (``builder``, ``network``, ``config``...): tests/export/test_trt_names.py
reads this source and checks every name against the bindings of four versions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsedge.backends.gpu import strongly_typed
from rsedge.backends.tensorrt import CLASSES, MEAN, PIXELS, SCORES
from rsedge.errors import BackendError, ModelError
from rsedge.plans import Batch

AXIS_CLASSES, AXES_ALL_BUT_BATCH = 1 << 1, 0b1110  # TensorRT names axes by bits
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """What to build."""

    onnx: Path
    precision: str
    batch: Batch
    workspace_bytes: int
    tactics_bytes: int  # device memory that trying out kernels may take
    level: int  # 0 to 5
    timings: Path  # timing cache of earlier builds, where there is one


class Log:
    """TensorRT's errors, kept for our own messages rather than printed."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.logger: Any = None

    @classmethod
    def of(cls, trt: Any) -> Log:
        """One whose ``logger`` TensorRT takes."""
        kept = cls()
        worst = int(trt.ILogger.Severity.ERROR)  # internal errors are below, warnings above

        class Logger(trt.ILogger):  # type: ignore[misc]  # no stubs
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                if int(severity) <= worst:
                    kept.lines.append(msg)

        kept.logger = Logger()
        return kept

    def said(self) -> str:
        """The last of it."""
        return "; ".join(self.lines[-3:]) or "it does not say why"


def build_plan(trt: Any, log: Log, job: Job, progress: Progress | None) -> tuple[bytes, bytes]:
    """The serialized engine and the timing cache. Needs a current CUDA context.

    Raises ModelError with TensorRT's own words where the ONNX does not parse or build, and what ``progress``
    raises (also KeyboardInterrupt).
    """
    builder = trt.Builder(log.logger)
    network = _network(trt, builder, log, job.onnx)
    config = _config(trt, builder, job)
    _set_profile(builder, network, config, job.batch)
    _load_timings(config, job.timings)
    interrupted: list[BaseException] = []
    if progress is not None and hasattr(config, "progress_monitor"):
        config.progress_monitor = _monitor(trt, progress, interrupted)
    memory = builder.build_serialized_network(network, config)
    if interrupted:
        raise interrupted[0]
    if memory is None:
        raise ModelError(f"TensorRT {trt.__version__} built no engine from {job.onnx}: {log.said()}")
    cache = config.get_timing_cache()
    return bytes(memory), b"" if cache is None else bytes(cache.serialize())


def inspect_plan(trt: Any, log: Log, plan: bytes) -> str:
    """What the engine's inspector says of its layers, JSON. Raises BackendError where the plan does not load."""
    runtime = trt.Runtime(log.logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BackendError(f"the engine that was built does not load: {log.said()}")
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _network(trt: Any, builder: Any, log: Log, onnx: Path) -> Any:
    """Parse the ONNX and add two outputs, so that neither argmax nor the check for NaN needs the scores."""
    flag = (
        trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        if strongly_typed(trt)
        else trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH
    )
    network = builder.create_network(1 << int(flag))
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse_from_file(str(onnx)):
        raise ModelError(f"TensorRT {trt.__version__} does not parse {onnx}: {_parser_errors(parser)}")
    tensor = network.get_input(0)
    scores = network.get_output(0)
    if (network.num_inputs, network.num_outputs, tensor.name, scores.name) != (1, 1, PIXELS, SCORES):
        raise ModelError(f"{onnx} does not go from {PIXELS!r} to {SCORES!r}; export the bundle again")
    # Indices stay int32: TensorRT makes uint8 of floats only, and 4 bytes a pixel are a sixth of 6 classes' scores.
    top = network.add_topk(scores, trt.TopKOperation.MAX, 1, AXIS_CLASSES)
    _mark(network, top.get_output(1), CLASSES)
    # A mean, not a sum: in fp16 a sum of good scores could overflow.
    mean = network.add_reduce(scores, trt.ReduceOperation.AVG, AXES_ALL_BUT_BATCH, True)
    _mark(network, mean.get_output(0), MEAN)
    return network


def _mark(network: Any, tensor: Any, name: str) -> None:
    tensor.name = name
    network.mark_output(tensor)


def _parser_errors(parser: Any) -> str:
    """What the parser says, with the nodes' names."""
    lines = []
    for at in range(parser.num_errors):
        parser_error = parser.get_error(at)
        name = parser_error.node_name() if hasattr(parser_error, "node_name") else ""
        lines.append(f"node {name or parser_error.node()}: {parser_error.desc()}")
    return "; ".join(lines) or "it does not say why"


def _config(trt: Any, builder: Any, job: Job) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace_bytes)
    if hasattr(trt.MemoryPoolType, "TACTIC_DRAM"):
        # By default kernels are tried up to all of the memory, which on a Jetson is the system's too.
        config.set_memory_pool_limit(
            trt.MemoryPoolType.TACTIC_DRAM, max(job.workspace_bytes, job.tactics_bytes)
        )
    if hasattr(config, "builder_optimization_level"):
        config.builder_optimization_level = job.level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the inspector does not tell types
    if job.precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # an engine named fp32 computes in fp32
    if not strongly_typed(trt) and job.precision != "fp32":
        config.set_flag(trt.BuilderFlag.FP16)
        if job.precision == "int8":
            config.set_flag(trt.BuilderFlag.INT8)
    # Hardware compatibility stays off, as it is by default: it costs speed, and a plan is built where it runs.
    return config


def _set_profile(builder: Any, network: Any, config: Any, batch: Batch) -> None:
    tensor = network.get_input(0)
    sides = tuple(tensor.shape)[1:]
    profile = builder.create_optimization_profile()
    profile.set_shape(tensor.name, (batch.min, *sides), (batch.opt, *sides), (batch.max, *sides))
    config.add_optimization_profile(profile)


def _monitor(trt: Any, progress: Progress, interrupted: list[BaseException]) -> Any:
    """Reports the outermost phase. No exception may pass through TensorRT's frames: it is kept, and ends the build."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # no stubs
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.outermost: tuple[str, int] | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.outermost = (phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                if self.outermost and phase_name == self.outermost[0]:
                    progress(min(step + 1, self.outermost[1]), self.outermost[1])
            except BaseException as error:
                interrupted.append(error)
            return not interrupted

        def phase_finish(self, phase_name: str) -> None:
            pass

    return Monitor()


def _load_timings(config: Any, path: Path) -> None:
    """Give the builder what an earlier build on this kind of device measured; it makes the next one faster."""
    known = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(known)
    if known and (cache is None or not config.set_timing_cache(cache, False)):
        known, cache = b"", config.create_timing_cache(b"")  # damaged, or of another device: start anew
    if not known:
        config.set_timing_cache(cache, False)
