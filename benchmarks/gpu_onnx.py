"""ONNX Runtime on a GPU, for gpu.py: the command line's answers compared with the CPU's, speed, memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from gpu_tools import Facts, Rsedge, attempt, rsedge
from streaming_peers import agreement

PRECISIONS = ("fp32", "fp16")


def onnx(how: Facts) -> Iterator[Facts]:
    """Compare ONNX Runtime on the device with the CPU: ``verify``, then ``infer`` file to file."""
    work, device, model = Path(how["work"]), how["device"], Path(how["bundle"])
    here = Rsedge(device, work)
    small, large = (work / f"town{side}.tif" for side in (how["side"], how["large_side"]))
    drawing = [_draw(small, how["side"]), _draw(large, how["large_side"])]  # in parallel, meanwhile
    for precision in PRECISIONS:
        if (precision, device) != ("fp32", "cpu"):  # the reference itself
            yield attempt(f"verify {precision}", _verify, model, precision, device, how["tiles"])
    drawing[0].wait()
    if device == "cuda":
        own = {"LD_LIBRARY_PATH": how["library_path"]}
        found = attempt("CUDA without a library path", here.infer, small, model, "fp32", device, own)
        yield {key: found[key] for key in ("what", "failed", "provider") if key in found}
    yield attempt("infer fp32 on the CPU", here.infer, small, model, "fp32", "cpu")
    for precision in PRECISIONS:
        yield attempt(f"infer {precision}", _compared, here, small, model, precision)
    drawing[1].wait()
    for precision in PRECISIONS:
        yield attempt(f"infer {precision}, large", here.infer, large, model, precision, device)


def _draw(raster: Path, side: int) -> subprocess.Popen[bytes]:
    words = ["sample", str(raster), "--size", str(side), "--seed", "7", "--quiet"]
    return subprocess.Popen([sys.executable, "-m", "rsedge", *words], stdout=subprocess.DEVNULL)


def _verify(model: Path, precision: str, device: str, tiles: int) -> Facts:
    words = ("--device", device, "--precision", precision, "--tiles", str(tiles), "--json", "--quiet")
    found = rsedge("verify", model, *words)
    (check,) = found["checks"]
    kept = ("state", "why", "provider", "version", "found", "p50_s", "reference_p50_s", "speedup")
    return {
        **{key: check[key] for key in kept},
        "fingerprint": found["fingerprint"],
        "reference": found["reference"],
        "process_s": found["process_s"],
    }


def _compared(here: Rsedge, raster: Path, model: Path, precision: str) -> Facts:
    """Run on the device, and return the share of mask pixels that differ from the CPU's fp32."""
    reference = here.mask(raster, "fp32", "cpu")
    if (precision, here.device) == ("fp32", "cpu"):
        reference = reference.rename(reference.with_stem(f"{reference.stem}-before"))
    found = here.infer(raster, model, precision, here.device)
    same = agreement(str(reference), str(here.mask(raster, precision, here.device)))["agreement"]
    return {**found, "differ": 1 - same}
