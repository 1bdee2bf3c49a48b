"""Summary sentences of a report, made from its numbers."""

from __future__ import annotations

from collections.abc import Sequence

from rsedge.bench.facts import Row, Spread
from rsedge.report.accuracy import Scores
from rsedge.report.figures import number, plural, score, whole
from rsedge.report.inputs import Bench, Eval

ON_GPU = ("cuda", "tensorrt", "tensorrt-rtx", "ort-tensorrt")
NOTABLE = 1.1  # a smaller ratio is not worth a sentence


def title(benches: Sequence[Bench], evals: Sequence[Eval]) -> str:
    """Return the report's title: the models' names."""
    names = [row.name for bench in benches for row in bench.students] + [e.model for e in evals]
    names = names or [row.name for bench in benches for row in bench.rows]
    return ", ".join(dict.fromkeys(names))


def of_bench(bench: Bench, scores: Scores) -> str:
    """Describe the fastest student: runtime, machine, speed, and ratio to the base row."""
    measured = [(row, *found) for row in bench.students if (found := _at_least_batch(row))]
    if not measured:
        return f"Nothing was measured on {bench.machine.name}: {_why(bench)}"
    # An artifact that failed its gate is no success, however fast it is.
    allowed = [m for m in measured if not _refused(bench, m[0])] or measured
    row, batch, fps = max(allowed, key=lambda m: m[2].p50)
    said = [
        f"{_named(row)} runs {whole(fps)} tiles{f' of {row.tile} px' if row.tile else ''} a second at batch {batch} "
        f"on {_machine(bench, row)}{_ratio(bench, row, row.fps_ratio.get(batch))}."
    ]
    if _refused(bench, row):
        said.append("Its gate failed.")
    if row.end_to_end:
        said.append(f"From file to file it does {whole(row.end_to_end.mpx_per_s)} Mpx/s.")
    return " ".join([*said, *_smaller(bench, row), *_accuracy(bench, row, scores)])


def of_eval(found: Eval) -> str:
    """Describe a model's scores."""
    kind = f" in {found.precision}" if found.precision else ""
    where = f" on {plural(found.rasters, 'raster')}" if found.rasters is not None else ""
    return (
        f"{found.model}{kind} scores mIoU {score(found.miou)} and overall accuracy {score(found.oa)} over "
        f"{len(found.classes)} classes{where} ({found.counted / 1e6:,.2f} Mpx labelled)."
    )


def spread_said(benches: Sequence[Bench]) -> str | None:
    """Explain the figures in brackets; None if no row has a spread."""
    counts = sorted({s.n for bench in benches for row in bench.rows for s in row.fps.values() if s})
    if not counts:
        return None
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"Figures are medians of {many} measurements; in brackets, or below them, the 10th to the 90th percentile."


def _at_least_batch(row: Row) -> tuple[int, Spread] | None:
    """Return the smallest measured batch with its tiles per second; None if no batch was measured."""
    return min(((batch, fps) for batch, fps in row.fps.items() if fps), default=None, key=lambda m: m[0])


def _refused(bench: Bench, row: Row) -> bool:
    return row.label in bench.gates and bench.gates[row.label].passed is False


def _why(bench: Bench) -> str:
    reasons = [r.why_not for r in bench.students if r.why_not] or [left.why for left in bench.not_run]
    return "; ".join(dict.fromkeys(reasons)) + "." if reasons else "no row has a speed."


def _named(row: Row) -> str:
    runtime = " ".join(t for t in (row.backend, row.version) if t) or row.device
    kind = f" in {row.precision}" if row.precision else ""
    return f"{row.name}{kind}{f' ({runtime})' if runtime else ''}"


def _machine(bench: Bench, row: Row) -> str:
    gpus = bench.machine.gpus
    return gpus[0] if row.device in ON_GPU and len(gpus) == 1 else bench.machine.name


def _ratio(bench: Bench, row: Row, ratio: Spread | None) -> str:
    base = bench.base_row
    if base is row or ratio is None:
        return ""
    if base.is_teacher:
        return f": {whole(ratio)} times as fast as its teacher {base.name} ({base.place}), measured in the same rounds"
    return f": {whole(ratio)} times as fast as row {base.label} ({base.place})"


def _smaller(bench: Bench, row: Row) -> list[str]:
    params, macs = (row.ratios.get(k) for k in ("params", "macs"))
    if not bench.rows[0].is_teacher or params is None or macs is None or min(params, macs) < NOTABLE:
        return []
    return [
        f"It has {number(params)} times fewer parameters and takes {number(macs)} times fewer MACs than its teacher."
    ]


def _accuracy(bench: Bench, row: Row, scores: Scores) -> list[str]:
    if row.label not in scores.of_row:
        return []
    miou, source = scores.of_row[row.label]
    teacher = next((r for r in bench.rows if r.is_teacher), None)
    beside = scores.of_row.get(teacher.label) if teacher else None
    other = f", its teacher’s {score(beside[0])}" if beside and beside[1] == source else ""
    return [f"Its mIoU is {score(miou)}{other} ({scores.sources[source]})."]
