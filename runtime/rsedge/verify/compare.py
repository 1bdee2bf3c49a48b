"""Comparison of one artifact on one device with the reference: candidates, measurement, limits."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import cycle, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.backends import DEVICES, Backend, open_backend
from rsedge.backends.ort import BY_DEVICE, offered_providers
from rsedge.backends.rtx import INSTALL, MODULES
from rsedge.errors import BackendError, InputError, ModelError
from rsedge.model.bundle import Bundle
from rsedge.model.engines import ENGINE_DEVICES, RTX, command, list_engines
from rsedge.verify.agreement import Agreement, AgreementMeter
from rsedge.verify.tiles import Tile, Tiles

SAME_CLEAR = 0.999  # fp32 and fp16: minimum share of clear pixels with the reference's class
SAME_INT8 = 0.97  # int8: minimum share of all pixels with the reference's class
LOSS_INT8 = 0.01  # int8: loss against the exporter's tiles that is worth a note; other tiles are no fault
TRT_ONLY = "int8-trt"  # prefix of precisions that are quantized for TensorRT
FOR_TENSORRT = "quantized for TensorRT; other than that only ONNX Runtime computes it exactly"
FOR_CPUS = "quantized for CPUs (uint8 activations), which TensorRT does not accept"
FOR_RTX = "sm86,sm89,sm120"  # RTX 30, 40 and 50; the GPU is not asked here
NEEDS = {  # any of the modules, and what is said if none is installed
    "openvino": (("openvino",), 'OpenVINO is not installed (`pip install "rsedge[openvino]"`)'),
    "tensorrt": (("tensorrt",), "TensorRT is not installed"),
    "tensorrt-rtx": (MODULES, f"TensorRT for RTX is not installed (`{INSTALL}`)"),
}
ROUNDS, TILES_A_STREAM = 5, 2  # timed turns of each model, after one untimed; tiles of a turn


@dataclass(frozen=True)
class Candidate:
    """An artifact and a device to compare; ``missing`` gives the reason if that is impossible."""

    precision: str  # "all" if the device is missing
    device: str
    missing: str | None = None
    streams: int = 1  # tiles in work at once

    def __str__(self) -> str:
        return f"{self.precision} on {self.device}{f', {self.streams} streams' * (self.streams > 1)}"


@dataclass(frozen=True)
class Check:
    """Outcome of a candidate's comparison."""

    precision: str
    device: str
    state: str  # "passed", "failed" or "not run"
    why: str | None  # a sentence, or None if it passed
    provider: str | None = None  # what actually ran, e.g. "OpenVINO CPU 2026.4"
    found: Agreement | None = None
    recorded: float | None = None  # agreement measured by the exporter on its own tiles
    p50_s: float | None = None  # median time per tile, with all streams at work
    reference_p50_s: float | None = None  # the reference's, on the same tiles in turns
    speedup: float | None = None  # reference_p50_s / p50_s
    note: str | None = None  # remark on a candidate that passed
    version: str | None = None  # of the library
    sha256: str | None = None  # of the artifact, or of the engine
    streams: int = 1  # tiles in work at once


def candidates(bundle: Bundle, device: str = "auto", precision: str | None = None) -> tuple[Candidate, ...]:
    """List all artifacts of ``bundle`` on all devices except the reference, limited by ``device`` and ``precision``."""
    found = list[Candidate]()
    for place in DEVICES[1:]:
        if device not in {"auto", place}:
            continue
        if missing := _missing(bundle, place):
            found.append(Candidate(precision or "all", place, missing))
            continue
        # A requested engine that is missing is listed, so that its error names the command that builds it.
        has = bundle.precisions
        if place in ENGINE_DEVICES:
            has = (precision,) if precision else _engines(bundle, place)
        for p in has:
            if precision not in {None, p} or (p, place) == ("fp32", "cpu"):
                continue
            foreign = _foreign(p, place)
            if foreign is None or precision:
                found.append(Candidate(p, place, foreign))
    return tuple(found)


def check(
    reference: Backend,
    candidate: Candidate,
    tiles: Tiles,
    threads: int | None,
    step: Callable[[], None],
    rounds: int = ROUNDS,
) -> Check:
    """Compare a candidate with ``reference`` on every tile; ``step`` is called after each. Time ``rounds`` turns.

    A candidate that cannot be opened is "not run"; one that is damaged or breaks down has "failed".
    """
    if candidate.missing:
        return _outcome(candidate, "not run", candidate.missing)
    try:
        with opened(reference.bundle, candidate, threads) as model:
            return _judged(reference, candidate, model, tiles, step, rounds)
    except _DamagedError as error:
        return _outcome(candidate, "failed", f"{candidate}: {error}")
    except (BackendError, ModelError, InputError) as error:  # InputError: several engines fit
        return _outcome(candidate, "not run", str(error))


def opened(bundle: Bundle, candidate: Candidate, threads: int | None) -> Backend:
    """Open the candidate's model; the caller closes it. Raises BackendError or ModelError if that fails."""
    engine = candidate.device in ENGINE_DEVICES
    try:
        own = bundle if engine else Bundle.open(bundle.path, candidate.precision)
    except ModelError as error:
        raise _DamagedError(str(error)) from error
    return open_backend(own, candidate.device, threads, candidate.precision, candidate.streams)


class _DamagedError(ModelError):
    """An artifact that the bundle lists but that is missing or altered."""


def _judged(
    reference: Backend,
    candidate: Candidate,
    model: Backend,
    tiles: Tiles,
    step: Callable[[], None],
    rounds: int,
) -> Check:
    try:
        found = _agreement(reference, model, tiles, step)
        reference_s, own_s = _times_s(reference, model, tiles, rounds)
    except BackendError as error:
        broken = _outcome(candidate, "failed", f"{candidate}: {error}")
        return replace(broken, provider=model.provider, version=model.version, sha256=model.bundle.sha256)
    recorded = model.record.get("agreement")
    if isinstance(recorded, bool) or not isinstance(recorded, int | float):
        recorded = None
    why = _shortfall(candidate.precision, found)
    return Check(
        candidate.precision,
        candidate.device,
        "failed" if why else "passed",
        f"{candidate}: {why}" if why else None,
        model.provider,
        found,
        recorded,
        own_s,
        reference_s,
        reference_s / own_s,
        None if why else _note(candidate, found, recorded, model.trouble),
        model.version,
        model.bundle.sha256,
        candidate.streams,
    )


def _note(candidate: Candidate, found: Agreement, recorded: float | None, trouble: str | None) -> str | None:
    said = [f"kept by force: {trouble}"] if trouble else []
    if candidate.precision.startswith("int8") and found.agreement < (recorded or 0) - LOSS_INT8:
        said.append(
            f"{found.agreement:.2%} of the pixels have the reference's class, against {recorded:.2%} on the exporter's "
            "tiles; if these tiles are typical of the model's use, give some to `rsedge export --calibration`"
        )
    return f"{candidate}: {'; '.join(said)}" if said else None


def _agreement(reference: Backend, model: Backend, tiles: Tiles, step: Callable[[], None]) -> Agreement:
    """Compare the model's answers, with all its streams at work, with the reference's."""
    meter, asked = AgreementMeter(), deque[Tile]()

    def batches() -> Iterator[NDArray[Any]]:
        for tile in tiles:
            asked.append(tile)
            yield tile.pixels[None]

    for scores in model.stream(batches()):
        tile = asked.popleft()
        model.check_finite(scores.sum())
        meter.add(reference.infer(tile.pixels[None])[0], scores[0], tile.valid)
        step()
    return meter.result


def _times_s(reference: Backend, model: Backend, tiles: Tiles, rounds: int) -> tuple[float, float]:
    """Return the median seconds per tile of the reference and of the model, streamed as `infer` does.

    Both run in turns and alternate in going first, so that disturbances affect both.
    """
    batches = [tile.pixels[None] for tile in islice(cycle(tiles), TILES_A_STREAM * model.streams)]
    times_s = list[float](), list[float]()  # of the reference, of the model
    for number in range(rounds + 1):
        for who in (0, 1) if number % 2 == 0 else (1, 0):
            start = time.perf_counter()
            deque((reference, model)[who].stream(batches), maxlen=0)
            times_s[who].append((time.perf_counter() - start) / len(batches))
    reference_s, own_s = (float(np.median(times[1:])) for times in times_s)  # without the first, a warm-up
    return reference_s, own_s


def _shortfall(precision: str, found: Agreement) -> str | None:
    """Describe which limit is not met; None if all are."""
    if not precision.startswith("int8"):
        if found.clear_agreement is None:
            return "no pixel is clear: the reference's best two scores are equal everywhere"
        if found.clear_agreement >= SAME_CLEAR:
            return None
        return (
            f"{found.clear_agreement:.3%} of the clear pixels have the reference's class, below the required "
            f"{SAME_CLEAR:.1%}"
        )
    if found.agreement < SAME_INT8:
        return f"{found.agreement:.2%} of the pixels have the reference's class, below the required {SAME_INT8:.0%}"
    return None


def _foreign(precision: str, device: str) -> str | None:
    """Explain why an artifact is not tried on a device unless requested; None if it is."""
    if device == "openvino" and precision.startswith(TRT_ONLY):
        return FOR_TENSORRT
    return FOR_CPUS if (device, precision) == ("ort-tensorrt", "int8") else None


def _missing(bundle: Bundle, device: str) -> str | None:
    """Explain why nothing can run on a device of this machine; None if something may."""
    if (provider := BY_DEVICE.get(device)) and provider not in offered_providers():
        return f"this onnxruntime does not offer {'CUDA' if device == 'cuda' else 'TensorRT'}"
    modules, lacking = NEEDS.get(device, ((), ""))
    if modules and not any(map(find_spec, modules)):
        return lacking
    try:
        if device in ENGINE_DEVICES and not _engines(bundle, device):
            library = ENGINE_DEVICES[device]
            target, where = (FOR_RTX, "") if library == RTX else (None, " on this machine")
            return (
                f"the bundle has no {library} engine; build one{where}: {command(bundle.path, None, target)}"
            )
    except ModelError as error:
        return str(error)
    return None


def _engines(bundle: Bundle, device: str) -> tuple[str, ...]:
    """Return the precisions of the bundle's engines for ``device``, for whatever GPU."""
    engines = list_engines(bundle.path) if bundle.path.is_dir() else ()
    return tuple(dict.fromkeys(e.precision for e in engines if e.device.library == ENGINE_DEVICES[device]))


def _outcome(candidate: Candidate, state: str, why: str) -> Check:
    return Check(candidate.precision, candidate.device, state, why, streams=candidate.streams)
