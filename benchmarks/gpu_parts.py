"""The parts of gpu.py, each a process of its own; what it finds it prints, a line of JSON as soon as it is known.

    python benchmarks/gpu_parts.py onnx '{"device": "cpu", "bundle": "...", ...}'

A line has "what" it is of, and "failed" with the words of what did not work.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpu_memory import memory
from gpu_rtx import rtx
from gpu_speed import speeds
from gpu_tools import Facts, Rsedge, attempt, rsedge
from gpu_train import training
from streaming_peers import agreement

PRECISIONS = ("fp32", "fp16")


def onnx(how: Facts) -> Iterator[Facts]:
    """ONNX Runtime on the device against the CPU: ``verify``, then ``infer`` file to file."""
    work, device, model = Path(how["work"]), how["device"], Path(how["bundle"])
    here = Rsedge(device, work)
    small, large = (work / f"town{side}.tif" for side in (how["side"], how["large_side"]))
    drawing = [_draw(small, how["side"]), _draw(large, how["large_side"])]  # two cores of many, meanwhile
    for precision in PRECISIONS:
        if (precision, device) != ("fp32", "cpu"):  # that is the reference itself
            yield attempt(f"verify {precision}", lambda p=precision: _verify(model, p, device, how["tiles"]))
    drawing[0].wait()
    if device == "cuda":
        found = attempt(
            "CUDA without a library path",
            lambda: here.infer(small, model, "fp32", device, {"LD_LIBRARY_PATH": ""}),
        )
        yield {key: found[key] for key in ("what", "failed", "provider") if key in found}
    yield attempt("infer fp32 on the CPU", lambda: here.infer(small, model, "fp32", "cpu"))
    for precision in PRECISIONS:
        yield attempt(f"infer {precision}", lambda p=precision: _compared(here, small, model, p))
    drawing[1].wait()
    for precision in PRECISIONS:
        yield attempt(f"infer {precision}, large", lambda p=precision: here.infer(large, model, p, device))


def _draw(raster: Path, side: int) -> subprocess.Popen[bytes]:
    words = ["sample", str(raster), "--size", str(side), "--seed", "7", "--quiet"]
    return subprocess.Popen([sys.executable, "-m", "rsedge", *words], stdout=subprocess.DEVNULL)


def _verify(model: Path, precision: str, device: str, tiles: int) -> Facts:
    found = rsedge(
        "verify",
        model,
        "--device",
        device,
        "--precision",
        precision,
        "--tiles",
        str(tiles),
        "--json",
        "--quiet",
    )
    (check,) = found["checks"]
    kept = ("state", "why", "provider", "version", "found", "p50_s", "reference_p50_s", "speedup")
    return {
        **{key: check[key] for key in kept},
        "fingerprint": found["fingerprint"],
        "reference": found["reference"],
        "process_s": found["process_s"],
    }


def _compared(here: Rsedge, raster: Path, model: Path, precision: str) -> Facts:
    """A run on the device, and the share of its mask's pixels that differ from the CPU's in fp32."""
    reference = here.mask(raster, "fp32", "cpu")
    if (precision, here.device) == ("fp32", "cpu"):
        reference = reference.rename(reference.with_stem(f"{reference.stem}-before"))
    found = here.infer(raster, model, precision, here.device)
    same = agreement(str(reference), str(here.mask(raster, precision, here.device)))["agreement"]
    return {**found, "differ": 1 - same}


def eager(how: Facts) -> Iterator[Facts]:
    """Table 4 in torch as it comes."""
    return _speeds("eager", how["networks"], how["dtypes"], how)


def compiled(how: Facts) -> Iterator[Facts]:
    """Table 4 after torch.compile; all networks compile at once."""
    return _speeds("compile", how["compile_networks"], how["compile_dtypes"], how)


def _speeds(way: str, networks: list[str], dtypes: list[str], how: Facts) -> Iterator[Facts]:
    from rsedge_train.nets.authors import TABLE_4  # noqa: PLC0415 - loads torch

    named = ("batch", "tile", "warmup", "seconds", "device", "rounds")
    return speeds(
        way, networks=networks, dtypes=dtypes, printed_fps={name: row.fps for name, row in TABLE_4.items()}, threads=how["threads"],
        tf32=False, ready_s=how["limit_s"] * 0.8, **{key: how[key] for key in named},
    )  # fmt: skip


PARTS: dict[str, Callable[[Facts], Iterator[Facts]]] = {
    "onnx": onnx,
    "memory": memory,
    "eager": eager,
    "train": training,
    "compile": compiled,
    "rtx": rtx,
}


def main() -> None:
    warnings.simplefilter("ignore")
    how: dict[str, Any] = json.loads(sys.argv[2])
    for found in PARTS[sys.argv[1]](how):
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
