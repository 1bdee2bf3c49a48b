"""What ``rsedge bench --json`` and ``rsedge eval --json`` print, made up: full, and with all that may be missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAMES = ("building", "land", "road", "vegetation", "water")
LIMITS = {"miou_drop": 0.5, "class_drop": 1.5, "fp16_agreement": 0.999, "int8_agreement": 0.98}
SOURCE = "report.json: 32 labelled tiles of tile7"


def spread(p50: float, wide: float = 0.03, n: int = 5) -> dict[str, Any]:
    return {"p50": p50, "p10": p50 * (1 - wide), "p90": p50 * (1 + wide / 2), "n": n}


def cost(network: str, params: int, macs: int) -> dict[str, Any]:
    counts = {"network": network, "params": params, "macs": macs, "macs_tile": 512}
    return {**counts, "flops": 2 * macs, "paper_flops": 8 * macs}


def gate(precision: str, **changes: Any) -> dict[str, Any]:
    drops = {"building": 0.55, "land": -0.28, "road": 0.28, "vegetation": -1.16, "water": 0.86}
    facts = {
        "precision": precision,
        "backend": "openvino 2026.4.1",
        "tiles": 32,
        "tiles_from": "labelled tiles of tile7",
        "agreement": 0.98596,
        "clear_agreement": 0.98793,
        "worst_tile": 0.9583,
        "worst_error": 0.05516,
        "miou_fp32": 0.58934,
        "miou": 0.58884,
        "miou_drop": 0.05,
        "class_drops": drops,
        "reasons": [],
        "passed": True,
        "forced": False,
        "limits": LIMITS,
    }
    return {**facts, **changes}


FP32_GATE = {
    "precision": "fp32",
    "passed": True,
    "forced": False,
    "against": "torch, fp32, before deployment's rewrites",
    "tiles_from": "sample scene, seed 21",
    "tiles": 8,
    "worst_error": 3.2e-6,
    "argmax_agreement": 0.9999995,
    "clear_agreement": 1.0,
}


def empty_row(label: str, role: str = "student") -> dict[str, Any]:
    """A row of which nothing is known."""
    nothing = (
        "precision",
        "device",
        "backend",
        "version",
        "provider",
        "threads",
        "sha256",
        "tile",
        "why_not",
    )
    measured = (
        "cost_exported",
        "size_bytes",
        "latency",
        "end_to_end",
        "memory",
        "power",
        "clocks",
        "accuracy",
    )
    return {
        "label": label,
        "role": role,
        "name": "landcover5-b0",
        "path": "models/landcover5-b0.rsedge",
        **dict.fromkeys((*nothing, *measured, "gate")),
        "cost": dict.fromkeys(("network", "params", "macs", "macs_tile", "flops", "paper_flops")),
        "fps": {"1": None, "8": None},
        "fps_ratio": {"1": None, "8": None},
        "ratios": {"params": None, "macs": None, "size": None},
    }


def row(
    label: str, precision: str, device: str, fps: float, size_mb: float, miou: float | None
) -> dict[str, Any]:
    """A student that was measured beside a teacher of 0.21 tiles a second."""
    stages = {
        "prepare": 0.06,
        "read": 0.11,
        "pre": 0.02,
        "copy_in": 0.01,
        "infer": 90 / fps,
        "copy_out": 0.01,
    }
    stages |= {"blend": 0.14, "encode": 0.11, "write": 0.18}
    return {
        **empty_row(label),
        "precision": precision,
        "device": device,
        "backend": "openvino" if device == "openvino" else "onnxruntime",
        "version": "2026.4.1" if device == "openvino" else "1.31.1",
        "provider": "CPU" if device == "openvino" else "CPUExecutionProvider",
        "threads": 2,
        "sha256": f"{precision:0>64}",
        "tile": 512,
        "cost": cost("efficientnet_b0", 6_152_000, 8_020_000_000),
        "cost_exported": cost("efficientnet_b0", 6_090_000, 6_610_000_000),
        "size_bytes": round(size_mb * 1e6),
        "latency": {
            "runs": 240,
            "p50_s": 1 / fps,
            "p95_s": 1.1 / fps,
            "p99_s": 1.3 / fps,
            "spread": spread(1 / fps, 0.04, 240),
            "cpu_mean_s": 1.9 / fps,
            "pixels": "sample scene, seed 3",
        },
        "fps": {"1": spread(fps), "8": spread(fps * 1.08)},
        "fps_ratio": {"1": spread(fps / 0.21, 0.05), "8": spread(fps * 1.08 / 0.22, 0.05)},
        "end_to_end": {
            "width": 2048,
            "height": 2048,
            "windows": 30,
            "mpx_per_s": spread(fps * 0.19),
            "ratio": spread(fps / 0.23, 0.06),
            "total_s": spread(4.19 / (fps * 0.19)),
            "stages_s": stages,
            "busy_s": sum(stages.values()),
            "stages_over_busy": 0.97,
        },
        "memory": {
            "tile_peak_rss_bytes": 231 << 20,
            "raster_peak_rss_bytes": 367 << 20,
            "device_bytes": None,
        },
        "accuracy": None if miou is None else {"miou": miou, "oa": 0.81, "iou": None, "source": SOURCE},
        "gate": dict(FP32_GATE) if precision == "fp32" else gate(precision),
        "ratios": {"params": 36.3, "macs": 28.2, "size": 852 / size_mb},
    }


def teacher(measured: bool = True) -> dict[str, Any]:
    """SAM2-ARAFNet; not measured it is known by its counts."""
    known = {
        **empty_row("T", "teacher"),
        "name": "SAM2-ARAFNet",
        "path": "runs/teacher",
        "cost": cost("arafnet-t", 223_144_000, 226_220_000_000),
        "ratios": {"params": 1.0, "macs": 1.0, "size": 1.0},
        "why_not": None if measured else "only its counts are in the bundle; give its run folder",
    }
    if not measured:
        return known
    like = row("T", "fp32", "torch", 0.21, 851.6, 0.6121)
    for key in (
        "latency",
        "fps",
        "memory",
        "accuracy",
        "size_bytes",
        "precision",
        "device",
        "threads",
        "tile",
    ):
        known[key] = like[key]
    ones = {"1": spread(1.0, 0.0), "8": spread(1.0, 0.0)}
    return {**known, "backend": "torch", "version": "2.14.0", "provider": "cpu", "fps_ratio": ones}


def bench(rows: list[dict[str, Any]], base: str, **changes: Any) -> dict[str, Any]:
    machine = {
        "cpu": "AMD EPYC 9V74 80-Core Processor",
        "cores": 2,
        "board": None,
        "gpus": [],
        "memory_bytes": 24 << 30,
        "system": "Linux 6.6 x86_64, Debian GNU/Linux 12",
        "python": "3.11.2",
        "power_mode": None,
        "governor": "performance",
        "versions": {"rsedge": "0.1.0", "numpy": "2.3.5", "rasterio": "1.4.3", "gdal": "3.11.4"},
        "load_1min_before": 0.12,
        "date": "2026-11-28T08:15:00+00:00",
    }
    method = {
        "rounds": 5,
        "seconds": 5.0,
        "warmup_runs": 3,
        "raster_side": 2048,
        "batches": [1, 8],
        "overlap": 0.25,
        "overhead_share": 0.002,
        "device": "cpu",
        "precision": None,
        "threads": 2,
        "data": None,
        "classes": None,
    }
    facts = {"rsedge_bench_schema": 1, "machine": machine, "method": method, "base": base, "rows": rows}
    return {**facts, "not_run": [], "notes": [], **changes}


def full_bench() -> dict[str, Any]:
    """A teacher and four students, everything measured."""
    int8 = row("4", "int8", "openvino", 9.31, 8.4, 0.5888)
    int8["power"] = {"source": "RAPL, package 0", "j_per_mpx": spread(11.2), "watts": spread(19.4)}
    int8["clocks"] = {"cpu_mhz": spread(3240, 0.01), "gpu_mhz": None, "throttled": False, "source": "cpufreq"}
    cpu_int8 = row("3", "int8", "cpu", 4.72, 8.4, 0.5851)
    worse = {"building": 2.1, "land": 0.2, "road": 0.9, "vegetation": 0.1, "water": 0.4}
    why = ["building lost 2.10 points of IoU, at most 1.5 are allowed"]
    cpu_int8["gate"] = gate("int8", class_drops=worse, reasons=why, passed=False, forced=True, miou_drop=0.42)
    rows = [
        teacher(),
        row("1", "fp32", "cpu", 3.64, 24.6, 0.5893),
        row("2", "fp32", "openvino", 4.98, 24.6, 0.5893),
        cpu_int8,
        int8,
    ]
    not_run = [
        {"what": "all on cuda", "why": "no NVIDIA GPU here"},
        {"what": "fp16 on cpu", "why": "slower than fp32"},
    ]
    return bench(
        rows, "T", not_run=not_run, notes=["other work was running (load 1.3) before the last round"]
    )


def sparse_bench() -> dict[str, Any]:
    """A teacher known by its counts, one student measured without accuracy, one that could not run."""
    only = row("1", "fp32", "cpu", 3.64, 24.6, None)
    only |= {"fps_ratio": {"1": spread(1, 0), "8": None}, "end_to_end": None, "memory": None, "gate": None}
    only["fps"]["8"], only["ratios"] = None, {"params": 1.0, "macs": 1.0, "size": 1.0}
    broken = {**empty_row("2"), "precision": "int8", "device": "tensorrt", "why_not": "no TensorRT here"}
    return bench([teacher(measured=False), only, broken], "1", machine={"cpu": "ARMv8", "cores": 6})


def evaluation(names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    """Scores on a sample scene, with what a class was taken for."""
    counts = [
        [159760, 30802, 170, 3223, 1],
        [20834, 425344, 25294, 20117, 2279],
        [0, 13503, 242149, 2390, 8],
        [3497, 14218, 5554, 356245, 435],
        [23, 1921, 85, 2491, 242521],
    ]
    iou = (0.7318, 0.7673, 0.8374, 0.8728, 0.9710)
    classes = [
        {"name": n, "iou": i, "f1": 2 * i / (1 + i), "pixels": sum(c)}
        for n, i, c in zip(names, iou, counts, strict=True)
    ]
    return {
        "model": "landcover5-b0",
        "precision": "int8",
        "sha256": f"{'int8':0>64}",
        "provider": "CPU",
        "rasters": 1,
        "pixels": 1572864,
        "miou": 0.8361,
        "mean_f1": 0.9085,
        "oa": 0.9066,
        "majority_baseline": {"class": names[1], "miou": 0.0628, "oa": 0.314},
        "classes": classes,
        "confusion_truth_by_row": counts,
        "notes": [],
    }


def save(path: Path, facts: dict[str, Any], before: str = "") -> Path:
    """As the command prints it: a table perhaps, and the JSON on the last line."""
    path.write_text(f"{before}{json.dumps(facts)}\n", encoding="utf-8")
    return path
