"""What ``rsedge bench --json`` says, checked; what it leaves out is None."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rsedge.errors import InputError
from rsedge.report.facts import Facts

SCHEMA_KEY, SCHEMA = "rsedge_bench_schema", 1
STAGES = ("prepare", "read", "pre", "copy_in", "infer", "copy_out", "blend", "encode", "write")


@dataclass(frozen=True)
class Spread:
    """Median, 10th and 90th percentile of ``n`` measurements. Raises InputError where they are not in order."""

    p50: float
    p10: float
    p90: float
    n: int

    @classmethod
    def read(cls, of: Facts, key: str) -> Spread | None:
        """The spread at a key; None where there is none."""
        part = of.part(key)
        if part is None:
            return None
        low, middle, high, n = part.number("p10"), part.number("p50"), part.number("p90"), part.count("n")
        if low is None or middle is None or high is None or n is None:
            raise InputError(f"{part.where} lacks one of p50, p10, p90 and n: {dict(part.values)}")
        slack = 1e-9 * high  # interpolated percentiles of equal values may differ in the last digit
        if not 0 <= low <= middle + slack <= high + 2 * slack:
            raise InputError(f"{part.where} is not 0 <= p10 <= p50 <= p90: {low:g}, {middle:g}, {high:g}")
        return cls(middle, min(low, middle), max(middle, high), n)

    def times(self, factor: float) -> Spread:
        """In another unit."""
        return Spread(self.p50 * factor, self.p10 * factor, self.p90 * factor, self.n)


@dataclass(frozen=True)
class Cost:
    """What a network costs by counting. ``paper_flops``: what ARAFNet's Table 4 calls FLOPs."""

    network: str | None = None
    params: int | None = None
    macs: int | None = None
    macs_tile: int | None = None
    paper_flops: int | None = None

    @classmethod
    def read(cls, of: Facts, key: str) -> Cost:
        """The counts at a key."""
        part = of.part(key) or Facts({}, of.where)
        counts = (part.count(k) for k in ("params", "macs", "macs_tile", "paper_flops"))
        return cls(part.text("network"), *counts)


@dataclass(frozen=True)
class EndToEnd:
    """A raster from file to file."""

    width: int | None
    height: int | None
    windows: int | None
    mpx_per_s: Spread | None
    ratio: Spread | None
    total_s: Spread | None
    stages_s: Mapping[str, float]
    stages_over_busy: float | None

    @classmethod
    def read(cls, of: Facts) -> EndToEnd | None:
        """That of a row."""
        part = of.part("end_to_end")
        if part is None:
            return None
        known = {
            k: v for k, v in part.numbers("stages_s").items() if k in STAGES and v is not None and v >= 0
        }
        return cls(
            width=part.count("width"),
            height=part.count("height"),
            windows=part.count("windows"),
            mpx_per_s=Spread.read(part, "mpx_per_s"),
            ratio=Spread.read(part, "ratio"),
            total_s=Spread.read(part, "total_s"),
            stages_s={k: known[k] for k in STAGES if k in known},
            stages_over_busy=part.number("stages_over_busy"),
        )


@dataclass(frozen=True)
class Row:
    """One network in one precision on one device. Parts that were not measured are None or empty."""

    label: str
    is_teacher: bool
    name: str
    path: str | None
    precision: str | None
    device: str | None
    backend: str | None
    version: str | None
    provider: str | None
    threads: int | None
    sha256: str | None
    tile: int | None
    why_not: str | None
    cost: Cost
    exported: Cost
    size_bytes: int | None
    latency: Facts | None
    latency_s: Spread | None
    fps: Mapping[int, Spread]  # tiles a second by batch
    fps_ratio: Mapping[int, Spread]
    end_to_end: EndToEnd | None
    memory: Facts | None
    power: Facts | None
    clocks: Facts | None
    miou: float | None
    miou_source: str | None
    gate: Facts | None
    smaller: Mapping[str, float | None]  # how many times, than the first row: params, macs, size

    @property
    def place(self) -> str:
        """What runs where: ``int8, openvino``; empty where neither is known."""
        return ", ".join(p for p in (self.precision, self.device) if p)

    @classmethod
    def read(cls, of: Facts) -> Row:
        """A row of a bench."""
        latency, accuracy = of.part("latency"), of.part("accuracy")
        label, role = of.text("label"), of.text("role")
        if label is None or role not in {"teacher", "student"}:
            raise InputError(f"{of.where} has no label, or a role that is neither teacher nor student")
        return cls(
            label=label,
            is_teacher=role == "teacher",
            name=of.text("name") or label,
            path=of.text("path"),
            precision=of.text("precision"),
            device=of.text("device"),
            backend=of.text("backend"),
            version=of.text("version"),
            provider=of.text("provider"),
            threads=of.count("threads"),
            sha256=of.text("sha256"),
            tile=of.count("tile"),
            why_not=of.text("why_not"),
            cost=Cost.read(of, "cost"),
            exported=Cost.read(of, "cost_exported"),
            size_bytes=of.count("size_bytes"),
            latency=latency,
            latency_s=Spread.read(latency, "spread") if latency else None,
            fps=_by_batch(of, "fps"),
            fps_ratio=_by_batch(of, "fps_ratio"),
            end_to_end=EndToEnd.read(of),
            memory=of.part("memory"),
            power=of.part("power"),
            clocks=of.part("clocks"),
            miou=accuracy.number("miou") if accuracy else None,
            miou_source=accuracy.text("source") if accuracy else None,
            gate=of.part("gate"),
            smaller=of.numbers("ratios"),
        )


def _by_batch(of: Facts, key: str) -> dict[int, Spread]:
    part = of.part(key) or Facts({}, of.where)
    if odd := [k for k in part.values if not k.isdecimal()]:
        raise InputError(f"{of.where}: {key} has {odd[0]!r}, which is no batch size")
    found = {int(k): Spread.read(part, k) for k in part.values}
    return {batch: spread for batch, spread in sorted(found.items()) if spread is not None}


@dataclass(frozen=True)
class Bench:
    """What was measured on one machine."""

    source: str  # the file
    machine: Facts
    method: Facts
    base: Row | None  # what ratios are to
    rows: tuple[Row, ...]
    not_run: tuple[tuple[str, str], ...]  # what, why
    notes: tuple[str, ...]

    @classmethod
    def read(cls, values: Mapping[str, Any], source: str) -> Bench:
        """Raises InputError for another schema, and where a value is not what the schema says."""
        if values.get(SCHEMA_KEY) != SCHEMA:
            raise InputError(
                f"{source}: {SCHEMA_KEY} is {values.get(SCHEMA_KEY)!r}, this rsedge reads {SCHEMA}; make report and "
                "bench with the same version"
            )
        facts = Facts(values, source)
        rows = tuple(Row.read(part) for part in facts.parts("rows"))
        if not rows:
            raise InputError(f"{source} has no rows, so there is nothing to report; run `rsedge bench` again")
        by_label = {row.label: row for row in rows}
        if len(by_label) != len(rows):
            raise InputError(f"{source}: two rows have one label; each needs its own")
        base = facts.text("base")
        if base is not None and base not in by_label:
            raise InputError(f"{source}: base is {base!r}, which is not the label of a row")
        return cls(
            source=source,
            machine=facts.part("machine") or Facts({}, source),
            method=facts.part("method") or Facts({}, source),
            base=by_label.get(base or ""),
            rows=rows,
            not_run=tuple((p.text("what") or "", p.text("why") or "") for p in facts.parts("not_run")),
            notes=facts.texts("notes"),
        )

    @property
    def students(self) -> tuple[Row, ...]:
        """The rows that are not the teacher's."""
        return tuple(row for row in self.rows if not row.is_teacher)

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes that any row was measured with."""
        return tuple(sorted({batch for row in self.rows for batch in row.fps}))

    @property
    def machine_name(self) -> str:
        """Board or processor with its cores, and GPUs."""
        m = self.machine
        cores = m.count("cores")
        name = m.text("board") or m.text("cpu") or "an unnamed machine"
        return ", ".join([name, *([f"{cores} cores"] if cores else []), *m.texts("gpus")])
