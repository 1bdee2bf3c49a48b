"""Tables of the measured results, made from ``benchmarks/results/*.json`` whenever the site is built.

Run as a program, it prints the table of headline numbers that README.md shows.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
MIB = 2**20
PEERS = {
    "rsedge": "**rsedge**",
    "geodeep": "geodeep",
    "geodeep, without its filter": "geodeep, its filter not counted",
    "monai": "MONAI",
    "torchgeo": "torchgeo",
    "naive": "a plain loop, no overlap",
    "naive-blend": "a plain loop with overlap and blending",
}
SEAMS = {"crop": "crop, then a 5x5 median", "none, no overlap": "no overlap, half the tiles"}
STAGES = {
    "decode": "decoding (GDAL)",
    "gather": "cutting tiles",
    "model": "the model (ONNX Runtime)",
    "blend + argmax": "blending and argmax",
    "encode": "writing parts",
    "GeoTIFF": "assembling a plain GeoTIFF and reading it back",
    "COG": "or: assembling the COG with overviews",
}
PRECISION_MODELS = {"seg": "SegFormer-b0, 360 steps"}


def load(name: str) -> dict[str, Any]:
    """Return one file of results."""
    facts: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return facts


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def figure(value: float) -> str:
    """Return a number with three digits that count."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.{2 if 1 <= abs(value) < 10 else 1 if abs(value) >= 10 else 3}f}"


def spread(found: Mapping[str, float]) -> str:
    """Return a median with its 10th and 90th percentile; of one round the figure alone."""
    if found["p10"] == found["p90"]:
        return figure(found["p50"])
    between = f"({figure(found['p10'])} to {figure(found['p90'])})"
    # A narrow column breaks the line before the bracket, not inside.
    return f"{figure(found['p50'])} {between.replace(' ', chr(0xA0))}"


def streaming() -> str:
    """Return every figure of streaming.json, beside the target that was set for it before it was measured."""
    rows = []
    for part in load("streaming")["parts"].values():
        for bar in part["bars"]:
            target = "" if bar["bar"] is None else f"{bar['kind']} {bar['bar']:g}{bar['unit']}"
            verdict = {None: "", True: "met", False: "**not met**"}[bar["holds"]]
            what = bar["what"] + (f" ({bar['note']})" if bar["note"] else "")
            rows.append((what, spread(bar["found"]) + bar["unit"], target, verdict))
    return markdown(("what", "measured", "target", ""), rows)


def stages() -> str:
    """Return the seconds of each stage alone on one thread, of the 1x1 model."""
    found = load("streaming")["parts"]["profile"]["found"]["nearest-of-six"]
    best, rows = found["machine"], []
    for stage in found["stages"]:
        least = max(
            stage["bytes_moved"] / best["copy_1_bytes_per_s"], stage["operations"] / best["operations_per_s"]
        )
        computes = stage["operations"] > 0  # a codec's work cannot be counted
        times = f"{stage['seconds'] / least:.1f}" if computes else ""
        rows.append((STAGES[stage["stage"]], f"{stage['seconds']:.2f}", times))
    return markdown(("stage", "seconds", "times what its bytes or its arithmetic would take"), rows)


def peers() -> str:
    """Return rsedge beside its peers, with both models."""
    rows = []
    for model, facts in load("peers")["models"].items():
        for row in facts["rows"]:
            kept = row["kept"] or {}
            marked = "" if "nodata_marked" not in kept else f"{100 * kept['nodata_marked']:.0f} %"
            if kept.get("valid_marked", 0) > 0.0005:
                marked += f"; also {100 * kept['valid_marked']:.1f} % of the valid pixels"
            seams = "" if row["kept"] is None else SEAMS.get(row["seams"], row["seams"])
            agrees = (
                ""
                if row["agreement"] is None or row["contender"] == "rsedge"
                else f"{100 * row['agreement']:.1f} %"
            )
            peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / MIB:.0f}"
            speed = [spread(row[key]) for key in ("mpx_per_s", "over_own")]
            rows.append((model, PEERS[row["contender"]], *speed, peak, seams, agrees, marked))
    head = (
        "model",
        "",
        "Mpx/s",
        "seconds over rsedge's",
        "peak MiB",
        "seams",
        "same class as rsedge",
        "nodata kept",
    )
    return markdown(head, rows)


def table4() -> str:
    """Return the paper's Table 4 beside what was measured in each way."""
    facts = load("table4")
    ways = {table["way"]: {row["network"]: row for row in table["rows"]} for table in facts["tables"]}
    names = {"eager": "eager torch", "compile": "torch.compile", "onnx": "ONNX Runtime"}
    head = ["network", "params M", '"FLOPs" G (x8)', "size MiB", "paper: FPS", "paper: x teacher"]
    head += [cell for way in names if way in ways for cell in (f"{names[way]}: FPS", "x teacher")]
    rows = []
    for name, row in ways["onnx"].items():
        counted = row["counted"]
        cells = [name, *(f"{counted[key]:.2f}" for key in ("params_m", "flops_g", "size_mb"))]
        cells += [f"{row['printed_fps']:.2f}", f"{row['printed_ratio']:.1f}"]
        for way in names:
            if way in ways:
                found = ways[way][name]
                cells += [spread(found["fps"]), spread(found["ratio"]) if found["ratio"] else ""]
        rows.append(cells)
    return markdown(head, rows)


def counts() -> str:
    """Return what rsedge counts by the authors' convention, beside what the paper prints."""
    rows = []
    for name, own in load("table4")["counts"].items():
        pairs = [
            f"{own[key]:.2f} / {own['printed'][key]:.2f} ({own[key] - own['printed'][key]:+.3f})"
            for key in ("params_m", "flops_g", "size_mb")
        ]
        rows.append((name, *pairs))
    return markdown(("network", "params M", '"FLOPs" G (x8)', "size MiB"), rows)


def precision() -> str:
    """Return accuracy, agreement and speed of each precision."""
    rows = []
    for model in load("precision")["models"]:
        name = PRECISION_MODELS.get(model["model"], model["model"])
        for row in model["rows"]:
            engine = "OpenVINO" if row["device"] == "openvino" else "ONNX Runtime"
            reference = row["precision"] == "fp32" or row["latency"] is None
            rows.append(
                (
                    name, row["precision"], engine, f"{row['bytes'] / 1e6:.1f}", f"{row['miou']:.4f}",
                    f"{row['miou_drop_points']:+.2f}",
                    f"{100 * row['agreement']['data']['agreement']:.2f} %",
                    f"{100 * row['agreement']['samples']['agreement']:.2f} %",
                    "" if reference else spread(row["latency"]["speedup"]),
                )
            )  # fmt: skip
    head = (
        "model", "precision", "runs in", "MB", "mIoU", "drop, points", "same class: scene 7", "sample scene",
        "speed over fp32",
    )  # fmt: skip
    return markdown(head, rows)


def distillation() -> str:
    """Return mIoU alone and distilled, over the seeds."""
    facts = load("distillation")
    teacher = facts["teacher"]["val"]["miou"]
    found: dict[str, dict[bool, dict[int, float]]] = {}
    for run in facts["runs"]:
        by_seed = found.setdefault(run["student"], {}).setdefault(run["distilled"], {})
        by_seed[run["seed"]] = run["val_last"]["miou"]
    rows = []
    for student, kinds in found.items():
        alone, taught = kinds[False], kinds[True]
        gains = [taught[seed] - alone[seed] for seed in sorted(alone)]
        kept = [value / teacher for value in taught.values()]
        values = (list(alone.values()), list(taught.values()), gains, kept)
        cells = [f"{statistics.mean(v):.3f} ± {statistics.stdev(v):.3f}" for v in values]
        rows.append((student, *cells))
    return markdown(("student", "alone", "distilled", "gain", "share of the teacher's"), rows)


def distillation_classes() -> str:
    """Return IoU by class, the mean over the seeds."""
    facts = load("distillation")
    classes = facts["teacher"]["val"]["classes_counted"]
    rows = [("teacher", *(f"{facts['teacher']['val']['iou'][c]:.3f}" for c in classes))]
    scores: dict[str, list[Mapping[str, float]]] = {}
    for run in facts["runs"]:
        title = f"{run['student']}, {'distilled' if run['distilled'] else 'alone'}"
        scores.setdefault(title, []).append(run["val_last"]["iou"])
    rows += [
        (title, *(f"{statistics.mean(s[c] for s in each):.3f}" for c in classes))
        for title, each in scores.items()
    ]
    return markdown(("", *classes), rows)


def seams() -> str:
    """Return how many pixels change near tile borders, and elsewhere."""
    facts = load("seams")
    rows = [
        (r["tiling"], f"{100 * r['near']:.2f} %", f"{100 * r['beyond']:.2f} %", f"{r['ratio']:.2f}")
        for r in facts["rows"]
    ]
    return markdown(("tiling", "near borders", "elsewhere", "ratio"), rows)


def parity() -> str:
    """Return CPU time of each student at 512 px on one thread, EfficientNet-b0 being 1, and its largest error."""
    results = load("onnx_parity")["results"]
    times = {(r["name"], r["deployed"]): r["milliseconds"] for r in results if r["tile"] == 512}
    one, rows = times["efficientnet_b0", False], []
    for name in dict.fromkeys(r["name"] for r in results):
        worst = max(r["error"] for r in results if r["name"] == name)
        agrees = min(r["agreement"] for r in results if r["name"] == name)
        each = [f"{times[name, deployed] / one:.2f}" for deployed in (False, True)]
        rows.append((name, *each, f"{worst:.1e}", f"{100 * agrees:.4f} %"))
    head = (
        "student",
        "time",
        "after rewrites",
        "largest error, of the scores' range",
        "same class, at least",
    )
    return markdown(head, rows)


def conditions() -> str:
    """Return which machine each file of results comes from."""
    rows = []
    for name in ("streaming", "peers", "table4", "precision", "distillation", "onnx_parity"):
        facts = load(name)
        where = _first(facts, "cpu")
        when = str(_first(facts, "date") or "")[:10]
        torch, ort = _first(facts, "torch"), _first(facts, "onnxruntime") or _first(facts, "backend_version")
        rows.append((f"`{name}.json`", str(where), when, str(torch or ""), str(ort or "")))
    return markdown(("results", "processor", "measured", "torch", "ONNX Runtime"), rows)


def _first(facts: object, key: str) -> object:
    """Return the first value under ``key`` that is text, at any depth; None if there is none."""
    below = facts.values() if isinstance(facts, dict) else facts if isinstance(facts, list) else ()
    if isinstance(facts, dict) and isinstance(facts.get(key), str):
        return facts[key]
    return next((found for value in below if (found := _first(value, key)) is not None), None)


def headline() -> str:
    """Return README's table of headline numbers."""
    parts = load("streaming")["parts"]
    found = {bar["what"]: bar["found"]["p50"] for part in parts.values() for bar in part["bars"]}
    rows = {row["contender"]: row for row in load("peers")["models"]["b0"]["rows"]}
    over = {name: row["over_own"]["p50"] for name, row in rows.items()}
    slower = [over[name] for name in ("geodeep", "monai", "torchgeo")]
    (model,) = (m for m in load("precision")["models"] if m["model"] == "landcover5-b0")
    (int8,) = (row for row in model["rows"] if row["device"] == "openvino")
    onnx = next(t["rows"] for t in load("table4")["tables"] if t["way"] == "onnx")
    student = next(row["ratio"]["p50"] for row in onnx if row["network"] == "efficientnet_b0")
    width, height = map(int, parts["resume"]["raster"].split("x"))
    mpx, resumed = width * height / 1e6, found["killed half-way and resumed, over not killed"]
    peak = found["peak memory, 20000x20000"]
    lines = (
        (
            "6000 x 6000 px, default model, fp32, file to file",
            f"{figure(rows['rsedge']['mpx_per_s']['p50'])} Mpx/s",
        ),
        (
            "geodeep, MONAI and torchgeo on the same file and model take",
            f"{min(slower):.2f} to {max(slower):.2f} times as long",
        ),
        (
            "a plain loop without overlap, which shows tile borders, takes",
            f"{over['naive']:.2f} times as long",
        ),
        ("peak memory at 20,000 x 20,000 px (1x1 model)", f"{peak:.0f} MiB"),
        (
            "the same at 20,000 x 80,000 px",
            f"{found['peak memory, 20000x80000 over 20000x20000']:.3f} times that",
        ),
        (
            "INT8 in OpenVINO over fp32 in ONNX Runtime, one tile",
            f"{figure(int8['latency']['speedup']['p50'])} times as fast",
        ),
        (
            "mIoU of that INT8 on a held-out scene (fp32)",
            f"{int8['miou']:.3f} ({model['rows'][0]['miou']:.3f})",
        ),
        (
            "EfficientNet-b0 student over the teacher, batch 8, ONNX Runtime",
            f"{figure(student)} times as fast",
        ),
        (f"killed half-way and resumed, {mpx:.0f} Mpx", f"{figure(resumed)} times the time, the same bytes"),
    )
    return markdown(("on two CPU cores", "measured"), lines)


TABLES: Mapping[str, Callable[[], str]] = {
    function.__name__: function
    for function in (
        streaming, stages, peers, table4, counts, precision, distillation, distillation_classes, seams, parity,
        conditions, headline,
    )
}  # fmt: skip

if __name__ == "__main__":
    print(headline())  # noqa: T201
