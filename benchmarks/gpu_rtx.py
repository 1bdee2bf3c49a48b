"""TensorRT for RTX on this GPU, for gpu.py: whether its compiler supports the GPU, and the engine it builds."""

from __future__ import annotations

import ctypes
import importlib
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gpu_tools import Facts, attempt

KNOWN = ("75", "80", "86", "89", "120", "121")  # compute capabilities that it compiles for ahead of time
LIBRARIES = ("onnxruntime_ep_nv_tensorrt_rtx", "libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1")
BINDINGS = "tensorrt_rtx_bindings"


def rtx(how: Facts) -> Iterator[Facts]:
    """Describe the GPU, and build the fp16 student if the packages are installed."""
    sm = how["compute_capability"]
    yield {"what": "compute capability", "sm": sm, "known": sm in KNOWN}
    if find_spec(BINDINGS) is None:
        yield {"what": "build", "failed": f"{BINDINGS} is not installed (gpu_kit.py make --rtx)"}
        return
    yield attempt("build", _build, Path(how["bundle"]), Path(how["work"]))


def _build(bundle: Path, work: Path) -> Facts:
    """Return seconds and bytes of an engine for this machine's GPU."""
    from rsedge.model.bundle import Bundle  # noqa: PLC0415
    from rsedge.model.engines import Batch  # noqa: PLC0415
    from rsedge_export.engines.monitor import Log  # noqa: PLC0415
    from rsedge_export.engines.network import Job, build_plan  # noqa: PLC0415

    _load_libraries()
    trt: Any = importlib.import_module(BINDINGS)
    # trt_network decides by the version whether networks are strongly typed; TensorRT for RTX restarts at 1.
    as_typed = SimpleNamespace(**{**vars(trt), "__version__": "10.0"})
    log = Log.of(as_typed)
    opened = Bundle.open(bundle, "fp16")
    job = Job(opened.artifact, "fp16", Batch(), 1 << 30, 1 << 30, 3, work / "timings")
    start = time.perf_counter()
    plan, _ = build_plan(as_typed, log, job, None)
    return {"seconds": time.perf_counter() - start, "bytes": len(plan), "version": trt.__version__}


def _load_libraries() -> None:
    """Load the libraries under the names that the bindings expect."""
    package, *names = LIBRARIES
    spec = find_spec(package)
    folders = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    for name in names:
        for file in (file for folder in folders for file in sorted(folder.rglob(f"{name}*"))[:1]):
            ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)
