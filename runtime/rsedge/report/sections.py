"""What a bench fills a page with: conditions, tables, plots, stages, gate."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from rsedge.report.accuracy import Scores
from rsedge.report.figures import number, percent, score, seconds, whole
from rsedge.report.gates import gates
from rsedge.report.markup import Child, el
from rsedge.report.plots import Bar, Point, Titles, bars, scatter, stacked
from rsedge.report.records import STAGES, Bench, Row
from rsedge.report.tables import details, results

SAID = {
    "prepare": "open and plan",
    "read": "read",
    "pre": "cut tiles",
    "copy_in": "to the device",
    "infer": "the model",
    "copy_out": "back",
    "blend": "blend",
    "encode": "encode",
    "write": "write",
}


def bench_section(bench: Bench, scores: Scores, ident: str) -> Element:
    """Everything that one bench says."""
    return el(
        "section",
        el("h2", f"Measured on {bench.machine_name}", id=ident),
        _conditions(bench),
        el("ul", *(el("li", note) for note in bench.notes), class_="notes") if bench.notes else None,
        results(bench, scores.cell),
        *(el("p", text, class_="note") for text in (scores.said(), _unmeasured(bench)) if text),
        _plots(bench, scores),
        _stages(bench),
        _folded("Latency, memory and power", details(bench)),
        _titled("What a lower precision costs", gates(bench)),
        _not_run(bench),
        aria_labelledby=ident,
    )


def _titled(heading: str, *children: Child) -> Element | None:
    kept = [child for child in children if child is not None]
    return el("div", el("h3", heading), *kept) if kept else None


def _folded(heading: str, child: Element | None) -> Element | None:
    return None if child is None else el("details", el("summary", el("h3", heading)), child, class_="folded")


def _conditions(bench: Bench) -> Element:
    machine, method = bench.machine, bench.method
    memory, load = machine.number("memory_bytes"), machine.number("load_1min_before")
    versions = machine.part("versions")
    batches = ", ".join(map(str, bench.batches))
    overhead = method.number("overhead_share")
    pairs = {
        "processor": machine.text("cpu"),
        "board": machine.text("board"),
        "cores": machine.count("cores"),
        "GPU": ", ".join(machine.texts("gpus")),
        "memory": f"{memory / 2**30:.1f} GiB" if memory else None,
        "system": machine.text("system"),
        "power mode": machine.text("power_mode"),
        "governor": machine.text("governor"),
        "other load": f"{load:.2f} before" if load is not None else None,
        "versions": ", ".join(f"{k} {v}" for k, v in versions.values.items() if v) if versions else None,
        "Python": machine.text("python"),
        "measured": (machine.text("date") or "").replace("T", " ").replace("+00:00", " UTC"),
        "rounds": method.count("rounds"),
        "single tiles": f"{method.number('seconds'):g} s a model" if method.number("seconds") else None,
        "warm-up": f"{method.count('warmup_runs')} runs" if method.count("warmup_runs") is not None else None,
        "batch": batches,
        "raster": f"{method.count('raster_side')} px a side" if method.count("raster_side") else None,
        "overlap": percent(method.number("overlap"), 0) if method.number("overlap") is not None else None,
        "overhead": f"{percent(overhead)} of the time, for measuring" if overhead is not None else None,
        "file": bench.source,
    }
    entries = [el("div", el("dt", k), el("dd", str(v))) for k, v in pairs.items() if v not in {None, ""}]
    return el("details", el("summary", "Conditions"), el("dl", *entries), class_="conditions", open=True)


def _unmeasured(bench: Bench) -> str | None:
    missing = [(row, f" ({row.place})" if row.place else "") for row in bench.rows if row.why_not]
    said = [f"{row.name}{place} was not measured: {row.why_not}." for row, place in missing]
    return " ".join(said) or None


def _short(bench: Bench, row: Row, mark: str = "") -> str:
    """A label for plots that tells the row from the others."""
    several = len({r.name for r in bench.students}) > 1
    said = (
        f"teacher {row.place}".strip()
        if row.is_teacher
        else f"{row.name} {row.place}"
        if several
        else row.place
    )
    return " ".join(part for part in (row.label, said, f"({mark})" if mark else "") if part)


def _plots(bench: Bench, scores: Scores) -> Element | None:
    batch = min(bench.batches, default=1)
    fast, small = list[Point](), list[Point]()
    for row in bench.rows:
        if row.label not in scores.of_row:
            continue
        miou, _ = scores.of_row[row.label]
        label = _short(bench, row, scores.mark(row))
        said = f"{row.name} {row.place}: mIoU {score(miou)}"
        if fps := row.fps.get(batch):
            fast.append(Point(fps.p50, miou, label, f"{said}, {whole(fps)} tiles/s", fps, row.is_teacher))
        if row.size_bytes:
            size_mb = row.size_bytes / 1e6
            small.append(Point(size_mb, miou, label, f"{said}, {number(size_mb)} MB", None, row.is_teacher))
    drawn = [
        _plot(fast, Titles("mIoU against speed", f"tiles/s at batch {batch}", "mIoU")),
        _plot(small, Titles("mIoU against size", "size on disk, MB", "mIoU")),
    ]
    plots = el("div", *drawn, class_="plots")
    if len(plots):
        return _titled("Accuracy against speed and size", plots, _legend(bench, scores))
    return _bars(bench, batch)


def _plot(points: Sequence[Point], titles: Titles) -> Element | None:
    return scatter(points, titles) if points and all(p.x > 0 for p in points) else None


def _legend(bench: Bench, scores: Scores) -> Element:
    missing = [row for row in bench.rows if row.label not in scores.of_row]
    slow = [row for row in bench.rows if row.label in scores.of_row and not row.fps]
    said = ["Whiskers: 10th to 90th percentile of the speed."]
    said += (
        ["Hollow: the teacher."] if any(r.is_teacher and r.label in scores.of_row for r in bench.rows) else []
    )
    said += [f"Without a known mIoU, so in neither: {_list(bench, missing)}."] if missing else []
    said += [f"Without a measured speed, so not in the first: {_list(bench, slow)}."] if slow else []
    return el("p", " ".join(said), class_="note")


def _list(bench: Bench, rows: Sequence[Row]) -> str:
    return "; ".join(_short(bench, row) for row in rows)


def _bars(bench: Bench, batch: int) -> Element | None:
    fast = [
        Bar(_short(bench, row), row.fps[batch].p50, row.fps[batch]) for row in bench.rows if batch in row.fps
    ]
    small = [Bar(_short(bench, row), row.size_bytes / 1e6) for row in bench.rows if row.size_bytes]
    drawn = [
        bars(f"Speed at batch {batch}", "tiles/s", fast) if fast else None,
        bars("Size on disk", "MB", small) if small else None,
    ]
    plots = el("div", *drawn, class_="plots")
    why = el(
        "p", "No accuracy is known of any row, so there are bars instead of plots against it.", class_="note"
    )
    return _titled("Speed and size", why, plots) if len(plots) else None


def _stages(bench: Bench) -> Element | None:
    runs = [(row, row.end_to_end) for row in bench.rows if row.end_to_end and row.end_to_end.stages_s]
    if not runs:
        return None
    most = max(sum(whole_run.stages_s.values()) for _, whole_run in runs) or 1.0
    entries = []
    for row, run in runs:
        total_s = sum(run.stages_s.values())
        said = ", ".join(f"{SAID[k]} {seconds(v)}" for k, v in run.stages_s.items() if v)
        took = f"; from file to file {whole(run.total_s)} s" if run.total_s else ""
        share = run.stages_over_busy
        over = f", {share * 100:.0f} % of the process’s work" if share is not None else ""
        entries.append(
            el(
                "li",
                el("span", _short(bench, row), class_="what"),
                el("span", f"{number(total_s)} s in all stages{over}{took}", class_="figure"),
                stacked(run.stages_s, most, f"{row.name} {row.place}: {said}"),
                el("p", said, class_="said"),
            )
        )
    used = [k for k in STAGES if any(run.stages_s.get(k) for _, run in runs)]
    legend = [el("li", el("span", class_=f"swatch stage {k}"), SAID[k]) for k in used]
    return _titled(
        "Where the time goes",
        el("ul", *legend, class_="legend", aria_label="Stages"),
        el("ul", *entries, class_="bars stages"),
        el(
            "p",
            "Medians of each stage’s own work. Stages overlap in threads: their sum is not the time that passes.",
            class_="note",
        ),
    )


def _not_run(bench: Bench) -> Element | None:
    missing = [el("li", el("b", f"{what}: "), why) for what, why in bench.not_run]
    return _titled("Not run", el("ul", *missing, class_="notes")) if missing else None
