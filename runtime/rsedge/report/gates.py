"""What the exporter's gate said of each artifact."""

from __future__ import annotations

import json
from collections.abc import Callable
from xml.etree.ElementTree import Element

from rsedge.report.facts import Facts
from rsedge.report.figures import NONE, number, percent, score
from rsedge.report.records import Bench, Row
from rsedge.report.tables import Cell, Column, row_head, table


def gates(bench: Bench) -> Element | None:
    """A table of the verdicts; None where no row has one."""

    def of(key: str, show: Callable[[float | None], str]) -> Callable[[Row], Cell]:
        return lambda r: Cell(show(r.gate.number(key) if r.gate else None))

    columns = [
        Column("verdict", "", _verdict),
        Column("agreement", "same class", _agreement),
        Column("worst tile", "agreement", of("worst_tile", percent)),
        Column("mIoU fp32", "", of("miou_fp32", score)),
        Column("mIoU", "", of("miou", score)),
        Column("mIoU lost", "points", _lost),
        Column("worst class", "points lost", _worst_class),
        Column("score error", "worst, % of range", of("worst_error", _small)),
        Column("tiles", "", _gate_tiles),
    ]
    groups = _artifacts(bench)
    tags = {rows[0].label: [row.label for row in rows] for rows in groups}
    return table(
        "Each artifact against fp32, and fp32 against torch, judged when it was exported",
        columns,
        [rows[0] for rows in groups],
        head=lambda row: row_head(tags[row.label], row, row.precision or ""),
    )


def _artifacts(bench: Bench) -> list[list[Row]]:
    """Rows with a verdict, those of one artifact together: it was judged once, whatever runs it here."""
    groups = dict[str, list[Row]]()
    for row in bench.rows:
        if row.gate is not None:
            known = row.sha256 or row.label
            groups.setdefault(f"{known} {json.dumps(row.gate.values, sort_keys=True)}", []).append(row)
    return list(groups.values())


def verdict(gate: Facts) -> str:
    """``passed``, ``failed``, or ``failed, forced`` (kept in spite of it)."""
    passed = gate.flag("passed")
    if passed is None:
        return "not judged"
    return "passed" if passed else "failed, forced" if gate.flag("forced") else "failed"


def _verdict(row: Row) -> Cell:
    if row.gate is None:
        return Cell()
    said = verdict(row.gate)
    return Cell(said, row.gate.texts("reasons"), "good" if said == "passed" else "bad")


def _limit(gate: Facts, key: str) -> float | None:
    limits = gate.part("limits")
    return limits.number(key) if limits else None


def _agreement(row: Row) -> Cell:
    if row.gate is None:
        return Cell()
    value = row.gate.number("agreement")
    value = row.gate.number("argmax_agreement") if value is None else value
    kind = (row.precision or "").partition("-")[0]
    least, clear = _limit(row.gate, f"{kind}_agreement"), row.gate.number("clear_agreement")
    below = [f"at least {percent(least)}"] if least is not None else []
    below += [f"{percent(clear, 2)} of clear ones"] if clear is not None else []
    return Cell(percent(value, 2), tuple(below))


def _lost(row: Row) -> Cell:
    value = row.gate.number("miou_drop") if row.gate else None
    if row.gate is None or value is None:
        return Cell()
    most = _limit(row.gate, "miou_drop")
    return Cell(f"{value:.2f}", (f"at most {most:g}",) if most is not None else ())


def _worst_class(row: Row) -> Cell:
    known = {k: v for k, v in row.gate.numbers("class_drops").items() if v is not None} if row.gate else {}
    if row.gate is None or not known:
        return Cell()
    name = max(known, key=lambda k: known[k])
    most = _limit(row.gate, "class_drop")
    return Cell(f"{known[name]:.2f}", (name, *([f"at most {most:g}"] if most is not None else [])))


def _gate_tiles(row: Row) -> Cell:
    if row.gate is None:
        return Cell()
    said = (row.gate.text("tiles_from"), row.gate.text("backend") or row.gate.text("against"))
    tiles = row.gate.count("tiles")
    return Cell(NONE if tiles is None else f"{tiles:,}", tuple(s for s in said if s))


def _small(share: float | None) -> str:
    return NONE if share is None else number(share * 100, 2)
