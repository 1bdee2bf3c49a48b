"""Speeds of a bundle's artifacts on this machine, measured by `rsedge verify` and used by ``--device auto``."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rsedge.documents import from_json, odd_name, parse_json, read_bytes, without_schema
from rsedge.errors import InputError, ModelError
from rsedge.files import user_cache, whole_or_nothing
from rsedge.machine import board_name, cpu_name, gpu_names, usable_cores
from rsedge.model.bundle import DEFAULT_BUNDLE, SPEEDS_NAME, Bundle
from rsedge.model.engines import ENGINE_DEVICES, list_engines

SCHEMA = 1
ON_CPU = ("cpu", "openvino")  # devices whose speed depends on the number of threads
ENGINES = (*ENGINE_DEVICES, "ort-tensorrt")  # devices used only if a precision is requested
DEVICES = (*ON_CPU, "cuda", *ENGINES)


@dataclass(frozen=True)
class Machine:
    """The machine that a measurement is valid for."""

    cpu: str
    cores: int  # usable by the process
    device: str  # names of board and GPUs, "" if there are none

    @classmethod
    def here(cls) -> Machine:
        """Describe this machine."""
        return cls(cpu_name(), usable_cores(), ", ".join(n for n in (board_name(), *gpu_names()) if n))


@dataclass(frozen=True)
class Speed:
    """Speed of one artifact on one device, measured in turns with the reference: fp32 in ONNX Runtime on the CPU.

    Raises InputError if a number cannot come from a measurement.
    """

    precision: str  # of the artifact
    device: str  # name of the requested device
    provider: str  # what actually ran
    version: str  # of the library
    threads: int  # of the CPU
    tile_ms: float  # median time per tile, with all streams at work
    reference_ms: float  # the reference's, one tile at a time, on the same tiles
    agreement: float  # share of pixels with the reference's class
    sha256: str  # of the artifact, or of the engine
    date: str  # UTC, ISO 8601
    machine: Machine
    streams: int = 1  # tiles in work at once
    passed: bool = (
        True  # False if its answers differ too much here, or (times 0) it broke down: not to be used
    )

    def __post_init__(self) -> None:
        names = (self.precision, self.device, self.provider, self.version, self.sha256, self.date)
        for name in names:
            if (wrong := odd_name(name)) is not None:
                raise InputError(f"a name in it {wrong}")
        if self.device not in DEVICES:
            raise InputError(f"device {self.device} is unknown; known are {', '.join(DEVICES)}")
        times_ms = self.tile_ms, self.reference_ms
        possible = all(0 < ms < math.inf or (ms == 0 and not self.passed) for ms in times_ms)
        if not (possible and 0 <= self.agreement <= 1 and self.streams >= 1):
            raise InputError(
                f"{self.tile_ms} ms per tile, {self.reference_ms} ms of the reference, agreement {self.agreement} and "
                f"{self.streams} streams are impossible: times must be above 0, agreement a share, streams 1 or more"
            )

    @property
    def cost(self) -> float:
        """Time relative to the reference; both were measured in turns, so disturbances affected both."""
        return self.tile_ms / self.reference_ms


def load_speeds(bundle: Bundle) -> tuple[tuple[Speed, ...], str | None]:
    """Read all measurements of a bundle, from any machine, and describe what is wrong with their files."""
    found, wrong = dict[tuple[Any, ...], Speed](), list[str]()
    for path in _places(bundle):
        try:
            facts = without_schema(parse_json(read_bytes(path)), "rsedge_speeds_schema", SCHEMA)
            for held in facts["speeds"]:
                speed = from_json(Speed, held, exact=True)
                key = _key(speed)
                if key not in found or found[key].date <= speed.date:
                    found[key] = speed
        except FileNotFoundError:
            continue
        except (OSError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            wrong.append(f"{path} is not a valid speeds file ({type(error).__name__}: {error})")
    return tuple(found.values()), "; ".join(wrong) or None


def keep_speeds(bundle: Bundle, speeds: Iterable[Speed]) -> Path:
    """Write the speeds beside the bundle's report, else into the user's cache; return the file.

    Measurements of other artifacts and machines are kept. Raises OSError if neither place is writable.
    """
    known = {_key(speed): speed for speed in (*load_speeds(bundle)[0], *speeds)}
    facts = {"rsedge_speeds_schema": SCHEMA, "speeds": [asdict(speed) for speed in known.values()]}
    text, places = json.dumps(facts, indent=2) + "\n", _places(bundle)
    for path in places:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_or_nothing(path) as partial:
                partial.write_text(text, encoding="utf-8")
        except OSError:
            if path == places[-1]:
                raise
        else:
            break
    return path


def fitting(
    speeds: Iterable[Speed], bundle: Bundle, threads: int | None, engines: bool = False
) -> tuple[Speed, ...]:
    """Return the measurements valid for this bundle, machine and thread count that passed, fastest first.

    ``engines``: include TensorRT engines of the artifact's precision.
    """
    held = valid(speeds, bundle, (bundle.precision,), threads)
    fit = [speed for speed in held if speed.passed and (engines or speed.device not in ENGINES)]
    return tuple(sorted(fit, key=lambda speed: speed.cost))


def valid(
    speeds: Iterable[Speed], bundle: Bundle, precisions: Iterable[str], threads: int | None
) -> tuple[Speed, ...]:
    """Return the measurements of these artifacts of the bundle on this machine and thread count, passed or not."""
    here, threads, plans = Machine.here(), threads or usable_cores(), _plans(bundle)
    hashes = {precision: bundle.sha256_of(precision) for precision in precisions}
    return tuple(
        speed
        for speed in speeds
        if (speed.precision in hashes and speed.machine == here)
        and (speed.device not in ON_CPU or speed.threads == threads)
        and (
            speed.sha256 in plans
            if speed.device in ENGINE_DEVICES
            else speed.sha256 == hashes[speed.precision]
        )
    )


def _places(bundle: Bundle) -> tuple[Path, ...]:
    """Return the possible places of a speeds file, the preferred one first."""
    listed = json.dumps(sorted(bundle.artifacts.items())).encode()
    cached = user_cache() / "speeds" / f"{hashlib.sha256(listed).hexdigest()}.json"
    # The installed model belongs to a package, whose files must stay equal to the wheel's or checkout's.
    if not bundle.path.is_dir() or bundle.path.resolve() == DEFAULT_BUNDLE.resolve():
        return (cached,)
    return bundle.path / SPEEDS_NAME, cached


def _key(speed: Speed) -> tuple[Any, ...]:
    return speed.precision, speed.device, speed.threads, speed.streams, speed.machine


def _plans(bundle: Bundle) -> frozenset[str]:
    """Return the SHA-256 of the bundle's engines."""
    try:
        return frozenset(e.sha256 for e in list_engines(bundle.path)) if bundle.path.is_dir() else frozenset()
    except ModelError:
        return frozenset()
