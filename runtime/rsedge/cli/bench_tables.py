"""Printed output of ``rsedge bench``: tables that fit a terminal, with a label per row."""

from __future__ import annotations

import math
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rsedge.bench.facts import BATCHES
from rsedge.cli import common
from rsedge.engine.stages import ALL_STAGES
from rsedge.text import columns, printable

if TYPE_CHECKING:
    from rsedge.bench import BenchResult
    from rsedge.bench.facts import Row, Spread

UNKNOWN = "-"


def show(result: BenchResult) -> None:
    """Print machine and models, then cost, speed, rasters and stages, and a legend."""
    on, how = result.machine, result.method
    load = "" if on.load_1min_before is None else f", load {on.load_1min_before:.1f} before"
    mode = "".join(f", {said}" for said in (on.power_mode, on.governor, on.board, *on.gpus) if said)
    _wrapped(f"machine  {on.cpu}, {on.cores} cores{mode}{load}")
    _wrapped(f"when     {on.date}, rsedge {on.versions['rsedge']}, {on.system}")
    _wrapped(
        f"method   {how.rounds} rounds (slow models fewer), models in turns; medians (10th to 90th percentile); "
        f"measuring itself took {how.overhead_share:.2%}"
    )
    rows = result.rows
    measured = [row for row in rows if row.latency]
    times = f"x {result.base}"
    _table(("", "model", "precision", "runs on", "threads"), map(_who, rows))
    _table(
        ("", "params M", "fewer", "MACs G", "fewer", "paper's FLOPs G", "MB", "smaller", "mIoU"),
        map(_cost, rows),
    )
    _table(("", "one tile: p50 ms", "p95", "p99", "runs", "tiles/s", times), map(_single, measured))
    for batch in BATCHES[1:]:
        _table(("", f"batch {batch}: tiles/s", times), [_batch(row, batch) for row in measured])
    _table(("", "raster px", "Mpx/s", times), map(_raster, measured))
    _table(("", "peak MiB", "less", "GPU MiB", "J/Mpx", "less", "throttled"), map(_resources, measured))
    _table(
        ("", *(s.replace("_", " ") for s in ALL_STAGES), "/ busy"),
        [_stages(r) for r in measured if r.end_to_end],
    )
    common.say("")
    for line in _legend(result):
        _wrapped(line)


def _wrapped(line: str) -> None:
    width = shutil.get_terminal_size().columns
    for part in textwrap.wrap(printable(line), width, subsequent_indent="  ", break_on_hyphens=False):
        common.say(part)


def _table(head: Sequence[str], lines_of_rows: Iterable[Sequence[str]]) -> None:
    """Print a table without its empty columns; print nothing if there are no rows."""
    if not (rows := list(lines_of_rows)):
        return
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] != UNKNOWN for row in rows)]
    for line in ("", *columns([[line[i] for i in kept] for line in (head, *rows)])):
        common.say(line)


def _who(row: Row) -> tuple[str, ...]:
    if row.why_not:
        return row.label, row.name, UNKNOWN, "not measured", UNKNOWN
    provider = (row.provider or "").replace("ExecutionProvider", "")
    on = provider if str(row.backend).lower() in provider.lower() else f"{row.backend} {provider}"
    return row.label, row.name, row.precision or UNKNOWN, on, str(row.threads)


def _cost(row: Row) -> tuple[str, ...]:
    cost, ratios = row.cost, row.ratios
    return (
        row.label,
        _number(cost.params, 1e6, 2),
        _times(ratios.get("params")),
        _number(cost.macs, 1e9, 2),
        _times(ratios.get("macs")),
        _number(cost.paper_flops, 1e9, 1),
        _number(row.size_bytes, 1e6, 1),
        _times(ratios.get("size")),
        UNKNOWN if row.accuracy is None or row.accuracy.miou is None else f"{row.accuracy.miou:.3f}",
    )


def _single(row: Row) -> tuple[str, ...]:
    took = row.latency
    assert took is not None  # ``show`` passes measured rows only
    latency = (f"{1e3 * t:.1f}" for t in (took.p50_s, took.p95_s, took.p99_s))
    return (row.label, *latency, str(took.runs), *_batch(row, 1)[1:])


def _batch(row: Row, batch: int) -> tuple[str, ...]:
    return row.label, _spread(row.fps[batch]), _spread(row.fps_ratio[batch])


def _raster(row: Row) -> tuple[str, ...]:
    whole = row.end_to_end
    if whole is None:
        return row.label, *[UNKNOWN] * 3
    return row.label, f"{whole.width}", _spread(whole.mpx_per_s), _spread(whole.ratio)


def _resources(row: Row) -> tuple[str, ...]:
    memory, power, clocks = row.memory, row.power, row.clocks
    peak = (memory.raster_peak_rss_bytes or memory.tile_peak_rss_bytes) if memory else None
    throttled = None if clocks is None else clocks.throttled
    return (
        row.label,
        _number(peak, 2**20, 0),
        _times(row.ratios.get("memory")),
        _number(memory.device_bytes if memory else None, 2**20, 0),
        _spread(power.j_per_mpx if power else None),
        _times(row.ratios.get("energy")),
        UNKNOWN if throttled is None else "YES" if throttled else "no",
    )


def _stages(row: Row) -> tuple[str, ...]:
    whole = row.end_to_end
    assert whole is not None
    return (row.label, *(f"{whole.stages_s[s]:.2f}" for s in ALL_STAGES), f"{whole.stages_over_busy:.3f}")


def _legend(result: BenchResult) -> list[str]:
    first, last = result.rows[0], result.rows[-1]
    pixels = " and ".join(dict.fromkeys(row.latency.pixels for row in result.rows if row.latency))
    lines = [
        f"tile: {last.tile} px at batch 1 ({pixels}), pixels in, scores out",
        "paper's FLOPs: MACs of 8 tiles, as ARAFNet's Table 4 counts them; a FLOP count proper is 2 x MACs",
        f"fewer, smaller, less: how many times, against {first.label}; peak: of a process with this model alone",
        f"Mpx/s: `infer` of a sample scene, file to file, {result.method.overlap:.0%} overlap, to a COG; a slow "
        "model gets a smaller one, and the ratio is of that",
        "stages: each one's own seconds (median), which overlap; / busy: those between prepare and write over what "
        "the threads worked",
    ]
    without = [row.label for row in result.rows if row.latency and not row.end_to_end]
    if without:
        lines.append(
            f"no raster for {', '.join(without)}: the sample scene is 8-bit RGB, the model takes other bands"
        )
    for row in result.rows:
        if row.accuracy and row.accuracy.miou is not None:
            lines.append(f"mIoU of {row.label}: {row.accuracy.source}")
        if row.power:
            lines.append(f"power of {row.label}: {row.power.source}, {_spread(row.power.watts)} W")
        if row.why_not:
            lines.append(f"{row.label}: {row.why_not}")
    return [*lines, *(f"not run: {left}" for left in result.not_run)]


def _spread(found: Spread | None) -> str:
    if found is None:
        return UNKNOWN
    digits = 2 if not found.p50 else max(0, 2 - math.floor(math.log10(abs(found.p50))))
    return f"{found.p50:.{digits}f} ({found.p10:.{digits}f} to {found.p90:.{digits}f})"


def _number(value: float | None, unit: float, digits: int) -> str:
    return UNKNOWN if value is None else f"{value / unit:.{digits}f}"


def _times(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1f}x"
