"""What a model costs on this machine: time of one tile, time of a whole raster, memory, size, counts.

Nothing is estimated. What was not measured here and does not stand in the bundle is None.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.backends import Backend
from rsedge.conditions import Conditions
from rsedge.engine import Progress
from rsedge.errors import InputError
from rsedge.manifest import Manifest
from rsedge.memory import peak_rss_bytes
from rsedge.options import Options
from rsedge.sample import SampleScene
from rsedge.sample_files import write_sample
from rsedge.segmentation import segment
from rsedge.window import Window

WARMUP = 3  # runs not counted: first touches of memory, a GPU's choice of kernels
SEED = 21
BUSY = 0.5  # load a core before measuring, above which times are not to be trusted
BLOCK = 16  # pixels between the supports of smooth noise


@dataclass(frozen=True)
class BenchOptions:
    """How long to measure: one tile until both ``tile_count`` and ``seconds`` are reached, then one raster."""

    tile_count: int = 20
    seconds: float = 5.0
    raster_side: int = 2048  # pixels, of the raster for the end-to-end time

    def __post_init__(self) -> None:
        if self.tile_count < 1:
            raise InputError(f"tile count {self.tile_count} must be at least 1")
        if not 0 <= self.seconds < math.inf:
            raise InputError(f"seconds {self.seconds} must be 0 or a positive number")
        if self.raster_side < 1:
            raise InputError(f"raster side {self.raster_side} must be at least 1 pixel")


@dataclass(frozen=True)
class Cost:
    """Counts of one network. MACs are of one ``macs_tile`` px tile; a MAC is two FLOPs."""

    network: str | None
    params: int | None
    macs: int | None
    macs_tile: int | None
    flops: int | None  # 2 x macs

    @classmethod
    def of(cls, facts: Mapping[str, Any], suffix: str = "") -> Cost:
        """From a manifest's ``complexity`` or its ``teacher``; ``suffix`` "_deployed": as exported."""
        macs, network = _count(facts, f"macs{suffix}"), facts.get("network")
        return cls(
            network=str(network) if network else None,
            params=_count(facts, f"params{suffix}"),
            macs=macs,
            macs_tile=_count(facts, "macs_tile"),
            flops=None if macs is None else 2 * macs,
        )


@dataclass(frozen=True)
class Latency:
    """Time of one tile at batch 1: pixels in host memory in, scores in host memory out."""

    runs: int
    warmup_runs: int
    pixels: str  # what was on the tile
    p50_s: float
    p90_s: float
    mean_s: float
    cpu_mean_s: float  # processor time a run, all threads together: what a busy machine disturbs least
    tiles_per_s: float  # 1 / mean_s
    mpx_per_s: float  # tile's pixels / mean_s: model alone, no overlap, no reading, no writing

    @classmethod
    def of(cls, times_s: Sequence[float], cpu_s: float, tile: int, pixels: str) -> Latency:
        """Summary of the measured times; ``cpu_s`` is the processor time of all of them together."""
        mean_s = float(np.mean(times_s))
        p50_s, p90_s = (float(v) for v in np.percentile(times_s, (50, 90)))
        return cls(
            runs=len(times_s),
            warmup_runs=WARMUP,
            pixels=pixels,
            p50_s=p50_s,
            p90_s=p90_s,
            mean_s=mean_s,
            cpu_mean_s=cpu_s / len(times_s),
            tiles_per_s=1 / mean_s,
            mpx_per_s=tile * tile / 1e6 / mean_s,
        )


@dataclass(frozen=True)
class EndToEnd:
    """One run of ``segment`` from file to file: reading, overlap, blending, writing a COG included."""

    height: int
    width: int
    overlap: float
    windows: int
    seconds: Mapping[str, float]  # busy seconds by stage (stages overlap) and the total
    mpx_per_s: float  # the raster's pixels / total


@dataclass(frozen=True)
class BenchResult:
    """Everything measured of one model, its teacher's counts where the bundle has them, and the conditions."""

    model: str
    path: str
    sha256: str
    tile: int
    artifact_bytes: int
    cost: Cost  # of the network as trained
    cost_exported: Cost  # of the graph that runs, after exact rewrites
    teacher: Cost | None
    latency: Latency
    end_to_end: EndToEnd | None  # None: the sample scene is 8-bit RGB and the model is not
    model_peak_rss_bytes: int  # highest of this process after the tiles
    peak_rss_bytes: int  # highest of this process after the raster, drawing it included
    conditions: Conditions

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the numbers."""
        load, cores = self.conditions.load_1min_before, self.conditions.cores
        if load is None or load <= BUSY * cores:
            return ()
        said = f"other work was running (load {load:.1f} on {cores} cores): the times are too long"
        return (f"{said}; measure again on a quiet machine",)

    @property
    def params_ratio(self) -> float | None:
        """Parameters of the teacher over those of the network as trained."""
        return _ratio(self.teacher.params if self.teacher else None, self.cost.params)

    @property
    def macs_ratio(self) -> float | None:
        """MACs of the teacher over those of the network as trained; None where their tiles differ."""
        if self.teacher is None or self.teacher.macs_tile != self.cost.macs_tile:
            return None
        return _ratio(self.teacher.macs, self.cost.macs)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        derived = {"params_ratio": self.params_ratio, "macs_ratio": self.macs_ratio, "notes": self.notes}
        return {**asdict(self), **derived}


def bench(
    model: Backend, options: BenchOptions | None = None, progress: Progress | None = None
) -> BenchResult:
    """Measure ``model``. ``progress`` is called with (windows done, windows in all) of the raster.

    Raises InputError, BackendError or OutputError.
    """
    options = options or BenchOptions()
    bundle, manifest = model.bundle, model.bundle.manifest
    conditions = Conditions.of(model)
    pixels, what = example_tile(manifest)
    times_s, cpu_s = time_tile(model, pixels, options)
    model_peak = peak_rss_bytes()
    teacher = manifest.complexity.get("teacher")
    return BenchResult(
        model=manifest.name,
        path=str(bundle.path),
        sha256=bundle.sha256,
        tile=manifest.tile,
        artifact_bytes=bundle.artifact.stat().st_size,
        cost=Cost.of(manifest.complexity),
        cost_exported=Cost.of(manifest.complexity, "_deployed"),
        teacher=Cost.of(teacher) if isinstance(teacher, Mapping) else None,
        latency=Latency.of(times_s, cpu_s, manifest.tile, what),
        end_to_end=_end_to_end(model, options.raster_side, progress) if manifest.takes_rgb8 else None,
        model_peak_rss_bytes=model_peak,
        peak_rss_bytes=max(model_peak, peak_rss_bytes()),  # the raster's is counted anew
        conditions=conditions,
    )


def time_tile(model: Backend, pixels: NDArray[Any], options: BenchOptions) -> tuple[list[float], float]:
    """Run ``pixels`` (1, bands, tile, tile) after ``WARMUP`` uncounted runs: seconds of each, CPU seconds of all."""
    for _ in range(WARMUP):
        model.infer(pixels)
    times_s: list[float] = []
    begin, cpu_begin = time.perf_counter(), time.process_time()
    while len(times_s) < options.tile_count or time.perf_counter() - begin < options.seconds:
        start = time.perf_counter()
        model.infer(pixels)
        times_s.append(time.perf_counter() - start)
    return times_s, time.process_time() - cpu_begin


def example_tile(manifest: Manifest) -> tuple[NDArray[Any], str]:
    """A batch of one tile (1, bands, tile, tile) in the manifest's dtype, and what is on it.

    A sample scene where the model takes 8-bit RGB; else smooth noise of half to one and a half of the
    training mean.
    """
    tile = manifest.tile
    if manifest.takes_rgb8:
        return SampleScene(tile, tile, SEED).render(Window(0, 0, tile, tile))[0][None], "sample scene"
    supports = np.random.default_rng(SEED).random((len(manifest.bands), *[tile // BLOCK + 2] * 2))
    at = np.arange(tile) / BLOCK
    index, part = at.astype(int), at % 1
    rows = supports[:, index] * (1 - part)[:, None] + supports[:, index + 1] * part[:, None]
    smooth = rows[:, :, index] * (1 - part) + rows[:, :, index + 1] * part
    pixels = np.array(manifest.fill)[:, None, None] * (0.5 + smooth)
    if manifest.dtype != "float32":
        pixels = pixels.clip(0, np.iinfo(manifest.dtype).max).round()
    return pixels.astype(manifest.dtype)[None], "smooth noise around the training mean"


def _end_to_end(model: Backend, side: int, progress: Progress | None) -> EndToEnd:
    """``segment`` on a sample scene of ``side`` px in a temporary folder; drawing it is not timed."""
    options = Options()
    with tempfile.TemporaryDirectory(prefix="rsedge-bench-") as folder:
        raster = Path(folder) / "sample.tif"
        write_sample(raster, side, side, seed=SEED)
        result = segment(model, raster, Path(folder) / "mask.tif", options, progress)
    return EndToEnd(side, side, options.overlap, result.windows, result.seconds, result.mpx_per_s)


def _count(facts: Mapping[str, Any], key: str) -> int | None:
    """A positive whole number of a manifest, else None: somebody else may have written it."""
    value = facts.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _ratio(above: int | None, below: int | None) -> float | None:
    return above / below if above and below else None
