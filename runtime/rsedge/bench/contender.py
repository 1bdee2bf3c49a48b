"""Models to measure: artifacts of bundles on the available devices, and a teacher."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rsedge.backends.speeds import ON_CPU
from rsedge.bench.facts import STUDENT, TEACHER, BenchOptions, NotRun
from rsedge.errors import InputError
from rsedge.model.bundle import DEFAULT_BUNDLE, Bundle
from rsedge.verify.compare import TRT_ONLY, Candidate, candidates

OPEN_ARTIFACT = "rsedge.bench.worker:open_artifact"
FOR_TENSORRT = "it is made for TensorRT, not for a CPU; measure it all the same with --precision"


@dataclass(frozen=True)
class Contender:
    """A model for a worker process. ``opener``: function, "module:name", from the contender to (backend, facts).

    ``path``: a bundle; for a teacher, a run folder or the name of a network. ``like``: the bundle whose classes, bands
    and tile a teacher must have.
    """

    path: str
    device: str
    precision: str | None = None
    threads: int | None = None
    role: str = STUDENT
    opener: str = OPEN_ARTIFACT
    like: str | None = None
    streams: int = 1  # on a CPU
    optional: bool = False  # not named by the user: if opening fails, the bench runs without it

    def __str__(self) -> str:
        if self.role == TEACHER:
            return f"teacher {self.path}"
        return f"{Path(self.path).name}: {self.precision} on {self.device}"

    def to_json(self) -> str:
        """Return the contender as JSON, for a worker's command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Contender:
        """Parse the output of ``to_json``."""
        return cls(**json.loads(text))


def of_bundles(
    paths: Sequence[str | Path | None], options: BenchOptions
) -> tuple[tuple[Contender, ...], tuple[NotRun, ...]]:
    """Return the artifacts of the bundles that can run on this machine, and the rest with the reason.

    Raises InputError or ModelError if a path is not a bundle or lacks the requested precision.
    """
    found, left_out = list[Contender](), list[NotRun]()
    for path in paths:
        bundle = _open(path, options.precision)
        name = bundle.manifest.name
        for candidate in _candidates(bundle, options):
            if candidate.missing:
                left_out.append(NotRun(f"{name}: {candidate}", candidate.missing))
            else:
                own = str(bundle.path), candidate.device, candidate.precision, options.threads
                found.append(Contender(*own, streams=options.streams if candidate.device in ON_CPU else 1))
    return tuple(found), tuple(left_out)


def _open(path: str | Path | None, precision: str | None) -> Bundle:
    """Open the bundle at ``precision``, unless it has engines: an engine's precision needs no ONNX file."""
    folder = DEFAULT_BUNDLE if path is None else Path(path)
    return Bundle.open(folder, precision if precision and not _has_engines(folder) else None)


def _has_engines(folder: Path) -> bool:
    return (folder / "engines").is_dir()


def _candidates(bundle: Bundle, options: BenchOptions) -> list[Candidate]:
    found = list(candidates(bundle, options.device, options.precision))
    # ``candidates`` leaves out fp32 on the CPU, because `verify` compares all others with it.
    own = Candidate("fp32", "cpu")
    if (
        "fp32" in bundle.precisions
        and options.device in {"auto", "cpu"}
        and options.precision in {None, "fp32"}
    ):
        found.insert(0, own)
    if not found:
        raise InputError(f"{bundle.path}: nothing to measure for device {options.device}")
    return [_not_meant(c) if options.precision is None else c for c in found]


def _not_meant(candidate: Candidate) -> Candidate:
    if candidate.missing is None and candidate.device == "cpu" and candidate.precision.startswith(TRT_ONLY):
        return Candidate(candidate.precision, candidate.device, FOR_TENSORRT)
    return candidate
