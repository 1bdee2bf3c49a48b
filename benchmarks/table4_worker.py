"""One turn of one network of table4.py, its export, or its counts, each in a separate process.

    python table4_worker.py turn '{"network": "efficientnet_b0", "way": "eager", "dtype": "fp32", ...}'

Prints its facts as one line of JSON, as streaming_peers.py does.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from streaming_peers import Facts, report
from table4_tables import DEPLOYED, passes
from torch import Tensor, nn

from rsedge.backends.ort_module import import_onnxruntime
from rsedge.errors import BackendError, ModelError
from rsedge.machine import cpu_name, load_1min, usable_cores
from rsedge.version import __version__
from rsedge_train.nets import registry
from rsedge_train.nets.complexity import PAPER_CLASSES
from rsedge_train.nets.deploy import deploy
from rsedge_train.nets.network import SegNet
from rsedge_train.nets.table import model_row

onnxruntime = import_onnxruntime()
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
AMP = "amp-"  # prefix of a dtype that autocast uses, with weights and input in fp32
NAMES = ("image", "logits")  # of the exported graph's input and output
MAX_ERROR = 1e-3  # of fp32 logits in ONNX Runtime, over their range; random weights amplify errors
SMI = "name,driver_version,memory.total,power.limit,clocks.sm,clocks.max.sm,clocks.mem,temperature.gpu"


def conditions(device: str, threads: int | None) -> Facts:
    """Describe machine and libraries; ``device`` "auto" is a GPU if torch and ONNX Runtime both find one."""
    providers = onnxruntime.get_available_providers()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendError(f"device cuda: torch {torch.__version__} finds no GPU. Use --device cpu")
    libraries = {name: version(name) for name in ("timm", "sam2", "transformers", "numpy") if _is_there(name)}
    found = {
        "device": device,
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "threads": threads or usable_cores(),
        "load_1min_before": load_1min(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "cpu_features": torch.backends.cpu.get_cpu_capability(),
        "rsedge": __version__,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "providers": providers,
        **libraries,
        "python": platform.python_version(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if device == "cuda":
        cudnn: Any = torch.backends.cudnn  # its functions have no types
        found |= {
            "gpu": torch.cuda.get_device_name(),
            "cuda": torch.version.cuda,
            "cudnn": cudnn.version(),
            "nvidia_smi": _nvidia_smi(),
        }
    return found


def counts(networks: list[str]) -> Facts:
    """Return the paper's columns of every network: printed, and counted from ours by the authors' convention."""
    found = {}
    for name in networks:
        row = model_row(name).paper
        assert row is not None  # every such network has a row in Table 4
        found[name] = asdict(row)
    return {"counts": found}


def export(network: str, way: str, dtype: str, tile: int, out: str) -> Facts:
    """Export the network for any batch, comparing fp32 with torch. Raises ModelError if the logits differ."""
    import onnx  # noqa: PLC0415 - slow to load, and a turn needs none of it

    from rsedge_export.graph.torch_graph import trace  # noqa: PLC0415

    begin = time.perf_counter()
    net = _build(network, way, tile).to(DTYPES[dtype])
    x = _example(2, tile).to(DTYPES[dtype])
    graph = trace(net, x, NAMES)
    onnx.save(graph, out)
    facts: Facts = {"wall_s": time.perf_counter() - begin, "bytes": Path(out).stat().st_size}
    if dtype == "fp32":
        facts["error"] = _error(net, out, x)
        if not facts["error"] <= MAX_ERROR:
            raise ModelError(
                f"ONNX Runtime's logits differ from torch's by {facts['error']:.1e} of their range"
            )
    return facts


@dataclass(frozen=True)
class Opened:
    """A network ready to be timed. Call ``one`` in inference mode."""

    one: Callable[[], None]  # a synchronised forward pass
    first_s: float  # the first pass: compiling, choosing kernels
    device_peak_bytes: Callable[[], int | None]  # so far; None on a CPU


@torch.inference_mode()
def open_network(
    network: str,
    way: str,
    dtype: str,
    device: str,
    batch: int,
    tile: int,
    threads: int,
    warmup: int,
    tf32: bool,
    graph: str = "",
) -> Opened:
    """Open the network and run ``warmup`` passes. ``amp-bf16`` keeps weights and input fp32, under autocast."""
    _prepare(device, threads, tf32)
    mixed = dtype.startswith(AMP)
    plain = torch.float32 if mixed else DTYPES[dtype]
    x = _example(batch, tile).to(device, plain)
    free_bytes = torch.cuda.mem_get_info()[0] if device == "cuda" else 0
    if way.startswith("onnx"):
        call = _session(graph, x, threads, tf32)
    else:
        net = _build(network, way, tile).to(device, plain)
        forward = torch.compile(net, dynamic=False) if way.startswith("compile") else net
        call = lambda: forward(x)  # noqa: E731
    cuda: Any = torch.cuda  # its functions have no types
    wait = cuda.synchronize if device == "cuda" else lambda: None

    def one() -> None:
        with torch.autocast(device, DTYPES[dtype.removeprefix(AMP)], enabled=mixed):
            call()
        wait()

    def peak_bytes() -> int | None:
        if device != "cuda":
            return None
        taken = free_bytes - torch.cuda.mem_get_info()[0]
        return int(taken if way.startswith("onnx") else torch.cuda.max_memory_allocated())

    first, *_ = passes(one, 0)
    for _ in range(warmup - 1):
        one()
    return Opened(one, first, peak_bytes)


@torch.inference_mode()
def turn(*which: Any, seconds: float, **how: Any) -> Facts:
    """Run ``open_network``, then count passes for ``seconds``, one at least."""
    net = open_network(*which, **how)
    counted = passes(net.one, seconds)
    facts: Facts = {"wall_s": median(counted), "passes": len(counted), "first_s": net.first_s}
    if (peak := net.device_peak_bytes()) is not None:
        facts["device_peak_bytes"] = peak
    return facts


def _prepare(device: str, threads: int, tf32: bool) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cuda.matmul.allow_tf32 = tf32


def _example(batch: int, tile: int) -> Tensor:
    return torch.randn(batch, 3, tile, tile, generator=torch.Generator().manual_seed(1))


def _build(network: str, way: str, tile: int) -> SegNet:
    """Build with random weights, six classes, no auxiliary head; rewrite a student of a deployed way."""
    net = registry.build(network, PAPER_CLASSES).eval().requires_grad_(False)
    decoder: Any = net.decoder
    decoder.aux = None
    is_student = registry.entry(network).trunk is None
    return deploy(net, tile) if way.endswith(DEPLOYED) and is_student else net


def _session(graph: str, x: Tensor, threads: int, tf32: bool) -> Callable[[], Any]:
    """Return a session on the device of ``x`` that leaves input and scores on the device."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    provider, settings = "CPUExecutionProvider", dict[str, str]()
    if x.device.type == "cuda":
        provider, settings = "CUDAExecutionProvider", {"use_tf32": str(int(tf32))}
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # CUDA's libraries from torch's wheels
    session = onnxruntime.InferenceSession(graph, options, providers=[(provider, settings)])
    if session.get_providers()[0] != provider:
        raise BackendError(f"ONNX Runtime fell back to {session.get_providers()[0]}")
    binding = session.io_binding()
    index = x.device.index or 0
    binding.bind_input(NAMES[0], x.device.type, index, _element_type(x), tuple(x.shape), x.data_ptr())
    binding.bind_output(NAMES[1], x.device.type, index)
    return lambda: session.run_with_iobinding(binding)


def _element_type(x: Tensor) -> Any:
    """Return ONNX Runtime's element type: numpy's, or ONNX's number if numpy has none (bf16)."""
    return {torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: 16}[x.dtype]


@torch.inference_mode()
def _error(net: nn.Module, graph: str, x: Tensor) -> float:
    """Return the largest difference of the logits over their range."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    expected, found = net(x).numpy(), session.run(None, {NAMES[0]: x.numpy()})[0]
    return float(np.abs(expected - found).max() / np.ptp(expected))


def _nvidia_smi() -> str | None:
    """Return driver, clocks and limits from nvidia-smi; None if not found (a Jetson)."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
    command = [tool, f"--query-gpu={SMI}", "--format=csv", f"--id={first}"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return (found.stdout if found.returncode == 0 else found.stderr).strip() or None


def _is_there(name: str) -> bool:
    try:
        version(name)
    except ModuleNotFoundError:
        return False
    return True


if __name__ == "__main__":
    try:
        report({"conditions": conditions, "counts": counts, "export": export, "turn": turn})
    except Exception as error:  # a network may fail in any way; the first line of its error is listed
        first, *_ = [*str(error).strip().splitlines(), ""]
        sys.exit(f"{type(error).__name__}: {first}")
