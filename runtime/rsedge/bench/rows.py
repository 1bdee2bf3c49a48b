"""Rows of a bench, made from measurements: summaries, ratios to the teacher, facts from bundles."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rsedge.bench.facts import (
    BATCHES,
    TEACHER,
    Accuracy,
    Clocks,
    Cost,
    EndToEnd,
    Latency,
    Memory,
    Power,
    Row,
    Spread,
    count,
    ratio,
)
from rsedge.bench.sensors import Sensors
from rsedge.bench.turns import Measured, pooled
from rsedge.engine import stages


def rows_of(found: Sequence[Measured], sensors: Sensors) -> tuple[tuple[Row, ...], str]:
    """Return a row per model, the teacher first, and the label of the base row, which speeds are compared with.

    The base row is the teacher if it was measured, else the first model. A teacher that is only recorded in a bundle
    gets a row with its counts.
    """
    ordered = sorted(found, key=lambda m: m.contender.role != TEACHER)
    students = iter(range(1, len(ordered) + 1))
    labels = ["T" if m.contender.role == TEACHER else str(next(students)) for m in ordered]
    base = ordered[0]
    rows = [_row(m, label, base, sensors) for m, label in zip(ordered, labels, strict=True)]
    if base.contender.role != TEACHER and (known := _recorded_teacher(ordered)):
        rows.insert(0, known)
        others = {m.contender.path for m in ordered if not _knows(m, known)}
        return tuple(row if row.path in others else _with_ratios(row, known) for row in rows), labels[0]
    return tuple(_with_ratios(row, rows[0]) for row in rows), labels[0]


def _row(m: Measured, label: str, base: Measured, sensors: Sensors) -> Row:
    facts, exported = m.facts, m.facts.get("cost_exported")
    return Row(
        label=label,
        role=m.contender.role,
        name=facts["name"],
        path=m.contender.path,
        cost=Cost(**facts["cost"]),
        cost_exported=Cost(**exported) if exported else None,
        size_bytes=facts["size_bytes"],
        precision=facts["precision"],
        device=facts.get("device", m.contender.device),
        **{key: facts[key] for key in ("backend", "version", "provider", "threads", "sha256", "tile")},
        latency=Latency.of(pooled(m.times_s[1]), m.cpu_s, m.pixels),
        fps={b: Spread.of([b / t for t in pooled(m.times_s[b])]) if m.times_s[b] else None for b in BATCHES},
        fps_ratio={b: None if m is base else _by_round(m.fps(b), base.fps(b)) for b in BATCHES},
        end_to_end=_end_to_end(m, base),
        memory=Memory(m.tile_peak_bytes, m.raster_peak_bytes, m.device_bytes),
        power=_power(m),
        clocks=_clocks(m, sensors),
        accuracy=_accuracy(m),
        gate=facts.get("gate"),
    )


def _by_round(own: Mapping[int, float], base: Mapping[int, float]) -> Spread | None:
    both = [own[n] / base[n] for n in own if n in base]
    return Spread.of(both) if both else None


def _mpx_per_s(rasters: Mapping[int, Mapping[str, Any]]) -> dict[int, float]:
    return {n: r["height"] * r["width"] / 1e6 / r["seconds"]["total"] for n, r in rasters.items()}


def _end_to_end(m: Measured, base: Measured) -> EndToEnd | None:
    if not m.rasters:
        return None
    runs = list(m.rasters.values())
    seconds = [run["seconds"] for run in runs]
    speed = _mpx_per_s(m.rasters)
    return EndToEnd(
        height=runs[0]["height"],
        width=runs[0]["width"],
        windows=runs[0]["windows"],
        mpx_per_s=Spread.of(list(speed.values())),
        ratio=None if m is base else _by_round(_mpx_per_s(m.on_base_raster), _mpx_per_s(base.rasters)),
        total_s=Spread.of([s["total"] for s in seconds]),
        stages_s={key: statistics.median(s[key] for s in seconds) for key in stages.ALL_STAGES},
        busy_s=statistics.median(s["busy"] for s in seconds),
        stages_over_busy=statistics.median(
            sum(s[key] for key in stages.STAGES) / (s["busy"] - s["prepare"] - s["write"]) for s in seconds
        ),
    )


def _power(m: Measured) -> Power | None:
    used = {n: (float(r.energy_j), r) for n, r in m.readings.items() if r.energy_j is not None}
    if not used:
        return None
    mpx = {n: run["height"] * run["width"] / 1e6 for n, run in m.rasters.items()}
    return Power(
        next(str(r.power_source) for _, r in used.values()),
        Spread.of([joules / r.seconds for joules, r in used.values()]),
        Spread.of([joules / mpx[n] for n, (joules, _) in used.items()]),
    )


def _clocks(m: Measured, sensors: Sensors) -> Clocks | None:
    readings = list(m.readings.values())
    cpu, gpu = ([v for r in readings for v in getattr(r, name)] for name in ("cpu_mhz", "gpu_mhz"))
    told = [r.throttled for r in readings if r.throttled is not None]
    if not (cpu or gpu or told):
        return None
    cpu_mhz, gpu_mhz = (Spread.of(values) if values else None for values in (cpu, gpu))
    return Clocks(cpu_mhz, gpu_mhz, any(told) if told else None, sensors.clock_source)


def _accuracy(m: Measured) -> Accuracy | None:
    """Return the measured scores, else the scores in the exporter's report."""
    if m.scores:
        iou = {c["name"]: c["iou"] for c in m.scores["classes"]}
        source = f"measured: {m.scores['rasters']} rasters, {m.scores['pixels'] / 1e6:.2f} Mpx labelled"
        return Accuracy(m.scores["miou"], m.scores["oa"], iou, source)
    if told := m.facts.get("accuracy"):
        return Accuracy(**told)
    return None


def _knows(m: Measured, teacher: Row) -> bool:
    """Return True if ``teacher`` is the teacher recorded in the model's own bundle."""
    own = m.facts.get("teacher")
    return isinstance(own, Mapping) and Cost.of(own) == teacher.cost


def _recorded_teacher(students: Sequence[Measured]) -> Row | None:
    """Return a row for the teacher recorded in the first bundle that has one; None if no bundle has."""
    for m in students:
        known = m.facts.get("teacher")
        if isinstance(known, Mapping) and (known.get("params") or known.get("macs")):
            cost = Cost.of(known)
            why = "only its facts are known, from the bundle; --teacher RUN measures it"
            scores = Accuracy(**known["val"]) if known.get("val") else None
            return Row(
                label="T",
                role=TEACHER,
                name=cost.network or "teacher",
                path=m.contender.path,
                cost=cost,
                size_bytes=count(known, "size_bytes"),
                why_not=why,
                accuracy=scores,
            )
    return None


def _with_ratios(row: Row, first: Row) -> Row:
    """Return the row with its ratios: how many times less than ``first``; MACs only for equal tiles."""
    if row is first:
        return row
    same_tile = row.cost.macs_tile == first.cost.macs_tile
    peaks = [r.memory.tile_peak_rss_bytes if r.memory else None for r in (first, row)]
    joules = [r.power.j_per_mpx.p50 if r.power else None for r in (first, row)]
    found: dict[str, Any] = {
        "params": ratio(first.cost.params, row.cost.params),
        "macs": ratio(first.cost.macs, row.cost.macs) if same_tile else None,
        "size": ratio(first.size_bytes, row.size_bytes),
        "memory": ratio(*peaks),
        "energy": ratio(*joules)
        if row.power and first.power and row.power.source == first.power.source
        else None,
    }
    return replace(row, ratios=found)
