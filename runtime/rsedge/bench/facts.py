"""Options and results of a bench: frozen values with units. A value that was not measured is None, never estimated.

``rsedge bench --json`` prints `BenchResult.to_dict`; `rsedge.documents.from_json` reads it back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from rsedge.backends import check_numbers
from rsedge.documents import Count
from rsedge.errors import InputError

SCHEMA_KEY, SCHEMA = "rsedge_bench_schema", 1
BATCHES = (1, 8)  # tiles at once: one as on a field machine, eight as in the papers' Table 4
PAPER_TILES = 8  # ARAFNet's Table 4 counts multiply-accumulates of eight tiles and calls them FLOPs
TEACHER, STUDENT = "teacher", "student"
SLACK = 1e-9  # interpolated percentiles of equal values may differ in the last digit


@dataclass(frozen=True)
class BenchOptions:
    """Settings of a bench. ``device`` "auto": every available device; ``precision`` None: every artifact.

    In each of ``rounds`` the models take turns to run single tiles, the raster and batches; ``seconds`` is the time of
    one model's single tiles over all rounds.
    """

    rounds: int = 5
    seconds: float = 5.0
    raster_side: int = 2048  # pixels; side of the sample scene for the end-to-end time
    device: str = "auto"
    precision: str | None = None
    threads: int | None = None  # on a CPU; None: all cores
    streams: int = 1  # tiles of a raster in work at once on a CPU
    data: str | None = None  # labelled folder, for accuracy
    classes: str | None = None  # TOML table of the labels' colours
    bands: tuple[int, ...] | None = None  # bands of the labelled images, 1-based
    scale: tuple[float, float] | None = None  # range of the images' values
    nodata: tuple[float, ...] | None = None  # of the images, one value or one per band; None: as in the files
    alpha: int | Literal["none"] | None = None  # alpha band of the images; None: as tagged
    allow_missing: bool = False  # labels may lack classes

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError(f"rounds {self.rounds} must be at least 1")
        if not 0 <= self.seconds < math.inf:
            raise InputError(f"seconds {self.seconds} must be 0 or a positive number")
        check_numbers(self.device, self.threads, self.streams)
        if self.classes and not self.data:
            raise InputError("--classes are the label colours of --data, which was not given")
        told = [n for n in ("bands", "scale", "nodata", "alpha") if getattr(self, n) is not None]
        if told and not self.data:
            raise InputError(f"--{told[0]} belongs to the images of --data, which was not given")


@dataclass(frozen=True)
class Spread:
    """Median, 10th and 90th percentile of ``n`` measurements. Raises InputError if they are not in order."""

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
        """Summarise ``values`` (at least one)."""
        p10, p50, p90 = (float(v) for v in np.percentile(values, (10, 50, 90)))
        return cls(p50, p10, p90, len(values))

    def times(self, factor: float) -> Spread:
        """Multiply by ``factor``, for another unit."""
        return Spread(self.p50 * factor, self.p10 * factor, self.p90 * factor, self.n)


@dataclass(frozen=True)
class Cost:
    """Parameter and operation counts of one network. ``macs``: for one ``macs_tile`` px tile; a MAC is two FLOPs."""

    network: str | None
    params: Count | None
    macs: Count | None
    macs_tile: Count | None

    @classmethod
    def of(cls, facts: Mapping[str, Any], suffix: str = "") -> Cost:
        """Read a manifest's ``complexity`` or its ``teacher``; ``suffix`` "_deployed": as exported."""
        network = facts.get("network")
        return cls(
            network=str(network) if network else None,
            params=count(facts, f"params{suffix}"),
            macs=count(facts, f"macs{suffix}"),
            macs_tile=count(facts, "macs_tile"),
        )

    @property
    def flops(self) -> int | None:
        """Floating-point operations of one tile: two per MAC."""
        return None if self.macs is None else 2 * self.macs

    @property
    def paper_flops(self) -> int | None:
        """FLOPs as in ARAFNet's Table 4: MACs of eight tiles (its counter adds a few percent for norms)."""
        return None if self.macs is None else PAPER_TILES * self.macs

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "flops": self.flops, "paper_flops": self.paper_flops}


@dataclass(frozen=True)
class Latency:
    """Time of one tile at batch 1, from pixels to scores in host memory. Percentiles are over all runs."""

    runs: Count
    p50_s: float
    p95_s: float
    p99_s: float
    spread: Spread
    cpu_mean_s: float  # processor time per run, all threads: least disturbed on a busy machine
    pixels: str  # what was on the tile

    @classmethod
    def of(cls, times_s: Sequence[float], cpu_s: float, pixels: str) -> Latency:
        """Summarise the measured times; ``cpu_s`` is the total processor time of all runs."""
        p50_s, p95_s, p99_s = (float(v) for v in np.percentile(times_s, (50, 95, 99)))
        return cls(len(times_s), p50_s, p95_s, p99_s, Spread.of(times_s), cpu_s / len(times_s), pixels)


@dataclass(frozen=True)
class EndToEnd:
    """``segment`` of a sample scene, file to file, including reading, overlap, blending and writing a COG."""

    height: Count
    width: Count
    windows: Count
    mpx_per_s: Spread  # the raster's pixels / total
    ratio: Spread | None  # this model over the base, in the same rounds on the base's raster
    total_s: Spread
    stages_s: Mapping[str, float]  # own work of each stage, median of the rounds; stages overlap
    busy_s: float  # all threads together, measured apart from the stages, median
    stages_over_busy: (
        float  # only the stages between prepare and write, which are measured once; 1: no time is lost
    )


@dataclass(frozen=True)
class Memory:
    """Peak resident memory of a process that runs only one model, including Python and libraries."""

    tile_peak_rss_bytes: Count  # after single tiles
    raster_peak_rss_bytes: Count | None  # during a raster
    device_bytes: Count | None  # memory on a discrete GPU, as its driver reports for the process


@dataclass(frozen=True)
class Power:
    """Power of the whole ``source`` (idle draw included) while rasters were segmented."""

    source: str
    watts: Spread
    j_per_mpx: Spread


@dataclass(frozen=True)
class Clocks:
    """Clocks while rasters were segmented. ``throttled`` None: the device does not report throttling."""

    cpu_mhz: Spread | None
    gpu_mhz: Spread | None
    throttled: bool | None
    source: str


@dataclass(frozen=True)
class Accuracy:
    """Scores and their source: the exporter's report, or measured in this bench."""

    miou: float | None
    oa: float | None
    iou: Mapping[str, float | None] | None  # by class
    source: str


@dataclass(frozen=True)
class Row:
    """One model on one device, or (with ``why_not``) a model that was not measured."""

    label: str  # "T" for the teacher, else its number
    role: str
    name: str
    path: str
    cost: Cost
    cost_exported: Cost | None = None  # cost of the exported graph, after exact rewrites
    size_bytes: Count | None = None  # size of the artifact or the weights
    why_not: str | None = None
    precision: str | None = None
    device: str | None = None  # name for --device
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
    # How many times less than in the first row: params, macs, size, memory (tile's peak), energy (J/Mpx).
    ratios: Mapping[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.role not in {TEACHER, STUDENT}:
            raise InputError(f"role {self.role!r} is neither {TEACHER} nor {STUDENT}")

    @property
    def is_teacher(self) -> bool:
        """True if the row is the teacher, which students are compared with."""
        return self.role == TEACHER

    @property
    def place(self) -> str:
        """Precision and device: ``int8, openvino``; empty if both are unknown."""
        return ", ".join(p for p in (self.precision, self.device) if p)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        exported = self.cost_exported
        own = {"cost": self.cost.to_dict(), "cost_exported": exported.to_dict() if exported else None}
        return {**asdict(self), **own}


@dataclass(frozen=True)
class Machine:
    """The machine that was measured: hardware, power mode and software versions."""

    cpu: str | None = None
    cores: Count = 0  # cores that the process may use
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
        """Board or processor with its cores, and the GPUs."""
        cores = (f"{self.cores} cores",) if self.cores else ()
        return ", ".join((self.board or self.cpu or "an unnamed machine", *cores, *self.gpus))


@dataclass(frozen=True)
class Method:
    """Measuring method: the values of `BenchOptions`, lists as typed on the command line, and fixed settings."""

    rounds: Count = 0
    seconds: float = 0.0
    warmup_runs: Count = 0
    raster_side: Count = 0
    batches: tuple[Count, ...] = ()
    overlap: float = 0.0
    overhead_share: float = 0.0  # share of the measured time that measuring itself took
    device: str | None = None
    precision: str | None = None
    threads: Count | None = None
    streams: Count | None = None
    data: str | None = None
    classes: str | None = None
    bands: str | None = None
    scale: str | None = None
    nodata: str | None = None
    alpha: str | None = None


@dataclass(frozen=True)
class NotRun:
    """A model that could not be measured, and the reason."""

    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


@dataclass(frozen=True)
class BenchResult:
    """All rows, the teacher first, with machine and method. Raises InputError if labels are not unique."""

    machine: Machine
    method: Method
    base: str  # label of the row that speeds are compared with
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
        """The row that speeds are compared with."""
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
        """Return the result as plain JSON values."""
        return {SCHEMA_KEY: SCHEMA, **asdict(self), "rows": [row.to_dict() for row in self.rows]}


def count(facts: Mapping[str, Any], key: str) -> int | None:
    """Return a positive integer of a manifest, else None: another program may have written the manifest."""
    value = facts.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def ratio(above: float | None, below: float | None) -> float | None:
    """Return ``above / below``, or None if either is unknown or 0."""
    return above / below if above and below else None
