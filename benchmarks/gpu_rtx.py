"""TensorRT for RTX on this GPU, for gpu.py: whether its compiler supports the GPU, and the engine it builds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from gpu_tools import Facts, attempt

KNOWN = ("75", "80", "86", "89", "120", "121")  # compute capabilities that it compiles for ahead of time


def rtx(how: Facts) -> Iterator[Facts]:
    """Describe the GPU, and build the fp16 student if the packages are installed."""
    from rsedge.backends.rtx import is_installed  # noqa: PLC0415

    sm = how["compute_capability"]
    yield {"what": "compute capability", "sm": sm, "known": sm in KNOWN}
    if not is_installed():
        yield {"what": "build", "failed": "TensorRT for RTX is not installed (gpu_kit.py make --rtx)"}
        return
    yield attempt("build", _build, Path(how["bundle"]), sm if sm in KNOWN else "86")


def _build(bundle: Path, sm: str) -> Facts:
    """Return seconds and bytes of an engine for this machine's GPU, or for SM 8.6 if the compiler does not know it."""
    from rsedge.backends.rtx import import_tensorrt_rtx  # noqa: PLC0415
    from rsedge.model.bundle import Bundle  # noqa: PLC0415
    from rsedge_export.engines.cross import compile_onnx  # noqa: PLC0415

    trt, start = import_tensorrt_rtx(), time.perf_counter()
    made = compile_onnx(trt, Bundle.open(bundle, "fp16").artifact, "fp16", sm)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "bytes": len(made.plan),
        "sm": sm,
        "version": trt.__version__,
        **asdict(made.traffic),
    }
