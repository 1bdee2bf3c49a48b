"""Benchmarks that need a GPU, in one command and little time: independent parts, the most valuable first.

    python benchmarks/gpu.py --minutes 4 --out DIR [--kit .gpu-kit] [--parts onnx memory ...] [--bundle BUNDLE]
        [--data LABELLED_FOLDER] [--more] [--device cpu]

onnx      ``rsedge verify`` and ``infer`` on ONNX Runtime CUDA, fp32 and fp16, against the CPU's fp32: scores, pixels
          that differ, Mpx/s from file to file, GPU memory
memory    halving batches on a full GPU; the message if not even one tile fits
eager     Table 4 in torch: teacher, EfficientNet-B0, SegFormer-B0; fp32, fp16, bf16 (weights and input) and bf16
          under autocast; FPS as a ratio to the teacher, beside the paper's
train     ``rsedge distill`` alone and with a teacher: images a second, waiting for data, bf16, fp16, fp32; the same
          run again, and stopped and resumed: how far the weights differ
compile   as eager, after torch.compile
rtx       whether TensorRT for RTX supports this GPU; what it builds, if installed

Each part is a process with a share of the minutes; unused time goes to the next parts, and what a part measured
before running out of time is kept. DIR/gpu.json is written after every figure; gpu.md, a page made from it, and
gpu.log at the end. --kit first installs the packages gathered by ``make gpu-kit``. --device cpu rehearses all
of it with small networks and few rounds, with the CPU in place of the GPU; the figures then mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpu_kit import install
from gpu_page import page, summary

Facts = dict[str, Any]
HERE = Path(__file__).resolve().parent
REPO = HERE.parent
BUNDLE = REPO / "runtime/models/landcover5-b0.rsedge"
PACKAGES = ("runtime", "train", "export")
SHARES = {"onnx": 50, "memory": 30, "eager": 45, "train": 75, "compile": 70, "rtx": 10}  # of the minutes

GPU: Facts = {
    "networks": ["arafnet-t", "efficientnet_b0", "segformer_b0"], "dtypes": ["fp32", "fp16", "bf16", "amp-bf16"],
    "compile_networks": ["arafnet-t", "efficientnet_b0", "segformer_b0"], "compile_dtypes": ["fp16", "fp32"],
    "batch": 8, "tile": 512, "warmup": 10, "seconds": 0.25, "rounds": 4,
    "threads": 4, "tiles": 12, "side": 3072, "large_side": 8192,
    "student": "efficientnet_b0", "teacher": "arafnet-t", "precisions": ["bf16", "fp16", "fp32"], "steps": 60,
    "crop": 512, "train_batch": 8, "batch_large": 32, "workers": 8, "samples": None,
}  # fmt: skip
REHEARSAL: Facts = {
    **GPU, "networks": ["arafnet-t-tiny", "mobilenetv3_small_100"], "dtypes": ["fp32", "amp-bf16"],
    "compile_networks": ["mobilenetv3_small_100"], "compile_dtypes": ["fp32"],
    "batch": 1, "tile": 64, "warmup": 1, "seconds": 0.0, "rounds": 2, "threads": 1,
    "tiles": 1, "side": 600, "large_side": 700, "student": "mobilenetv3_small_100", "teacher": "arafnet-t-tiny",
    "precisions": ["fp32", "bf16"], "steps": 42, "crop": 64, "train_batch": 2, "batch_large": 4, "workers": 1,
    "samples": {"count": 6, "side": 512},  # as with --quick
}  # fmt: skip


def main() -> None:
    args = _parse()
    begin = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    earlier: Facts = {}
    if args.more and (args.out / "gpu.json").exists():
        earlier = json.loads((args.out / "gpu.json").read_text(encoding="utf-8"))
    else:
        (args.out / "gpu.log").unlink(missing_ok=True)
    settings = REHEARSAL if args.device == "cpu" else GPU
    with tempfile.TemporaryDirectory(prefix="rsedge-gpu-") as folder:
        env = _environment(args.device, args.kit, Path(folder))
        facts: Facts = {
            "method": {
                **settings, "device": args.device, "minutes": args.minutes, "bundle": args.bundle.name,
                "data": args.data and args.data.name, "setup_s": time.monotonic() - begin,
            },
            "machine": _machine(), "parts": earlier.get("parts", {}),
        }  # fmt: skip
        how = {
            **settings, "device": args.device, "bundle": _copy(args.bundle, Path(folder)), "work": folder,
            "library_path": os.environ.get("LD_LIBRARY_PATH", ""),
            "compute_capability": facts["machine"].get("compute_capability"),
            "data": args.data and str(args.data.resolve()),
        }  # fmt: skip
        for index, name in enumerate(args.parts):
            left_s = args.minutes * 60 - (time.monotonic() - begin)
            rest = sum(SHARES[part] for part in args.parts[index:])
            run_part(name, {**how, "limit_s": left_s * SHARES[name] / rest}, facts, env, args.out)
    facts["parts"] = {name: facts["parts"][name] for name in SHARES if name in facts["parts"]}
    _write(facts, args.out)
    (args.out / "gpu.md").write_text(page(facts), encoding="utf-8")
    print(summary(facts), flush=True)


def run_part(name: str, how: Facts, facts: Facts, env: dict[str, str], out: Path) -> None:
    """Run one part to its end or until its time is up, adding to ``facts`` and their file as figures arrive."""
    part: Facts = {"limit_s": round(how["limit_s"], 1), "ended": "out of time", "found": {}}
    facts["parts"][name] = part
    begin = time.monotonic()
    with (out / "gpu.log").open("a", encoding="utf-8") as log:
        print(f"== {name}", file=log, flush=True)
        command = [sys.executable, str(HERE / "gpu_parts.py"), name, json.dumps(how)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=env, start_new_session=True
        ) as process:
            end = threading.Timer(max(0.0, how["limit_s"]), _kill, (process,))
            end.start()
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    found = json.loads(line)
                    part["found"][found.pop("what")] = found
                    part["seconds"] = round(time.monotonic() - begin, 1)
                    _write(facts, out)
            code = process.wait()
            in_time = end.is_alive()
            end.cancel()
            _kill(process)  # stop processes that the part left running
    if in_time:
        part["ended"] = "done" if code == 0 else f"failed with {code}: {_last_line(out / 'gpu.log')}"
    part["seconds"] = round(time.monotonic() - begin, 1)
    _write(facts, out)
    failed = [what for what, found in part["found"].items() if "failed" in found]
    print(f"{name}: {part['ended']}, {part['seconds']} of {part['limit_s']} s; {len(part['found'])} steps"
          + (f"; failed: {', '.join(failed)}" if failed else ""), flush=True)  # fmt: skip


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill the part and all processes that it started, which form a session of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _write(facts: Facts, out: Path) -> None:
    partial = out / "gpu.json.part"
    partial.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    partial.replace(out / "gpu.json")


def _last_line(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""]
    return lines[-1][:300]


def _environment(device: str, kit: Path | None, folder: Path) -> dict[str, str]:
    """Return the environment of the parts: our packages, the kit's, and CUDA's libraries from torch's wheels."""
    paths = [str(REPO / name) for name in PACKAGES]
    paths += [
        str(Path(place).resolve()) for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place
    ]
    if kit is not None:
        site = folder / "site"
        install([piece for piece in sorted(kit.iterdir()) if piece.is_dir()], site)
        paths.insert(0, str(site))
    libraries = [os.environ["LD_LIBRARY_PATH"]] if os.environ.get("LD_LIBRARY_PATH") else []
    spec = find_spec("nvidia")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        libraries += [str(lib) for lib in sorted(Path(place).glob("*/lib"))]
    threads = {"OMP_NUM_THREADS": "1"} if device == "cpu" else {}  # more threads would wait for each other
    return {
        **os.environ, **threads, "PYTHONPATH": os.pathsep.join(paths), "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1",
        "TORCHINDUCTOR_COMPILE_THREADS": "4",
    }  # fmt: skip


def _copy(bundle: Path, folder: Path) -> str:
    """Copy the bundle's float files, because ``verify`` stores speeds beside them that must not outlast this run."""
    copy = folder / "student.rsedge"
    if bundle.is_dir():
        shutil.copytree(bundle, copy, ignore=shutil.ignore_patterns("*int8*", "engines", "speeds.json"))
    return str(copy)


def _machine() -> Facts:
    """Return facts that need no library; the part ``memory`` adds the libraries'."""
    facts: Facts = {
        "python": platform.python_version(), "cores": os.cpu_count(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }  # fmt: skip
    if tool := shutil.which("nvidia-smi"):
        query = "--query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm,temperature.gpu,compute_cap"
        found = subprocess.run(
            [tool, query, "--format=csv,noheader"], capture_output=True, text=True, check=False
        )
        facts["nvidia_smi"] = (found.stdout or found.stderr).strip()
        facts["compute_capability"] = facts["nvidia_smi"].rpartition(",")[2].strip().replace(".", "")
    return facts


def _parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json, gpu.md and gpu.log")
    parser.add_argument("--kit", type=Path, help="folder of pieces to install first")
    parser.add_argument("--parts", nargs="+", choices=tuple(SHARES), default=list(SHARES), metavar="PART")
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    parser.add_argument("--data", type=Path, help="labelled folder to train on; sample scenes if not given")
    parser.add_argument("--more", action="store_true", help="keep the other parts of DIR/gpu.json")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = parser.parse_args(words)
    if not args.minutes > 0:
        parser.error("--minutes must be above 0")
    if args.kit is not None and not args.kit.is_dir():
        parser.error(f"--kit {args.kit} is not a folder. Make .gpu-kit with `make gpu-kit`")
    return args


if __name__ == "__main__":
    main()
