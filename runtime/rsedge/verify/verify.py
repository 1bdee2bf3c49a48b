"""Comparison of every artifact of a bundle, on every backend of this machine, with the reference.

The reference is fp32 in ONNX Runtime on the CPU. Each candidate runs in turns with it, so load disturbs both alike,
and at most two models are in memory.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rsedge.backends import DEVICES, Backend, open_backend
from rsedge.backends.speeds import ON_CPU, keep_speeds
from rsedge.engine.sliding_window import Progress
from rsedge.errors import BackendError, InputError
from rsedge.infer.options import Options
from rsedge.model.bundle import PRECISIONS, Bundle
from rsedge.model.engines import ENGINE_DEVICES
from rsedge.raster import RasterReader, bounded_cache, plan_bands
from rsedge.raster.band_plan import AS_TAGGED, Masking
from rsedge.raster.look import look
from rsedge.raster.scaling import check_scale
from rsedge.tiling.axes import Seam
from rsedge.verify.compare import Candidate, Check, candidates, check, opened
from rsedge.verify.conditions import Conditions
from rsedge.verify.map import AgreementMap, map_agreement
from rsedge.verify.measured import check_streams, speeds_of, steps, stream_counts
from rsedge.verify.seams import Seams, measure_seams
from rsedge.verify.tiles import COARSE, REFERENCE_NAME, RasterTiles, ReferenceAnswer, SampleTiles, Tiles

# Limits against reference.npz: share of equal classes, and errors of scores as a share of their range.
SAME_ANSWER, ANSWER_ERROR = 0.999, 0.01
# Tilings that ``--seams`` compares: the default, and those it should beat.
SEAMS: tuple[tuple[Seam, float], ...] = (("blend", 0.25), ("crop", 0.25), ("crop", 0.0))


@dataclass(frozen=True)
class VerifyOptions:
    """Options of ``verify``. ``device`` "auto" means every available one, ``precision`` None every artifact."""

    tiles: int = 16
    device: str = "auto"
    precision: str | None = None
    threads: int | None = None  # of the CPU; None for all cores
    raster: Path | str | None = None  # source of the tiles; None for sample scenes
    bands: tuple[int, ...] | None = None
    scale: tuple[float, float] | None = None
    masking: Masking = AS_TAGGED  # nodata values and alpha, if the raster's own are wrong
    map: Path | str | None = None  # GeoTIFF to write of where the only candidate agrees
    overwrite: bool = False
    seams: Path | str | None = None  # raster to check for visible tile borders, with fp32

    def __post_init__(self) -> None:
        if self.tiles < 1:
            raise InputError(f"{self.tiles} tiles are too few; at least 1 is needed")
        if self.device not in DEVICES:
            raise InputError(f"device {self.device!r} is unknown; choose one of {', '.join(DEVICES)}")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise InputError(
                f"precision {self.precision!r} is unknown; choose one of {', '.join(PRECISIONS)}"
            )
        if self.raster is None and (self.map or (not self.seams and self.reading)):
            raise InputError("a map, bands, scale, nodata and alpha need a raster; give it with --raster")

    @property
    def reading(self) -> dict[str, Any]:
        """Reading options that are set, as arguments of ``Options``."""
        said = {
            "bands": self.bands,
            "scale": self.scale,
            "nodata": self.masking.nodata,
            "alpha": self.masking.alpha,
        }
        return {name: value for name, value in said.items() if value is not None}


@dataclass(frozen=True)
class Fingerprint:
    """Agreement of this machine's fp32 answer with the exporting machine's."""

    tiles: int
    agreement: float  # share of pixels with the same class
    worst_error: float  # largest difference of a score, as a share of their range

    @property
    def passed(self) -> bool:
        """True if both answers are equal but for rounding."""
        return self.agreement >= SAME_ANSWER and self.worst_error <= ANSWER_ERROR


@dataclass(frozen=True)
class Verification:
    """Results of ``verify``, and what they were measured on."""

    model: str
    path: str
    sha256: str  # of the reference's artifact
    tiles: int
    tiles_from: str
    reference: str  # backend and provider of the reference
    conditions: Conditions
    fingerprint: Fingerprint | None  # None if the bundle holds no reference answer
    checks: tuple[Check, ...]
    streams: tuple[
        Check, ...
    ]  # of those that passed on a CPU and of the reference, with several tiles in work at once
    map: AgreementMap | None
    seams: tuple[Seams, ...]  # one per way of ``SEAMS``; () if not requested
    speeds: str  # the file that keeps the speeds for ``--device auto``, or why there is none
    notes: tuple[str, ...]

    @property
    def failures(self) -> tuple[str, ...]:
        """A sentence for each limit that is not met."""
        said = [c.why or c.state for c in (*self.checks, *self.streams) if c.state == "failed"]
        if self.fingerprint and not self.fingerprint.passed:
            said.append(
                f"fp32 on this machine: {self.fingerprint.agreement:.2%} of the classes equal the exporter's answer "
                f"({REFERENCE_NAME}), and scores are within {self.fingerprint.worst_error:.2%} of the range; required "
                f"are {SAME_ANSWER:.1%} and {ANSWER_ERROR:.0%}"
            )
        return tuple(said)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {**asdict(self), "passed": not self.failures, "failures": self.failures}


def verify(
    path: Path | str | None = None, options: VerifyOptions | None = None, progress: Progress | None = None
) -> Verification:
    """Compare all artifacts of the bundle at ``path`` (None: the default model) that this machine can run.

    ``progress`` is called with (tiles done, tiles in total). A difference is not an error: see ``failures``.
    Raises InputError, ModelError if fp32 is missing, BackendError if a requested device or precision cannot run,
    or OutputError.
    """
    options = options or VerifyOptions()
    bundle = Bundle.open(path, "fp32")
    answer = ReferenceAnswer.of(bundle)
    asked = _asked(bundle, options)
    with ExitStack() as stack:
        reference = stack.enter_context(open_backend(bundle, "cpu", options.threads))
        conditions = Conditions.of(reference)
        tiles, notes = _tiles(bundle, options, answer, stack)
        fingerprint = _fingerprint(reference, answer) if answer else None
        own = (Candidate("fp32", "cpu"),) * _wants_reference(options)
        here = [c for c in asked if c.missing is None]
        on_cpu = sum(c.device in ON_CPU for c in (*own, *here))
        comparisons = len(here) + on_cpu * len(stream_counts(reference.threads))
        step = steps(progress, comparisons * len(tiles))
        checks = tuple(check(reference, c, tiles, options.threads, step) for c in asked)
        passed = [c for c, found in zip(asked, checks, strict=True) if found.state == "passed"]
        streams = check_streams(reference, (*own, *passed), tiles, step)
        if all(c.state == "not run" for c in checks):
            why = (
                "; ".join(f"{c.precision} on {c.device}: {c.why}" for c in checks)
                or "there is no other artifact"
            )
            if options.device != "auto" or options.precision or options.map:
                raise BackendError(f"the requested comparison cannot run: {why}")
            notes = (*notes, "only the reference runs on this machine, so nothing was compared with it")
        notes = (*notes, *(c.note for c in checks if c.note))
        return Verification(
            model=bundle.manifest.name,
            path=str(bundle.path),
            sha256=bundle.sha256,
            tiles=len(tiles),
            tiles_from=tiles.what,
            reference=f"{reference.name} {reference.version} {reference.provider}",
            conditions=conditions,
            fingerprint=fingerprint,
            checks=checks,
            streams=streams,
            map=_map(reference, asked, options, progress) if options.map else None,
            seams=_seams(reference, options, progress) if options.seams else (),
            speeds=_keep(reference, (*checks, *streams), conditions),
            notes=notes,
        )


def _wants_reference(options: VerifyOptions) -> bool:
    return options.device in {"auto", "cpu"} and options.precision in {None, "fp32"}


def _asked(bundle: Bundle, options: VerifyOptions) -> tuple[Candidate, ...]:
    """Return the requested candidates. Raises InputError if there are none, or several for one map."""
    if options.precision and options.device not in ENGINE_DEVICES:
        Bundle.open(bundle.path, options.precision)  # raises ModelError if the bundle lacks the precision
    asked = candidates(bundle, options.device, options.precision)
    if not asked:
        raise InputError(
            "fp32 on the cpu is the reference itself, and no other candidate was requested; choose another --device "
            "or --precision"
        )
    here = [str(c) for c in asked if c.missing is None]
    if options.map and len(here) > 1:
        raise InputError(
            f"a map shows one candidate; choose it with --precision and --device from: {', '.join(here)}"
        )
    return asked


def _tiles(
    bundle: Bundle, options: VerifyOptions, answer: ReferenceAnswer | None, stack: ExitStack
) -> tuple[Tiles, tuple[str, ...]]:
    """Return tiles to compare on, open as long as ``stack``, and notes on them."""
    if options.raster is None:
        return SampleTiles(bundle.manifest, options.tiles, answer), ()
    reader = stack.enter_context(RasterReader(options.raster))
    stack.enter_context(bounded_cache(reader.row_of_blocks_bytes))
    plan = plan_bands(reader, bundle.manifest, options.bands, options.scale, options.masking)
    seen = look(reader, plan)
    tiles = RasterTiles(reader, plan, bundle.manifest, options.tiles)
    note = check_scale(reader, plan)
    return tiles, (*plan.notes, *seen, *([note] if note else []))


def _fingerprint(reference: Backend, answer: ReferenceAnswer) -> Fingerprint:
    same, worst = 0, 0.0
    for pixels, classes, coarse in zip(answer.pixels, answer.classes, answer.scores, strict=True):
        scores = reference.infer(pixels[None])[0]
        same += int(np.count_nonzero(scores.argmax(0) == classes))
        worst = max(worst, float(np.abs(scores[:, ::COARSE, ::COARSE] - coarse).max()))
    span = float(np.ptp(answer.scores)) or 1.0
    return Fingerprint(len(answer.pixels), same / answer.classes.size, worst / span)


def _keep(reference: Backend, checks: tuple[Check, ...], on: Conditions) -> str:
    """Save the speeds of what was compared and of the reference; return the file, or why none was written."""
    found = speeds_of(reference, checks, on)
    if not found:
        return "none: nothing was compared with the reference"
    try:
        return str(keep_speeds(reference.bundle, found))
    except OSError as error:
        return f"none: neither the bundle nor the user's cache can be written ({error})"


def _seams(model: Backend, options: VerifyOptions, progress: Progress | None) -> tuple[Seams, ...]:
    assert options.seams is not None
    how = Options(**options.reading)
    ways = [replace(how, seam=seam, overlap=overlap) for seam, overlap in SEAMS]
    return tuple(measure_seams(model, options.seams, way, progress) for way in ways)


def _map(
    reference: Backend, asked: tuple[Candidate, ...], options: VerifyOptions, progress: Progress | None
) -> AgreementMap:
    """Map the only candidate that can run on this machine."""
    assert options.raster is not None
    assert options.map is not None
    (candidate,) = (c for c in asked if c.missing is None)
    how = Options(**options.reading, overwrite=options.overwrite)
    with opened(reference.bundle, candidate, options.threads) as model:
        return map_agreement(reference, model, options.raster, options.map, how, progress)
