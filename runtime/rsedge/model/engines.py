"""TensorRT engines of a bundle: their sources, their target devices, and the choice of one for this device.

``student.rsedge/engines/fp16-orin-sm87-trt10.3.0.plan`` is a plain plan, which trtexec can load;
``fp16-orin-sm87-trt10.3.0.json`` beside it holds rsedge's facts of the plan. A plan runs only with the TensorRT
version and on the kind of GPU that it was built for; a bundle can hold engines of several devices.

Plans of TensorRT for RTX (``fp16-sm86-rtx1.7.1.116.plan``) are built for all GPUs of a compute capability (SM), on
any machine.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rsedge.documents import (
    Count,
    OtherSchemaError,
    from_json,
    odd_name,
    parse_json,
    read_bytes,
    without_schema,
)
from rsedge.errors import InputError, ModelError
from rsedge.files import whole_or_nothing, writing
from rsedge.model.bundle import Bundle, elsewhere, file_sha256

ENGINES = "engines"  # folder of a bundle
PRECISIONS = ("fp32", "fp16", "int8")
TENSORRT, RTX = "TensorRT", "TensorRT-RTX"  # the libraries; a plan of one is nothing to the other
ENGINE_DEVICES = {"tensorrt": TENSORRT, "tensorrt-rtx": RTX}  # choices of --device that run engines
SCHEMA = 1


@dataclass(frozen=True)
class Batch:
    """Tiles per call: from one to ``max``, for which the engine is tuned."""

    max: int = 1

    def __post_init__(self) -> None:
        if self.max < 1:
            raise InputError(f"the batch must be at least 1 tile, not {self.max}")


@dataclass(frozen=True)
class Device:
    """The GPU and the software versions that a plan depends on.

    Of the target of a build without a GPU only the SM and the library are known.
    """

    name: str | None  # "Orin"; None for any GPU of the SM
    sm: str  # compute capability without the dot: "87"
    tensorrt: str  # version of ``library``: "10.3.0"
    cuda: str | None = None  # version that pycuda was built with: "12.6"
    driver_cuda: str | None = None  # newest CUDA version that the driver supports
    l4t: str | None = None  # Jetson's system release, "36.4.0"
    library: str = TENSORRT  # or RTX

    @property
    def target(self) -> str | None:
        """Return what `rsedge export --trt --for` calls it; None if engines are built on the device itself."""
        return f"sm{self.sm}" if self.library == RTX else None


@dataclass(frozen=True)
class Traffic:
    """What an engine does for one tile, by the compiler's list of its kernels. Bytes include the weights."""

    kernels: Count
    read_bytes: Count
    written_bytes: Count
    least_ms: float | None = None  # on ``on``: a bound, not a measurement
    on: str | None = None  # a GPU of the SM, whose maker states bandwidth and rates

    @property
    def moved_bytes(self) -> int:
        """Return the bytes read and written."""
        return self.read_bytes + self.written_bytes


@dataclass(frozen=True)
class PlanFacts:
    """The facts of one plan. Raises ModelError if a fact is impossible."""

    file: str  # in the bundle's engines folder
    sha256: str
    size_bytes: Count
    precision: str  # as requested: one of PRECISIONS
    onnx: str  # artifact that the plan was built from
    onnx_sha256: str
    device: Device  # on which the plan was built
    batch: Batch
    workspace_bytes: Count
    convolutions: Mapping[str, Count]  # number of convolutions by precision, from the engine's inspector
    layers: Mapping[str, Count]  # number of layers by precision
    problem: str | None  # why the engine, built by force, is not as requested
    rsedge_version: str
    date: str  # UTC, ISO 8601
    traffic: Traffic | None = None  # if the compiler told

    def __post_init__(self) -> None:
        words = (
            self.file,
            self.sha256,
            self.precision,
            self.onnx,
            self.onnx_sha256,
            self.rsedge_version,
            self.date,
        )
        device = (v for v in asdict(self.device).values() if v is not None)
        for word in (*words, *device):
            if (wrong := odd_name(word)) is not None:
                raise ModelError(f"a name in the facts of an engine {wrong}")
        if self.precision not in PRECISIONS:
            raise ModelError(f"precision {self.precision!r} is not one of {', '.join(PRECISIONS)}")
        if self.device.library not in ENGINE_DEVICES.values():
            raise ModelError(
                f"library {self.device.library!r} is not one of {', '.join(ENGINE_DEVICES.values())}"
            )
        if Path(self.file).name != self.file or not self.file.endswith(".plan"):
            raise ModelError(f"{self.file!r} is not the name of a plan")

    @property
    def source(self) -> str:
        """Return the precision of the artifact that the plan was built from, such as "int8-trt8"."""
        return self.onnx.removeprefix("model.").removesuffix(".onnx")

    def to_json(self) -> str:
        """Return the facts as one JSON object, keys in the order of the fields."""
        return json.dumps({"rsedge_plan_schema": SCHEMA, **asdict(self)}, indent=2)

    @classmethod
    def from_json(cls, text: str | bytes, source: str) -> PlanFacts:
        """Parse ``to_json``'s output. Raises ModelError, naming ``source``, if the text is something else."""
        try:
            return from_json(cls, without_schema(parse_json(text), "rsedge_plan_schema", SCHEMA), exact=True)
        except OtherSchemaError as error:
            raise ModelError(f"{source}: plan {error}") from error
        except ValueError as error:
            raise ModelError(
                f"{source} was not written by rsedge ({error}). "
                "Delete this file and its .plan, and build the engine again"
            ) from error


def plan_name(precision: str, device: Device) -> str:
    """Return the file name of a plan, unique for each precision, kind of device and TensorRT version."""
    return f"{precision}-{device_tag(device)}.plan"


def device_tag(device: Device) -> str:
    """Return the device for a file name: "orin-jetson-nano-sm87-trt10.3.0". Devices of one SM differ in the name.

    Engines of TensorRT for RTX do not: "sm86-rtx1.7.1.116".
    """
    if device.library == RTX:
        return f"sm{device.sm}-rtx{device.tensorrt}"
    words = dict.fromkeys(re.findall("[a-z0-9]+", (device.name or "").lower()))  # once each
    slug = "-".join(w for w in words if w not in {"nvidia", "developer", "kit", "gpu"})
    return f"{slug[:48] or 'gpu'}-sm{device.sm}-trt{device.tensorrt}"


def plan_path(bundle: Path, facts: PlanFacts) -> Path:
    """Return the path of the plan."""
    return bundle / ENGINES / facts.file


def write_plan(bundle: Path, plan: bytes | memoryview, facts: PlanFacts) -> Path:
    """Write plan and facts into the bundle; return the plan's path.

    Each file appears only when complete. A crash between the two leaves facts whose hash is not the plan's, which
    ``mismatches`` reports. Raises OutputError.
    """
    path = plan_path(bundle, facts)
    with writing(path, ". Free disk space, or move the bundle"):
        path.parent.mkdir(exist_ok=True)
        # The inner file is renamed first, so that the plan appears before its facts.
        with whole_or_nothing(path.with_suffix(".json")) as sidecar, whole_or_nothing(path) as partial:
            partial.write_bytes(plan)
            sidecar.write_text(facts.to_json() + "\n", encoding="utf-8")
    return path


def list_engines(bundle: Path) -> tuple[PlanFacts, ...]:
    """Return the facts of a bundle's engines, sorted by name. Raises ModelError if a sidecar is damaged."""
    sidecars = sorted((bundle / ENGINES).glob("*.json"))
    return tuple(PlanFacts.from_json(_read(path), str(path)) for path in sidecars)


def mismatches(facts: PlanFacts, bundle: Bundle, here: Device) -> tuple[str, ...]:
    """Return the reasons why an engine of ``bundle`` cannot run on the device ``here``; empty if it can.

    A plan needs its exact TensorRT version; versions of CUDA and of the driver are recorded but not compared.
    """
    built, found = facts.device, []
    path = plan_path(bundle.path, facts)
    if not path.is_file():
        found.append(f"the plan {facts.file} is missing")
    elif (sha256 := file_sha256(path)) != facts.sha256:
        found.append(
            f"the plan was changed after it was built (SHA-256 {sha256[:12]}..., not {facts.sha256[:12]}...)"
        )
    onnx_sha256 = bundle.artifacts.get(facts.onnx)
    if onnx_sha256 is None:
        found.append(f"its source {facts.onnx} is no longer in the bundle")
    elif onnx_sha256 != facts.onnx_sha256:
        found.append(
            f"its source {facts.onnx} has changed (SHA-256 {onnx_sha256[:12]}..., not {facts.onnx_sha256[:12]}...)"
        )
    for what, then, now in (
        (here.library, built.tensorrt, here.tensorrt),
        ("SM", built.sm, here.sm),
        ("device", built.name or here.name, here.name),
    ):
        if then != now:
            found.append(f"it was built for {what} {then}, but this machine has {now}")
    return tuple(found)


def choose(bundle: Bundle, precision: str | None, here: Device) -> PlanFacts:
    """Return the engine of ``here.library`` to run: of the requested precision, else (None) the only one that fits.

    Raises ModelError if none fits, with every difference and the command to build one, and
    InputError if several fit.
    """
    engines = list_engines(bundle.path)
    where = "" if here.target else " on this machine"
    candidates = [e for e in engines if e.device.library == here.library and precision in {None, e.precision}]
    if not candidates:
        have = f"it has {', '.join(e.file for e in engines)}" if engines else "it has none"
        wanted = f"{here.library} engine" + (f" in {precision}" if precision else "")
        again = command(bundle.path, precision, here.target)
        build = elsewhere(bundle.path) or f"build one{where}: {again}"
        raise ModelError(f"{bundle.path} has no {wanted} ({have}); {build}")
    differences = {e.file: mismatches(e, bundle, here) for e in candidates}
    fit = [e for e in candidates if not differences[e.file]]
    if len(fit) == 1:
        return fit[0]
    if fit:
        raise InputError(
            f"{bundle.path} has several engines that fit: {', '.join(e.file for e in fit)}. "
            "Choose one with --precision" + (", or delete the others" if precision else "")
        )
    reasons = "; ".join(f"{file}: {', '.join(why)}" for file, why in differences.items())
    raise ModelError(
        f"{bundle.path} has no {here.library} engine that can run on this machine: {reasons}. "
        f"Build one{where}: {command(bundle.path, precision or candidates[0].precision, here.target)}"
    )


def command(bundle: Path, precision: str | None, target: str | None = None) -> str:
    """Return the command that builds an engine; ``target``: see `Device.target`."""
    wanted = f" --for {target}" if target else ""
    chosen = f" --precision {precision}" if precision else ""
    return f"rsedge export --trt{wanted} --bundle {shlex.quote(str(bundle))}{chosen}"


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelError(f"{path} cannot be read: {error}. Delete this file and its .plan") from error
