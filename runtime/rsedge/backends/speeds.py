"""How fast a bundle's artifacts ran on this machine: what `rsedge verify` measured and ``--device auto`` goes by."""

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
from rsedge.model.engines import list_engines

SCHEMA = 1
ON_CPU = ("cpu", "openvino")  # devices whose speed depends on the number of threads
ENGINES = ("tensorrt", "ort-tensorrt")  # devices that are taken only when a precision is asked for
DEVICES = (*ON_CPU, "cuda", *ENGINES)


@dataclass(frozen=True)
class Machine:
    """What a time holds for."""

    cpu: str
    cores: int  # that the process may use
    device: str  # board and GPUs by name, "" where there are none

    @classmethod
    def here(cls) -> Machine:
        """This one."""
        return cls(cpu_name(), usable_cores(), ", ".join(n for n in (board_name(), *gpu_names()) if n))


@dataclass(frozen=True)
class Speed:
    """One artifact on one device, measured in turns with the reference: fp32 in ONNX Runtime on the CPU.

    Raises InputError where a number cannot be one of a measurement.
    """

    precision: str  # of the artifact
    device: str  # as it is asked for by name
    provider: str  # what really ran
    version: str  # of the library behind it
    threads: int  # of the CPU
    tile_ms: float  # p50 of one tile
    reference_ms: float  # p50 of the reference on the same tiles
    agreement: float  # share of the pixels with the reference's class
    sha256: str  # of the artifact, or of the engine
    date: str  # UTC, ISO 8601
    machine: Machine

    def __post_init__(self) -> None:
        names = (self.precision, self.device, self.provider, self.version, self.sha256, self.date)
        for name in names:
            if (wrong := odd_name(name)) is not None:
                raise InputError(f"a name in it {wrong}")
        if self.device not in DEVICES:
            raise InputError(f"device {self.device} is none of {', '.join(DEVICES)}")
        if not (
            0 < self.tile_ms < math.inf and 0 < self.reference_ms < math.inf and 0 <= self.agreement <= 1
        ):
            raise InputError(
                f"{self.tile_ms} ms a tile, {self.reference_ms} ms of the reference and agreement {self.agreement} "
                "were never measured: times are above 0, an agreement is a share"
            )

    @property
    def cost(self) -> float:
        """Its time over the reference's: they took turns, so what disturbed the machine disturbed both."""
        return self.tile_ms / self.reference_ms


def load_speeds(bundle: Bundle) -> tuple[tuple[Speed, ...], str | None]:
    """All that was measured of a bundle, here or elsewhere, and what is wrong with the files that hold it."""
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
            wrong.append(f"{path} is not what rsedge writes ({type(error).__name__}: {error})")
    return tuple(found.values()), "; ".join(wrong) or None


def keep_speeds(bundle: Bundle, speeds: Iterable[Speed]) -> Path:
    """Write them beside the bundle's report, or into the user's cache where that is not to be; returns the file.

    What was measured before of other artifacts, or on other machines, stays. Raises OSError where neither can be
    written.
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
    """Those of ``bundle``'s artifact on this very machine with as many ``threads``, fastest first.

    ``engines``: also those of TensorRT that have the artifact's precision.
    """
    here, threads = Machine.here(), threads or usable_cores()
    plans = _plans(bundle) if engines else frozenset()
    fit = [
        speed
        for speed in speeds
        if (speed.precision, speed.machine) == (bundle.precision, here)
        and (speed.device not in ON_CPU or speed.threads == threads)
        and (engines or speed.device not in ENGINES)
        and (speed.sha256 in plans if speed.device == "tensorrt" else speed.sha256 == bundle.sha256)
    ]
    return tuple(sorted(fit, key=lambda speed: speed.cost))


def _places(bundle: Bundle) -> tuple[Path, ...]:
    """Where speeds may lie, the better place first."""
    listed = json.dumps(sorted(bundle.artifacts.items())).encode()
    cached = user_cache() / "speeds" / f"{hashlib.sha256(listed).hexdigest()}.json"
    # The installed model is part of a package, which a wheel or a checkout must not differ from.
    if not bundle.path.is_dir() or bundle.path.resolve() == DEFAULT_BUNDLE.resolve():
        return (cached,)
    return bundle.path / SPEEDS_NAME, cached


def _key(speed: Speed) -> tuple[Any, ...]:
    return speed.precision, speed.device, speed.threads, speed.machine


def _plans(bundle: Bundle) -> frozenset[str]:
    """SHA-256 of the bundle's engines."""
    try:
        return frozenset(e.sha256 for e in list_engines(bundle.path)) if bundle.path.is_dir() else frozenset()
    except ModelError:
        return frozenset()
