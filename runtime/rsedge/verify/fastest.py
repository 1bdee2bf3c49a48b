"""The fastest artifact of a bundle on the fastest device of this machine, as ``--fast`` asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rsedge.backends import Backend, check_numbers, of_streams, open_backend, open_measured
from rsedge.backends.speeds import ON_CPU, Speed, keep_speeds, load_speeds, valid
from rsedge.engine.sliding_window import Progress
from rsedge.errors import BackendError, InputError, ModelError
from rsedge.model.bundle import Bundle
from rsedge.model.engines import ENGINE_DEVICES
from rsedge.verify.compare import TRT_ONLY, Candidate, candidates, check
from rsedge.verify.conditions import Conditions
from rsedge.verify.measured import check_streams, speeds_of, steps, stream_counts
from rsedge.verify.tiles import ReferenceAnswer, SampleTiles

# Sample scenes to compare on, besides the bundle's own tiles, and timed turns: few, so that it takes seconds.
FIRST_TILES, FIRST_ROUNDS = 4, 3
REFERENCE = Candidate("fp32", "cpu")
SLOW_TO_BUILD = "ort-tensorrt"  # builds an engine for minutes, so only where asked for by name


def open_fastest(
    path: Path | str | None = None,
    device: str = "auto",
    threads: int | None = None,
    streams: int | None = None,
    progress: Progress | None = None,
) -> Backend:
    """Open whichever artifact of a bundle (None: the default model) is fastest here, on its fastest device.

    Only artifacts whose gate passed at export are considered, on devices where their answers meet the limits of
    `rsedge verify` on this machine. What nobody has measured here yet is measured first, in seconds, and remembered;
    ``progress`` is called with (tiles done, tiles in total). ``backend.why`` says what was taken, why, and what it
    costs in mIoU by the gate. ``device`` other than "auto" is the only one considered; ``threads`` and ``streams`` as
    for `open_model`.

    Raises ModelError, BackendError or InputError as `open_model` does.
    """
    check_numbers(device, threads, streams)
    bundle = Bundle.open(path)
    choices = _choices(bundle, device)
    if REFERENCE.precision not in bundle.precisions or len(choices) < 2:
        return _only(bundle, choices, device, threads, streams)
    found = list(valid(load_speeds(bundle)[0], bundle, bundle.precisions, threads))
    renewed, news = set[tuple[str, str]](), list[str]()
    while True:
        known = {(speed.precision, speed.device) for speed in found}
        if missing := [c for c in choices if c != REFERENCE and (c.precision, c.device) not in known]:
            try:
                found += _measure(bundle, missing, threads, progress)
            except InputError as error:  # no tiles
                news.append(f"nothing can be measured ({error})")
        ranked = of_streams(_ranked(found, choices), streams)
        for speed in ranked:
            what = speed.precision, speed.device
            try:
                backend = _opened(bundle, speed, threads, streams)
            except (BackendError, ModelError) as error:
                news.append(
                    f"{speed.precision} on {speed.device} was measured, but does not start now ({error})"
                )
                continue
            if backend.version == speed.version and may_be_used(backend.record, backend.bundle.precision):
                backend.why = "; ".join([_why(speed, len(ranked), backend), *news])
                return backend
            backend.close()
            if backend.version != speed.version and what not in renewed:
                renewed.add(what)
                found = [s for s in found if (s.precision, s.device) != what]
                break  # measure it again
        else:
            backend = open_backend(bundle, device, threads, None, streams)
            backend.why = "; ".join(["--fast found nothing faster than fp32", *news])
            return backend


def _choices(bundle: Bundle, device: str) -> tuple[Candidate, ...]:
    """Return what may be taken on this machine, as far as can be told without running it."""
    own = (REFERENCE,) if device in {"auto", "cpu"} and "fp32" in bundle.precisions else ()
    return tuple(
        c
        for c in (*own, *candidates(bundle, device))
        if c.missing is None
        and (c.device != SLOW_TO_BUILD or device == SLOW_TO_BUILD)
        and not (c.precision.startswith(TRT_ONLY) and c.device in ON_CPU)
        # What an engine was built from is known when it is opened.
        and (c.device in ENGINE_DEVICES or may_be_used(bundle.record(c.precision), c.precision))
    )


def may_be_used(record: Mapping[str, Any], precision: str) -> bool:
    """Return True for fp32, which is the reference, and for what passed the exporter's gate, not by force."""
    return precision == "fp32" or (record.get("passed") is True and record.get("forced") is not True)


def _only(
    bundle: Bundle, choices: Sequence[Candidate], device: str, threads: int | None, streams: int | None
) -> Backend:
    """Open the only choice, or the bundle as it is without ``--fast``."""
    choice = choices[0] if len(choices) == 1 else Candidate(bundle.precision, device)
    on_engine = choice.device in ENGINE_DEVICES
    own = bundle if on_engine else Bundle.open(bundle.path, choice.precision)
    backend = open_backend(own, choice.device, threads, choice.precision if on_engine else None, streams)
    which = "artifact" if len(bundle.precisions) == 1 else "artifact that may be used here"
    absent = [str(c.missing) for c in candidates(bundle, "openvino") if c.missing and device == "auto"]
    backend.why = "; ".join(
        [f"--fast has no choice: {backend.bundle.precision} is the only {which}", *absent]
    )
    return backend


def _measure(
    bundle: Bundle, missing: Sequence[Candidate], threads: int | None, progress: Progress | None
) -> tuple[Speed, ...]:
    """Compare what is missing with the reference, then try several streams with the fastest on the CPU."""
    fp32 = Bundle.open(bundle.path, "fp32")
    tiles = SampleTiles(fp32.manifest, FIRST_TILES, ReferenceAnswer.of(fp32))
    with open_backend(fp32, "cpu", threads) as reference:
        conditions = Conditions.of(reference)
        step = steps(progress, (len(missing) + len(stream_counts(reference.threads))) * len(tiles))
        checks = [check(reference, c, tiles, threads, step, FIRST_ROUNDS) for c in missing]
        passed = [c for c in checks if c.state == "passed" and c.device in ON_CPU and (c.speedup or 0) > 1]
        best = max(passed, key=lambda c: c.speedup or 0, default=None)
        candidate = Candidate(best.precision, best.device) if best else REFERENCE
        checks += check_streams(reference, [candidate], tiles, step, FIRST_ROUNDS)
        found = speeds_of(reference, checks, conditions)
    with suppress(OSError):  # then the next run measures again
        keep_speeds(bundle, found)
    return found


def _ranked(found: Sequence[Speed], choices: Sequence[Candidate]) -> tuple[Speed, ...]:
    """Return what passed and may be taken, the fastest first."""
    allowed = {(c.precision, c.device) for c in choices}
    passed = (speed for speed in found if speed.passed and (speed.precision, speed.device) in allowed)
    return tuple(sorted(passed, key=lambda speed: speed.cost))


def _opened(bundle: Bundle, speed: Speed, threads: int | None, streams: int | None) -> Backend:
    own = bundle if speed.device in ENGINE_DEVICES else Bundle.open(bundle.path, speed.precision)
    backend = open_measured(own, speed, threads, speed.precision, streams)
    try:
        backend.check_contract()
    except BaseException:
        backend.close()
        raise
    return backend


def _why(speed: Speed, count: int, backend: Backend) -> str:
    said = [
        f"--fast: {1 / speed.cost:.1f} times as fast as fp32 in ONNX Runtime, fastest of {count} measured here on "
        f"{speed.date[:10]}"
    ]
    if backend.bundle.precision != "fp32":
        said.append(f"{speed.agreement:.1%} of the pixels as in fp32")
    return "; ".join([*said, gate_cost(backend.record, backend.bundle.precision)])


def gate_cost(record: Mapping[str, Any], precision: str) -> str:
    """Return what an artifact costs in mIoU, as its exporter's gate measured it, in words."""
    if precision == "fp32":
        return "full accuracy"
    with suppress(KeyError, TypeError, ValueError):  # a report in another format
        drop = float(record["miou_drop"])
        change = f"{float(record['miou_fp32']):.3f} to {float(record['miou']):.3f}"
        cost = f"costs {drop:.2f} points of mIoU" if drop >= 0 else f"gains {-drop:.2f} points of mIoU"
        return f"{cost} by the gate, {change}"
    return "its cost in mIoU is unknown: the gate had no labels"
