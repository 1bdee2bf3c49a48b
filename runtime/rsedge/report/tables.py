"""Tables of a bench: cost, speed and gate result of each network."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rsedge.bench.facts import Row, Spread
from rsedge.report.accuracy import Scores
from rsedge.report.figures import NONE, around, middle, number, percent, score
from rsedge.report.inputs import Bench, Gate

MEGA, GIGA, MIB = 1e6, 1e9, 2**20


@dataclass(frozen=True)
class Cell:
    """A table cell: a figure, with smaller lines below. ``kind``: a class of the style sheet.

    ``tells``: True if the cell is a reason to show its column.
    """

    figure: str = NONE
    below: tuple[str, ...] = ()
    kind: str = ""
    tells: bool = True

    @property
    def is_empty(self) -> bool:
        """Return True if the cell shows nothing."""
        return self.figure == NONE and not self.below


Fill = Callable[[Row], Cell]
Column = tuple[str, str, Fill]  # head, unit, how to fill a cell


@dataclass(frozen=True)
class Line:
    """A line of a table: row labels, what runs where, network and cells."""

    tags: tuple[str, ...]
    said: str
    row: Row
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table with one line per network; ``heads`` are (head, unit)."""

    caption: str
    heads: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]


def table(
    caption: str, columns: Sequence[Column], rows: Sequence[tuple[tuple[str, ...], str, Row]]
) -> Table | None:
    """Build a table without empty columns; None if all are empty. ``rows``: (tags, description, network)."""
    filled = [(head, unit, [fill(row) for _, _, row in rows]) for head, unit, fill in columns]
    kept = [column for column in filled if any(c.tells and not c.is_empty for c in column[2])]
    lines = (Line(*row, tuple(column[2][i] for column in kept)) for i, row in enumerate(rows))
    return Table(caption, tuple((head, unit) for head, unit, _ in kept), tuple(lines)) if kept else None


def results(bench: Bench, scores: Scores) -> Table | None:
    """Build the main table: the columns of ARAFNet's Table 4, and the bench's measurements."""
    base = bench.base_row
    times = f"×\N{NO-BREAK SPACE}{'teacher' if base.is_teacher else f'row {base.label}'}"
    columns: list[Column] = [
        ("parameters", "M", _figure("cost.params", MEGA, "params")),
        ("MACs", _macs_unit(bench), _figure("cost.macs", GIGA, "macs")),
        ("paper’s “FLOPs”", "G, 8 tiles", _figure("cost.paper_flops", GIGA)),
        ("size", "MB", _figure("size_bytes", MEGA, "size")),
    ]
    for batch in bench.batches:
        columns += [
            ("tiles/s", f"batch {batch}", _spread(f"fps.{batch}")),
            (times, f"batch {batch}", _ratio(base, f"fps.{batch}", f"fps_ratio.{batch}")),
        ]
    columns += [
        ("end to end", "Mpx/s", _spread("end_to_end.mpx_per_s")),
        (times, "end to end", _ratio(base, "end_to_end.mpx_per_s", "end_to_end.ratio")),
        ("peak memory", "MiB", _peak),
        ("mIoU", "", lambda row: _scored(row, scores)),
    ]
    caption = "Cost, speed and accuracy. Below a median is its 10th to 90th percentile"
    if any(_less(row, key) for row in bench.rows for key in row.ratios):
        first = bench.rows[0]
        caption += f"; “less” is than {'the teacher' if first.is_teacher else f'row {first.label}'}’s"
    return table(caption, columns, _own_heads(bench.rows))


def details(bench: Bench) -> Table | None:
    """Build the table of latency, memory, power and clocks."""
    columns: list[Column] = [
        ("one tile", "ms", _latency),
        ("95th, 99th percentile", "ms", _pair("latency.p95_s", 1e-3, "latency.p99_s", 1e-3)),
        ("CPU time", "ms, all threads", _figure("latency.cpu_mean_s", 1e-3)),
        ("whole raster", "s", _spread("end_to_end.total_s")),
        ("tile’s peak memory", "MiB", _figure("memory.tile_peak_rss_bytes", MIB)),
        ("raster’s peak memory", "MiB", _figure("memory.raster_peak_rss_bytes", MIB)),
        ("device memory", "MiB", _figure("memory.device_bytes", MIB)),
        ("energy", "J/Mpx", _spread("power.j_per_mpx")),
        ("power", "W", _spread("power.watts")),
        ("CPU clock", "MHz", _spread("clocks.cpu_mhz")),
        ("GPU clock", "MHz", _spread("clocks.gpu_mhz")),
        (
            "throttled",
            "",
            lambda row: Cell({True: "yes", False: "no"}.get(_at(row, "clocks.throttled"), NONE)),
        ),
        (
            "as exported",
            "M parameters, G MACs",
            _pair("cost_exported.params", MEGA, "cost_exported.macs", GIGA),
        ),
        ("runs on", "", _runtime),
    ]
    measured = [row for row in bench.rows if row.latency or row.end_to_end or row.memory]
    caption = (
        "Medians, with the 10th to 90th percentile, of a tile at batch 1 and of a raster from file to file"
    )
    for what, path in (("tile", "latency.pixels"), ("power", "power.source"), ("clocks", "clocks.source")):
        said = dict.fromkeys(text for row in measured if (text := _at(row, path)))
        caption += f"; {what}: {', '.join(said)}" if said else ""
    return table(caption, columns, _own_heads(measured))


def gates(bench: Bench) -> Table | None:
    """Build the table of gate results, one line per artifact; None if no row has a gate result."""

    def of(show: Callable[[Gate, Row], Cell]) -> Fill:
        return lambda row: show(bench.gates[row.label], row)

    columns: list[Column] = [
        ("verdict", "", of(_verdict)),
        ("agreement", "same class", of(_agreement)),
        ("worst tile", "agreement", of(lambda gate, _: Cell(percent(gate.worst_tile)))),
        ("mIoU fp32", "", of(lambda gate, _: Cell(score(gate.miou_fp32)))),
        ("mIoU", "", of(lambda gate, _: Cell(score(gate.miou)))),
        ("mIoU lost", "points", of(_lost)),
        ("worst class", "points lost", of(_worst_class)),
        ("score error", "worst, % of range", of(lambda gate, _: _of(gate.worst_error, 0.01, digits=2))),
        ("tiles", "", of(_gate_tiles)),
    ]
    artifacts = dict[str, list[Row]]()
    for row in bench.rows:
        if row.gate is not None:
            known = f"{row.sha256 or row.label} {json.dumps(row.gate, sort_keys=True)}"
            artifacts.setdefault(known, []).append(row)
    rows = [(tuple(r.label for r in same), same[0].precision or "", same[0]) for same in artifacts.values()]
    return table(
        "Each artifact against fp32, and fp32 against torch, judged when it was exported", columns, rows
    )


def _own_heads(rows: Sequence[Row]) -> list[tuple[tuple[str, ...], str, Row]]:
    """Return one table line per row, with its precision and device."""
    missing = [", not measured" if row.why_not and row.place else "" for row in rows]
    return [
        ((row.label,), f"{row.place}{m}" or "not measured", row) for row, m in zip(rows, missing, strict=True)
    ]


def _at(row: Row, path: str) -> Any:
    """Return the value at a path such as ``memory.device_bytes`` or ``fps.8``; None if a part is missing."""
    held: Any = row
    for name in path.split("."):
        held = held.get(int(name)) if name.isdecimal() else getattr(held, name, None)
    return held


def _of(value: float | None, unit: float, below: str | None = None, digits: int = 3) -> Cell:
    return Cell() if value is None else Cell(number(value / unit, digits), (below,) if below else ())


def _figure(path: str, unit: float, less: str = "") -> Fill:
    return lambda row: _of(_at(row, path), unit, _less(row, less))


def _spread(path: str) -> Fill:
    return lambda row: _median(_at(row, path))


def _median(spread: Spread | None, *below: str) -> Cell:
    return Cell() if spread is None else Cell(middle(spread), (around(spread), *below))


def _pair(first: str, unit: float, second: str, other: float) -> Fill:
    def fill(row: Row) -> Cell:
        values = ((_at(row, first), unit), (_at(row, second), other))
        return Cell(", ".join(number(value / of) for value, of in values if value is not None) or NONE)

    return fill


def _ratio(base: Row, measured: str, ratio: str) -> Fill:
    return lambda row: (
        Cell("1", tells=False) if row is base and _at(row, measured) else _median(_at(row, ratio))
    )


def _macs_unit(bench: Bench) -> str:
    tiles = {row.cost.macs_tile for row in bench.rows if row.cost.macs is not None}
    return f"G, {tiles.pop()} px tile" if len(tiles) == 1 and None not in tiles else "G a tile"


def _less(row: Row, key: str) -> str | None:
    times = row.ratios.get(key)
    return f"{number(times)} × less" if times is not None and abs(times - 1) > 0.005 else None


def _peak(row: Row) -> Cell:
    tile, raster = (_at(row, f"memory.{what}_peak_rss_bytes") for what in ("tile", "raster"))
    return _of(raster, MIB, "raster") if raster is not None else _of(tile, MIB, "one tile")


def _scored(row: Row, scores: Scores) -> Cell:
    mark = scores.mark(row)
    return Cell(score(scores.of_row.get(row.label, (None,))[0]), (f"data {mark}",) if mark else ())


def _latency(row: Row) -> Cell:
    took = row.latency
    return _median(took.spread.times(1e3), f"{took.spread.n:,} runs") if took else Cell()


def _runtime(row: Row) -> Cell:
    named = " ".join(t for t in (row.backend, row.version) if t)
    provider = row.provider.removesuffix("ExecutionProvider") if row.provider else None
    threads = f"{row.threads} threads" if row.threads else None
    tile = f"tile {row.tile} px" if row.tile else None
    return Cell(named or NONE, tuple(t for t in (provider, threads, tile) if t))


def _verdict(gate: Gate, _: Row) -> Cell:
    return Cell(gate.verdict, gate.reasons, "good" if gate.verdict == "passed" else "bad")


def _agreement(gate: Gate, row: Row) -> Cell:
    value = gate.argmax_agreement if gate.agreement is None else gate.agreement
    kind = (row.precision or "").partition("-")[0]
    least = {"fp16": gate.limits.fp16_agreement, "int8": gate.limits.int8_agreement}.get(kind)
    below = [f"at least {percent(least)}"] if least is not None else []
    below += [f"{percent(gate.clear_agreement, 2)} of clear ones"] if gate.clear_agreement is not None else []
    return Cell(percent(value, 2), tuple(below))


def _lost(gate: Gate, _: Row) -> Cell:
    if gate.miou_drop is None:
        return Cell()
    return Cell(f"{gate.miou_drop:.2f}", _at_most(gate.limits.miou_drop))


def _worst_class(gate: Gate, _: Row) -> Cell:
    known = {name: drop for name, drop in gate.class_drops.items() if drop is not None}
    if not known:
        return Cell()
    name = max(known, key=lambda k: known[k])
    return Cell(f"{known[name]:.2f}", (name, *_at_most(gate.limits.class_drop)))


def _at_most(limit: float | None) -> tuple[str, ...]:
    return () if limit is None else (f"at most {limit:g}",)


def _gate_tiles(gate: Gate, _: Row) -> Cell:
    said = tuple(text for text in (gate.tiles_from, gate.backend or gate.against) if text)
    return Cell(NONE if gate.tiles is None else f"{gate.tiles:,}", said)
