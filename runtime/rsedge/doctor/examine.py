"""The examination: every library and device in a process of its own, two at a time."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rsedge.doctor import advice
from rsedge.doctor.child import Answer, ask
from rsedge.doctor.facts import Checkup, Library, Measured, Way
from rsedge.doctor.system import this_machine
from rsedge.documents import from_json
from rsedge.version import __version__

# Module and probe of each library; those of the first line are needed, the others are extras.
LIBRARIES = {
    "numpy": "library", "rasterio": "rasterio", "PIL": "library",
    "onnxruntime": "onnxruntime", "openvino": "library", "tensorrt": "tensorrt", "tensorrt_rtx": "library",
}  # fmt: skip
PROVIDERS = {"cuda": "CUDAExecutionProvider", "ort-tensorrt": "TensorrtExecutionProvider"}
AT_ONCE = 2


@dataclass(frozen=True)
class Tried:
    """Answers of all probes."""

    libraries: Mapping[str, Answer | None]  # None: not installed
    ways: Mapping[str, Answer]
    kernels: Answer
    speeds: Answer
    segment: Answer


def examine(model: str | None = None) -> Checkup:
    """Examine this machine with a bundle (None: the default model)."""
    machine = this_machine()
    tried = _try_all(model or "")
    libraries = tuple(_library(name, answer) for name, answer in tried.libraries.items())
    ways = tuple(
        Way(name, a.failed is None, a.facts.get("provider"), a.facts.get("version"), a.failed)
        for name, a in tried.ways.items()
    )
    speeds = tuple(from_json(Measured, held) for held in tried.speeds.facts.get("speeds", ()))
    packages = advice.onnxruntime_packages()
    return Checkup(
        rsedge=__version__,
        model=str(tried.speeds.facts.get("model") or model or "the default model"),
        machine=machine,
        libraries=(*libraries, _compiler(tried.kernels)),
        ways=ways,
        speeds=speeds,
        missing=advice.missing(machine, libraries, tried.kernels.facts.get("compiled") is True),
        wrong=advice.wrong(machine, libraries, ways, packages, tried.speeds.facts.get("wrong")),
        why_not=_why_not(libraries, ways, tried.segment),
    )


def _try_all(model: str) -> Tried:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        libraries = {
            name: pool.submit(ask, probe, *((name,) if probe == "library" else ()))
            for name, probe in LIBRARIES.items()
            if _is_installed(name)
        }
        kernels = pool.submit(ask, "kernels")
        speeds, segment = pool.submit(ask, "speeds", model), pool.submit(ask, "segment", model)
        answers = {name: libraries[name].result() if name in libraries else None for name in LIBRARIES}
        ways = {name: pool.submit(ask, "device", model, name) for name in _devices(answers)}
        return Tried(
            answers,
            {name: future.result() for name, future in ways.items()},
            kernels.result(),
            speeds.result(),
            segment.result(),
        )


def _devices(libraries: Mapping[str, Answer | None]) -> list[str]:
    """List the devices that the libraries offer."""
    ort, openvino, tensorrt = (libraries[name] for name in ("onnxruntime", "openvino", "tensorrt"))
    offered = ort.facts.get("providers", ()) if ort else ()
    devices = ["cpu"] if ort else []
    devices += [device for device, provider in PROVIDERS.items() if provider in offered]
    return [*devices, *["openvino"] * bool(openvino), *["tensorrt"] * bool(tensorrt and not tensorrt.failed)]


def _is_installed(name: str) -> bool:
    """Return True if a module can be found, without importing it."""
    with suppress(ImportError, ValueError):
        found = importlib.util.find_spec(name)
        # A folder without code is what an uninstalled package leaves behind.
        return found is not None and found.origin is not None
    return False


def _library(name: str, answer: Answer | None) -> Library:
    if answer is None:
        return Library(name, "missing")
    if answer.failed:
        return Library(name, "failed", _version(name), answer.failed)
    facts: dict[str, Any] = answer.facts
    return Library(name, "ok", facts.get("version"), facts.get("detail"))


def _version(name: str) -> str | None:
    try:
        return version({"PIL": "pillow"}.get(name, name))
    except PackageNotFoundError:
        return None


def _compiler(answer: Answer) -> Library:
    if answer.failed:
        return Library("C compiler", "failed", None, answer.failed)
    if answer.facts.get("compiled"):
        return Library("C compiler", "ok", None, "rsedge's loops are compiled")
    return Library("C compiler", "missing")


def _why_not(libraries: tuple[Library, ...], ways: tuple[Way, ...], segment: Answer) -> str | None:
    """Return why no raster was segmented, naming the library that is to blame if one is."""
    if segment.failed is None:
        return None
    needed = [lib for lib in libraries if lib.name in {"numpy", "rasterio", "PIL"} and lib.state != "ok"]
    blamed = "; ".join(f"{lib.name} {lib.detail or 'is not installed'}" for lib in needed)
    others = [way.device for way in ways if way.runs]
    hint = f"; one tile runs with --device {' or '.join(others)}" if others else ""
    return blamed or f"{segment.failed}{hint}"
