"""Engines of TensorRT for RTX, compiled for GPUs that this machine need not have. No torch, no onnx package."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rsedge.backends.rtx import import_tensorrt_rtx, is_installed
from rsedge.errors import BackendError, InputError, ModelError
from rsedge.files import whole_or_nothing
from rsedge.model.bundle import MANIFEST_NAME, REPORT_NAME, Bundle, file_sha256
from rsedge.model.engines import RTX, Device, PlanFacts, Traffic, write_plan
from rsedge_export.engines.build import (
    MAX_WORKSPACE_BYTES,
    TrtOptions,
    check_writable,
    open_source,
    plan_facts,
)
from rsedge_export.engines.check import EngineFacts, GraphFacts, problem
from rsedge_export.engines.kernels import engine_facts, read_kernels, traffic
from rsedge_export.engines.monitor import Log
from rsedge_export.engines.network import Job, build_plan, named, parse

Step = Callable[[int, int], None]


@dataclass(frozen=True)
class Compiled:
    """A plan, and what the compiler told of it."""

    plan: bytes
    engine: EngineFacts
    traffic: Traffic


@dataclass(frozen=True)
class Advice:
    """Which precision to run on GPUs of an SM, by what its kernels move a tile."""

    sm: str
    precision: str
    why: str


def cross_compile(
    bundle: Path | str,
    targets: str,
    precisions: Sequence[str] = ("fp16",),
    options: TrtOptions | None = None,
    progress: Step | None = None,
) -> tuple[tuple[PlanFacts, ...], tuple[Advice, ...]]:
    """Build engines for every compute capability of ``targets`` ("sm86,sm89") into the bundle's ``engines``.

    Needs neither a GPU nor a driver. INT8 is compared with FP16, which is compiled for that and written only if it is
    among ``precisions``. ``progress`` is called with (engines done, engines in all).

    Raises InputError, BackendError (a package is missing), ModelError (the ONNX does not build, or the engine's layers
    have another precision) or OutputError; engines that were finished before stay.
    """
    options, path = options or TrtOptions(), Path(bundle)
    wanted = parse_targets(targets)
    trt = import_tensorrt_rtx()
    check_known(trt, wanted)
    compared = ["fp16"] if "int8" in precisions and "fp16" not in precisions and _has_fp16(path) else []
    sources = [(name, open_source(trt, path, name)) for name in dict.fromkeys((*compared, *precisions))]
    check_writable(path)
    built, moved = list[PlanFacts](), dict[tuple[str, str], Traffic]()
    for done, (sm, (precision, source)) in enumerate((s, p) for s in wanted for p in sources):
        if progress:
            progress(done, len(wanted) * len(sources))
        facts, plan = _engine(trt, source, precision, sm, options)
        if facts.traffic:
            moved[sm, precision] = facts.traffic
        if precision in precisions:
            write_plan(path, plan, facts)
            built.append(facts)
    return tuple(built), tuple(_advice(moved, wanted))


def parse_targets(text: str) -> tuple[str, ...]:
    """Return the compute capabilities of "sm86,sm120": ("86", "120"). Raises InputError if it is something else."""
    names = [part.strip().lower() for part in text.split(",")]
    if wrong := [name for name in names if not re.fullmatch(r"sm\d{2,3}", name)]:
        raise InputError(
            f"--for {text!r}: {wrong[0]!r} is no compute capability. Give some as in --for sm86,sm89"
        )
    return tuple(dict.fromkeys(name.removeprefix("sm") for name in names))


def check_known(trt: Any, wanted: Iterable[str]) -> None:
    """Raise InputError if this TensorRT for RTX does not compile for one of the compute capabilities."""
    known = sorted((n[2:] for n in dir(trt.ComputeCapability) if re.fullmatch(r"SM\d+", n)), key=int)
    if unknown := [sm for sm in wanted if sm not in known]:
        raise InputError(
            f"{named(trt)} does not compile for sm{unknown[0]}. Choose from {', '.join(f'sm{sm}' for sm in known)}, or "
            "build with TensorRT on the device: rsedge export --trt"
        )


def compile_onnx(
    trt: Any, onnx: Path, precision: str, sm: str, options: TrtOptions | None = None
) -> Compiled:
    """Compile an ONNX file for a compute capability, "86". Raises ModelError with the compiler's words if it fails."""
    options, log = options or TrtOptions(), Log.of(trt)
    graph = GraphFacts.read(onnx)
    limit = options.workspace_bytes or MAX_WORKSPACE_BYTES
    job = Job(onnx, precision, options.batch, limit, limit, options.level, nodes=graph.nodes, sm=sm)
    plan, _ = build_plan(trt, log, job, None)
    kernels = read_kernels(log.layers)
    return Compiled(plan, engine_facts(kernels, graph), traffic(kernels, sm))


def ask_parser(onnx: Path) -> tuple[str | None, str | None]:
    """Return what NVIDIA's parser says of a file, and why it refuses it; (None, None) if it is not installed.

    Its package is not even imported where it is missing.
    """
    if not is_installed():
        return None, None
    try:
        trt = import_tensorrt_rtx()
        log = Log.of(trt)
        builder = trt.Builder(log.logger)
        parse(trt, builder, log, onnx)
    except BackendError as error:
        return f"not asked: {error}", None
    except ModelError as error:
        return str(error), str(error)
    return f"accepted by {named(trt)}", None


def note_in_report(bundle: Path, engines: Iterable[PlanFacts]) -> None:
    """Add what the compiler told of the engines to ``report.json`` of a bundle that was just exported.

    An older bundle's report stays as it is, since other bundles may link to it; engines' own facts are beside them.
    """
    report = Bundle.open(bundle).report
    for facts in engines:
        record = report.get("artifacts", {}).get(facts.onnx)
        if isinstance(record, dict) and facts.traffic:
            told = {**asdict(facts.traffic), "convolutions": facts.convolutions, "by": facts.device.tensorrt}
            record.setdefault("tensorrt_rtx", {})[f"sm{facts.device.sm}"] = told
    manifest = json.loads((bundle / MANIFEST_NAME).read_text(encoding="utf-8"))
    with whole_or_nothing(bundle / MANIFEST_NAME) as outer, whole_or_nothing(bundle / REPORT_NAME) as inner:
        inner.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        manifest["artifacts"][REPORT_NAME] = file_sha256(inner)
        outer.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _engine(
    trt: Any, source: Bundle, precision: str, sm: str, options: TrtOptions
) -> tuple[PlanFacts, bytes]:
    """Compile one engine. Raises ModelError if it fails or its layers have another precision."""
    try:
        made = compile_onnx(trt, source.artifact, precision, sm, options)
    except ModelError as error:
        if precision == "fp16":
            raise
        raise ModelError(f"{error}. FP16 may build for sm{sm}: --precision fp16") from error
    graph = GraphFacts.read(source.artifact)
    device = Device(None, sm, str(trt.__version__), library=RTX)
    job = Job(source.artifact, precision, options.batch, options.workspace_bytes or MAX_WORKSPACE_BYTES, 0, 0)
    trouble = problem(precision, graph, made.engine)
    facts = plan_facts(made.plan, source, job, device, made.engine, trouble, made.traffic)
    if trouble is not None and not options.force:
        raise ModelError(f"{trouble}; it was not written. Use another --precision, or keep it with --force")
    return facts, made.plan


def _has_fp16(path: Path) -> bool:
    return "fp16" in Bundle.open(path).precisions


def _advice(moved: dict[tuple[str, str], Traffic], wanted: Iterable[str]) -> Iterable[Advice]:
    for sm in wanted:
        half, whole = moved.get((sm, "fp16")), moved.get((sm, "int8"))
        if half is None or whole is None:
            continue
        ratio = whole.moved_bytes / half.moved_bytes
        said = f"int8 moves {ratio:.2f} times fp16's memory"
        yield Advice(sm, "int8" if ratio < 1 else "fp16", said)
