"""Building of a TensorRT engine from a bundle's ONNX, on the device that will run it. No torch, no onnx package.

The ONNX determines the precision. From TensorRT 10 on, networks are strongly typed: the file's types are
used. Before that, builder flags allow lower types, and Q/DQ nodes force INT8. A calibrator is never used.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from dataclasses import dataclass, field
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

from rsedge.backends.gpu import Gpu, import_tensorrt, strongly_typed
from rsedge.errors import BackendError, InputError, ModelError, OutputError
from rsedge.files import whole_or_nothing
from rsedge.model.bundle import Bundle
from rsedge.model.engines import (
    ENGINES,
    PRECISIONS,
    Batch,
    Device,
    PlanFacts,
    Traffic,
    device_tag,
    plan_name,
    write_plan,
)
from rsedge.version import __version__
from rsedge_export.engines.check import EngineFacts, GraphFacts, problem
from rsedge_export.engines.monitor import Log, Progress
from rsedge_export.engines.network import Job, build_plan, inspect_plan

MIB = 1 << 20
MIN_FREE_BYTES = 256 * MIB  # with less, TensorRT finds no tactics or the system kills it
MAX_WORKSPACE_BYTES = 1024 * MIB
OLD_OPSET = 17  # newest opset of TensorRT 8's parser


@dataclass(frozen=True)
class TrtOptions:
    """Settings of a build. ``workspace_bytes`` None: a quarter of the free device memory, 1 GiB at most.

    ``level`` 0 to 5: how long to search for fast kernels. ``force`` keeps an engine whose layers do not run in
    the requested precision; the engine's facts then say so.
    """

    batch: Batch = field(default_factory=Batch)  # infer uses one tile at a time
    workspace_bytes: int | None = None
    level: int = 3
    force: bool = False

    def __post_init__(self) -> None:
        if self.workspace_bytes is not None and self.workspace_bytes < MIB:
            raise InputError(f"workspace of {self.workspace_bytes} bytes: too small. Give at least 1 MiB")
        if not 0 <= self.level <= 5:
            raise InputError(f"optimization level {self.level}: not within 0..5. Choose another")


def build_engine(
    bundle_path: Path | str,
    precision: str = "fp16",
    options: TrtOptions | None = None,
    progress: Progress | None = None,
) -> PlanFacts:
    """Build the engine of ``precision`` (fp32, fp16 or int8) for this device into the bundle's ``engines``.

    ``progress`` is called with (steps done, steps in all) if TensorRT reports progress (10 and later). Nothing is
    written unless the engine was built and, by its own inspector, runs in the requested precision.

    Raises InputError, ModelError (the ONNX cannot be built or the engine has another precision),
    BackendError (TensorRT, pycuda, GPU or memory is missing) or OutputError.
    """
    options = options or TrtOptions()
    trt = import_tensorrt()
    bundle = open_source(trt, Path(bundle_path), precision)
    graph = GraphFacts.read(bundle.artifact)
    check_opset(trt, bundle, graph)
    check_writable(bundle.path)
    kept = bundle.record().get("kept_fp32")
    log = Log.of(trt)
    with Gpu() as gpu, gpu.current():
        device = gpu.facts(trt)
        free_bytes = gpu.free_bytes()
        _check_memory(bundle, free_bytes)
        timing_cache = bundle.path / ENGINES / f"timing-{device_tag(device)}.cache"
        job = Job(
            onnx=bundle.artifact,
            precision=precision,
            batch=options.batch,
            workspace_bytes=options.workspace_bytes or min(MAX_WORKSPACE_BYTES, free_bytes // 4),
            tactics_bytes=free_bytes // 2,
            level=options.level,
            timings=timing_cache,
            nodes=graph.nodes,
            kept_fp32=frozenset(kept) if isinstance(kept, dict) else frozenset(),
        )
        plan, timings = build_plan(trt, log, job, progress)
        found = EngineFacts.read(inspect_plan(trt, log, plan), graph)
    facts = plan_facts(plan, bundle, job, device, found, problem(precision, graph, found))
    if facts.problem is not None and not options.force:
        raise ModelError(
            f"{facts.problem}; nothing was written. Use another --precision, or keep the engine with --force"
        )
    write_plan(bundle.path, plan, facts)
    with contextlib.suppress(OSError), whole_or_nothing(timing_cache) as partial:
        partial.write_bytes(timings)  # without the timing cache, the next build only takes longer
    return facts


def open_source(trt: Any, path: Path, precision: str) -> Bundle:
    """Return the bundle, opened at the ONNX to build from.

    INT8 has two: Q/DQ with fp16 between for strongly typed networks, and Q/DQ with fp32 between,
    which flags let TensorRT 8 lower. FP16 uses the typed file for both, as the fp32 file's opset is beyond TensorRT 8.
    The exporter's report lists the layers to keep fp32, and TensorRT 8 is constrained layer by layer.

    Raises InputError or ModelError.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r}: unknown. Choose one of {', '.join(PRECISIONS)}")
    if path.exists() and not path.is_dir():
        raise InputError(
            f"{path} is a file, but an engine goes into a bundle's folder. Give the folder, e.g. student.rsedge"
        )
    variant = precision
    if precision == "int8":
        variant = "int8-trt10" if strongly_typed(trt) else "int8-trt8"
    bundle = Bundle.open(path, variant)
    if bundle.manifest.dtype == "uint16":
        raise ModelError(
            f"{path} takes uint16 pixels, which TensorRT does not support. Train or export it with uint8 or float32 "
            "pixels, or run it with `rsedge infer --device cuda`"
        )
    return bundle


def check_opset(trt: Any, bundle: Bundle, graph: GraphFacts) -> None:
    """Raise ModelError if this TensorRT's parser cannot read the ONNX's opset."""
    if not strongly_typed(trt) and graph.opset > OLD_OPSET:
        raise ModelError(
            f"unsupported opset: {bundle.artifact.name} has opset {graph.opset}, TensorRT {trt.__version__} parses "
            f"up to {OLD_OPSET}. Use --precision fp16, or TensorRT 10 (JetPack 6.1) or later"
        )


def check_writable(path: Path) -> None:
    """Raise OutputError if the engine cannot be written, because a build takes minutes."""
    engines = path / ENGINES
    place = engines if engines.exists() else path
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(
            f"{place} is not a writable folder, but the engine goes there. Copy the bundle to a writable place "
            f"(`cp -r {shlex.quote(str(path))} ~/`) and build there"
        )


def _check_memory(bundle: Bundle, free_bytes: int) -> None:
    # Parser, builder and candidate kernels hold weights at the same time.
    needed_bytes = max(MIN_FREE_BYTES, 8 * bundle.artifact.stat().st_size)
    if free_bytes < needed_bytes:
        raise BackendError(
            f"building needs about {needed_bytes / MIB:.0f} MiB of device memory, {free_bytes / MIB:.0f} MiB are free. "
            "Close other programs that use the GPU (on a Jetson also the desktop: "
            "`sudo systemctl isolate multi-user.target`)"
        )


def plan_facts(
    plan: bytes,
    bundle: Bundle,
    job: Job,
    device: Device,
    found: EngineFacts,
    trouble: str | None,
    traffic: Traffic | None = None,
) -> PlanFacts:
    """Return the facts to keep beside a plan."""
    return PlanFacts(
        file=plan_name(job.precision, device),
        sha256=sha256(plan).hexdigest(),
        size_bytes=len(plan),
        precision=job.precision,
        onnx=bundle.artifact.name,
        onnx_sha256=bundle.sha256,
        device=device,
        batch=job.batch,
        workspace_bytes=job.workspace_bytes,
        convolutions=found.convolutions,
        layers=found.layers,
        problem=trouble,
        rsedge_version=__version__,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        traffic=traffic,
    )
