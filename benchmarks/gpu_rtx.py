"""TensorRT for RTX on this GPU, for gpu.py: whether its compiler knows it, and what it builds where it is installed."""

from __future__ import annotations

import ctypes
import importlib
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from gpu_tools import Facts, attempt

from rsedge.bundle import Bundle
from rsedge.plans import Batch
from rsedge_export.trt_network import Job, build_plan
from rsedge_export.trt_watch import Log

KNOWN = (
    (7, 5),
    (8, 0),
    (8, 6),
    (8, 9),
    (12, 0),
    (12, 1),
)  # compute capabilities it compiles for ahead of time
LIBRARIES = ("onnxruntime_ep_nv_tensorrt_rtx", "libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1")
BINDINGS = "tensorrt_rtx_bindings"


def rtx(how: Facts) -> Iterator[Facts]:
    """Say what the GPU is; build the fp16 student where the packages are."""
    yield attempt("compute capability", lambda: _capability(how["device"]))
    if find_spec(BINDINGS) is None:
        yield {"what": "build", "failed": f"{BINDINGS} is not installed (gpu_kit.py make --rtx)"}
        return
    yield attempt("build", lambda: _build(Path(how["bundle"]), Path(how["work"])))


def _capability(device: str) -> Facts:
    if device == "cpu":
        return {"sm": None, "known": False}
    found = torch.cuda.get_device_capability()
    return {"sm": "".join(map(str, found)), "known": found in KNOWN}


def _build(bundle: Path, work: Path) -> Facts:
    """Seconds and bytes of an engine for the GPU that is here."""
    _load_libraries()
    trt: Any = importlib.import_module(BINDINGS)
    # trt_network asks the version whether networks are strongly typed: TensorRT for RTX counts anew from 1.
    as_typed = SimpleNamespace(**{**vars(trt), "__version__": "10.0"})
    log = Log.of(as_typed)
    opened = Bundle.open(bundle, "fp16")
    job = Job(opened.artifact, "fp16", Batch(), 1 << 30, 1 << 30, 3, work / "timings")
    start = time.perf_counter()
    plan, _ = build_plan(as_typed, log, job, None)
    return {"seconds": time.perf_counter() - start, "bytes": len(plan), "version": trt.__version__}


def _load_libraries() -> None:
    """Under the names that the bindings ask for."""
    package, *names = LIBRARIES
    spec = find_spec(package)
    folders = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    for name in names:
        for file in (file for folder in folders for file in sorted(folder.rglob(f"{name}*"))[:1]):
            ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)
