"""What a bench answers: frozen values with their units. What was not measured is None, and nothing is estimated.

`BenchResult.to_dict` is what ``rsedge bench --json`` prints, and `rsedge.documents.from_json` reads it back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from rsedge.backends import DEVICES
from rsedge.documents import Count
from rsedge.errors import InputError

SCHEMA_KEY, SCHEMA = "rsedge_bench_schema", 1
BATCHES = (1, 8)  # tiles at once: what a field machine runs, and what the papers' Table 4 times
PAPER_TILES = 8  # ARAFNet's Table 4 counts multiply-accumulates of eight tiles and calls them FLOPs
TEACHER, STUDENT = "teacher", "student"
SLACK = 1e-9  # interpolated percentiles of equal values may differ in the last digit


@dataclass(frozen=True)
class BenchOptions:
    """What to measure and how long. ``device`` "auto" is every one that is here, ``precision`` None every artifact.

    In each of ``rounds`` every model runs single tiles, the raster, and batches, in turns; ``seconds`` are for one
    model's single tiles, over all rounds.
    """

    rounds: int = 5
    seconds: float = 5.0
    raster_side: int = 2048  # pixels, of the sample scene for the end-to-end time
    device: str = "auto"
    precision: str | None = None
    threads: int | None = None  # of a CPU; None: all cores
    data: str | None = None  # labelled folder, for accuracy
    classes: str | None = None  # TOML table of the labels' colours
    bands: tuple[int, ...] | None = None  # of the labelled images, 1-based
    scale: tuple[float, float] | None = None  # of their values
    nodata: tuple[float, ...] | None = None  # of them, one value or one a band; None: as in the files
    alpha: int | Literal["none"] | None = None  # their alpha band; None: as tagged
    allow_missing: bool = False  # labels may lack classes

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError(f"rounds {self.rounds} must be at least 1")
        if not 0 <= self.seconds < math.inf:
            raise InputError(f"seconds {self.seconds} must be 0 or a positive number")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads {self.threads} must be at least 1")
        if self.device not in DEVICES:
            raise InputError(f"device {self.device!r} is unknown; choose one of {', '.join(DEVICES)}")
        if self.classes and not self.data:
            raise InputError("--classes are the label colours of --data, which was not given")
        told = [n for n in ("bands", "scale", "nodata", "alpha") if getattr(self, n) is not None]
        if told and not self.data:
            raise InputError(f"--{told[0]} belongs to the images of --data, which was not given")


@dataclass(frozen=True)
class Spread:
    """Median, 10th and 90th percentile of ``n`` measurements. Raises InputError where they are not in order."""

    p50: float
    p10: float
    p90: float
    n: Count

    def __post_init__(self) -> None:
        slack = SLACK * self.p90
        if not 0 <= self.p10 <= self.p50 + slack <= self.p90 + 2 * slack:
            raise InputError(f"not 0 <= p10 <= p50 <= p90: {self.p10:g}, {self.p50:g}, {self.p90:g}")

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        p10, p50, p90 = (float(v) for v in np.percentile(values, (10, 50, 90)))
        return cls(p50, p10, p90, len(values))

    def times(self, factor: float) -> Spread:
        """In another unit."""
        return Spread(self.p50 * factor, self.p10 * factor, self.p90 * factor, self.n)


@dataclass(frozen=True)
class Cost:
    """Counts of one network. MACs are of one ``macs_tile`` px tile; a MAC is two FLOPs."""

    network: str | None
    params: Count | None
    macs: Count | None
    macs_tile: Count | None

    @classmethod
    def of(cls, facts: Mapping[str, Any], suffix: str = "") -> Cost:
        """From a manifest's ``complexity`` or its ``teacher``; ``suffix`` "_deployed": as exported."""
        network = facts.get("network")
        return cls(
            network=str(network) if network else None,
            params=count(facts, f"params{suffix}"),
            macs=count(facts, f"macs{suffix}"),
            macs_tile=count(facts, "macs_tile"),
        )

    @property
    def flops(self) -> int | None:
        """Floating-point operations of one tile: two a MAC."""
        return None if self.macs is None else 2 * self.macs

    @property
    def paper_flops(self) -> int | None:
        """What ARAFNet's Table 4 calls FLOPs: MACs of eight tiles (its counter adds a few percent for norms)."""
        return None if self.macs is None else PAPER_TILES * self.macs

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "flops": self.flops, "paper_flops": self.paper_flops}


@dataclass(frozen=True)
class Latency:
    """Time of one tile at batch 1: pixels in host memory in, scores in host memory out. Percentiles of all runs."""

    runs: Count
    p50_s: float
    p95_s: float
    p99_s: float
    spread: Spread
    cpu_mean_s: float  # processor time a run, all threads together: what a busy machine disturbs least
    pixels: str  # what was on the tile

    @classmethod
    def of(cls, times_s: Sequence[float], cpu_s: float, pixels: str) -> Latency:
        """Summary of the measured times; ``cpu_s`` is the processor time of all of them together."""
        p50_s, p95_s, p99_s = (float(v) for v in np.percentile(times_s, (50, 95, 99)))
        return cls(len(times_s), p50_s, p95_s, p99_s, Spread.of(times_s), cpu_s / len(times_s), pixels)


@dataclass(frozen=True)
class EndToEnd:
    """``segment`` of a sample scene, file to file: reading, overlap, blending, writing a COG included."""

    height: Count
    width: Count
    windows: Count
    mpx_per_s: Spread  # the raster's pixels / total
    ratio: Spread | None  # own over base, both on the base's raster, of the same rounds
    total_s: Spread
    stages_s: Mapping[str, float]  # each stage's own work, median of the rounds; stages overlap
    busy_s: float  # of all threads together, measured apart from the stages, median
    stages_over_busy: (
        float  # of the stages between prepare and write, which are not measured twice; 1: nothing is lost
    )


@dataclass(frozen=True)
class Memory:
    """Highest resident memory of the process that runs one model and nothing else, Python and libraries included."""

    tile_peak_rss_bytes: Count  # having run single tiles
    raster_peak_rss_bytes: Count | None  # during a raster
    device_bytes: Count | None  # of a discrete GPU, as its driver lists the process


@dataclass(frozen=True)
class Power:
    """Of the whole ``source`` (idle draw included) while rasters were segmented."""

    source: str
    watts: Spread
    j_per_mpx: Spread


@dataclass(frozen=True)
class Clocks:
    """While rasters were segmented. ``throttled`` None: the device does not tell."""

    cpu_mhz: Spread | None
    gpu_mhz: Spread | None
    throttled: bool | None
    source: str


@dataclass(frozen=True)
class Accuracy:
    """Scores and where they come from: a report of the exporter's, or measured just now."""

    miou: float | None
    oa: float | None
    iou: Mapping[str, float | None] | None  # by class
    source: str


@dataclass(frozen=True)
class Row:
    """One model on one device, or (``why_not``) a model of which only facts are known."""

    label: str  # "T" for the teacher, else its number
    role: str
    name: str
    path: str
    cost: Cost
    cost_exported: Cost | None = None  # of the graph that runs, after exact rewrites
    size_bytes: Count | None = None  # of the artifact or the weights
    why_not: str | None = None
    precision: str | None = None
    device: str | None = None  # as it is asked for by name
    backend: str | None = None
    version: str | None = None
    provider: str | None = None
    threads: Count | None = None
    sha256: str | None = None
    tile: Count | None = None
    latency: Latency | None = None
    fps: Mapping[int, Spread | None] = field(default_factory=lambda: dict.fromkeys(BATCHES))  # by batch
    fps_ratio: Mapping[int, Spread | None] = field(default_factory=lambda: dict.fromkeys(BATCHES))
    end_to_end: EndToEnd | None = None
    memory: Memory | None = None
    power: Power | None = None
    clocks: Clocks | None = None
    accuracy: Accuracy | None = None
    gate: Mapping[str, Any] | None = None  # the artifact's record in the bundle's report
    # How many times less than the first row: params, macs, size, memory (tile's peak), energy (J/Mpx).
    ratios: Mapping[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.role not in {TEACHER, STUDENT}:
            raise InputError(f"role {self.role!r} is neither {TEACHER} nor {STUDENT}")

    @property
    def is_teacher(self) -> bool:
        """Whether it is what students are measured against."""
        return self.role == TEACHER

    @property
    def place(self) -> str:
        """What runs where: ``int8, openvino``; empty where neither is known."""
        return ", ".join(p for p in (self.precision, self.device) if p)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        exported = self.cost_exported
        own = {"cost": self.cost.to_dict(), "cost_exported": exported.to_dict() if exported else None}
        return {**asdict(self), **own}


@dataclass(frozen=True)
class Machine:
    """What a bench holds for: the machine, its power mode, the versions behind the numbers."""

    cpu: str | None = None
    cores: Count = 0  # that the process may use
    board: str | None = None
    gpus: tuple[str, ...] = ()
    memory_bytes: Count | None = None
    system: str | None = None
    python: str | None = None
    power_mode: str | None = None
    governor: str | None = None
    versions: Mapping[str, str | None] = field(default_factory=dict)
    load_1min_before: float | None = None
    date: str = ""  # UTC, ISO 8601

    @property
    def name(self) -> str:
        """Board or processor with its cores, and GPUs."""
        cores = (f"{self.cores} cores",) if self.cores else ()
        return ", ".join((self.board or self.cpu or "an unnamed machine", *cores, *self.gpus))


@dataclass(frozen=True)
class Method:
    """How it was measured: `BenchOptions`, lists as the command takes them, and what held besides."""

    rounds: Count = 0
    seconds: float = 0.0
    warmup_runs: Count = 0
    raster_side: Count = 0
    batches: tuple[Count, ...] = ()
    overlap: float = 0.0
    overhead_share: float = 0.0  # of the time that was measured: what measuring itself took
    device: str | None = None
    precision: str | None = None
    threads: Count | None = None
    data: str | None = None
    classes: str | None = None
    bands: str | None = None
    scale: str | None = None
    nodata: str | None = None
    alpha: str | None = None


@dataclass(frozen=True)
class NotRun:
    """What cannot run here, and why."""

    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


@dataclass(frozen=True)
class BenchResult:
    """All rows, the teacher first, and what they were measured on. Raises InputError where labels do not tell rows."""

    machine: Machine
    method: Method
    base: str  # label of the row that ratios are to
    rows: tuple[Row, ...]
    not_run: tuple[NotRun, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.rows:
            raise InputError("it has no rows, so nothing was measured; run `rsedge bench` again")
        labels = {row.label for row in self.rows}
        if len(labels) != len(self.rows):
            raise InputError("two rows have one label; each needs its own")
        if self.base not in labels:
            raise InputError(f"base {self.base!r} is not the label of a row")

    @property
    def base_row(self) -> Row:
        """What ratios are to."""
        return next(row for row in self.rows if row.label == self.base)

    @property
    def students(self) -> tuple[Row, ...]:
        """The rows that are not the teacher's."""
        return tuple(row for row in self.rows if not row.is_teacher)

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes that any row was measured with."""
        return tuple(sorted({batch for row in self.rows for batch, fps in row.fps.items() if fps}))

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return {SCHEMA_KEY: SCHEMA, **asdict(self), "rows": [row.to_dict() for row in self.rows]}


def count(facts: Mapping[str, Any], key: str) -> int | None:
    """A positive whole number of a manifest, else None: somebody else may have written it."""
    value = facts.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def ratio(above: float | None, below: float | None) -> float | None:
    """``above / below`` where both are known."""
    return above / below if above and below else None
