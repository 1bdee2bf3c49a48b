"""Rounds in which models take turns, so that a disturbance hits all models and ratios hold within a round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rsedge.bench.contender import Contender
from rsedge.bench.crew import Worker
from rsedge.bench.facts import BATCHES, BenchOptions, NotRun
from rsedge.bench.inputs import example_raster
from rsedge.bench.sensors import Reading, Sensors
from rsedge.errors import BackendError, InputError, ModelError
from rsedge.infer.options import Options
from rsedge.tiling.axes import Axis

# Options of scoring on labels.
EVALUATED = ("data", "classes", "bands", "scale", "nodata", "alpha", "allow_missing")

WARMUP = 3  # runs not counted, because memory is first touched and a GPU chooses its kernels
SLOW_S = 1.0  # a model with slower runs is warmed up once
RASTER_S = 30.0  # a model that needs more for the raster gets a smaller one
LEAST_ALONG = 2  # windows along a side, so that windows overlap and are blended
ENOUGH_S, ENOUGH_ROUNDS = 90.0, 3  # a model past both limits takes no further turns
Facts = dict[str, Any]
OVERLAP = Options().overlap


@dataclass
class Measured:
    """One model's measurements by round, so that models can be compared within a round."""

    contender: Contender
    facts: Facts  # the worker's answer when it was opened
    times_s: dict[int, dict[int, list[float]]] = field(default_factory=lambda: {b: {} for b in BATCHES})
    cpu_s: float = 0.0  # processor time of all single tiles
    pixels: str = ""  # what was on the tiles
    rasters: dict[int, Facts] = field(default_factory=dict)
    on_base_raster: dict[int, Facts] = field(
        default_factory=dict
    )  # runs on the base's raster, which may be smaller
    readings: dict[int, Reading] = field(default_factory=dict)
    tile_peak_bytes: int = 0
    raster_peak_bytes: int | None = None
    device_bytes: int | None = None
    scores: Facts | None = None
    spent_s: float = 0.0

    def fps(self, batch: int) -> dict[int, float]:
        """Return tiles per second by round, from the round's median time."""
        return {n: batch / statistics.median(t) for n, t in self.times_s[batch].items()}


@dataclass
class Overhead:
    """Time that measuring itself took, and the time that was measured."""

    own_s: float = 0.0
    measured_s: float = 0.0

    @property
    def share(self) -> float:
        """Share of the measured time, 0 to 1."""
        return self.own_s / self.measured_s if self.measured_s else 0.0


class Turns:
    """Rounds of turns. ``scratch``: folder for rasters and masks."""

    def __init__(self, options: BenchOptions, sensors: Sensors, scratch: Path) -> None:
        self._options, self._sensors, self._scratch = options, sensors, scratch
        self.overhead, self.lost = Overhead(), list[NotRun]()
        self._base_side: int | None = None  # side of the first model's raster

    def take(
        self, workers: Sequence[Worker], progress: Callable[[int, int], None] | None = None
    ) -> list[Measured]:
        """Run all rounds, each starting with a different model; the first worker is the base of ratios.

        A model that fails takes no further turns, and ``lost`` holds the reason.
        """
        found = [(worker, Measured(worker.contender, worker.facts)) for worker in workers]
        going, total = dict(found), self._options.rounds * len(workers)
        for number in range(self._options.rounds):
            for place in range(len(workers)):
                worker, mine = found[(number + place) % len(workers)]
                with self._losing(going, worker):
                    if worker in going:
                        self._turn(worker, mine, number)
                if progress:
                    progress(number * len(workers) + place + 1, total)
        if self._options.data:
            for worker, mine in list(going.items()):
                with self._losing(going, worker):
                    mine.scores = worker.ask(
                        "evaluate",
                        **{key: getattr(self._options, key) for key in EVALUATED},
                    )
        return [mine for _, mine in found if mine.times_s[1]]

    @contextmanager
    def _losing(self, going: dict[Worker, Measured], worker: Worker) -> Iterator[None]:
        """Drop a model that fails from ``going``; measurements before the failure are kept."""
        try:
            yield
        except (BackendError, ModelError, InputError) as error:
            del going[worker]
            self.lost.append(NotRun(f"{worker.contender}, remaining turns", str(error)))

    def _turn(self, worker: Worker, mine: Measured, number: int) -> None:
        if number >= ENOUGH_ROUNDS and mine.spent_s > ENOUGH_S:
            return
        seconds = self._options.seconds / self._options.rounds
        said = self._tiles(worker, mine, number, 1, seconds)
        mine.cpu_s, mine.pixels = mine.cpu_s + said["cpu_s"], said["pixels"]
        if number == 0:
            mine.tile_peak_bytes = worker.ask("peak")["peak_rss_bytes"]
        self._raster(worker, mine, number)
        if number == 0:
            mine.device_bytes = self._sensors.device_bytes(worker.pid)
        for batch in BATCHES[1:]:  # last, because a runtime keeps the memory of a batch
            self._tiles(worker, mine, number, batch, seconds)

    def _tiles(self, worker: Worker, mine: Measured, number: int, batch: int, seconds: float) -> Facts:
        warm_up = 0
        if number == 0:
            # This run is not counted; its time decides the number of warm-up runs.
            first_s = max(worker.ask("tiles", batch=batch, seconds=0, warm_up=0)["times_s"])
            warm_up = WARMUP - 1 if first_s < SLOW_S else 0
        said = worker.ask("tiles", batch=batch, seconds=seconds, warm_up=warm_up)
        mine.times_s[batch][number] = said["times_s"]
        mine.spent_s += said["wall_s"]
        self.overhead.own_s += said["wall_s"] - sum(said["times_s"])
        self.overhead.measured_s += said["wall_s"]
        return said

    def _raster(self, worker: Worker, mine: Measured, number: int) -> None:
        if not mine.facts["takes_rgb8"]:
            return
        tile_s = statistics.median(mine.times_s[1][min(mine.times_s[1])])
        side = fitting_side(self._options.raster_side, mine.facts["tile"], tile_s)
        if number == 0:  # not counted, because libraries are loaded and kernels compiled on first use
            self._segment(worker, mine.facts["tile"])
        on_gpu = "cuda" in mine.facts["provider"].lower() or "tensorrt" in mine.facts["provider"].lower()
        with self._sensors.watch(on_gpu) as reading:
            said = self._segment(worker, side)
        mine.rasters[number], mine.readings[number] = said, reading
        mine.spent_s += said["seconds"]["total"]
        if number == 0:  # before a batch raises the peak
            mine.raster_peak_bytes = said["peak_rss_bytes"]
        self.overhead.own_s += reading.cost_s
        self.overhead.measured_s += said["seconds"]["total"]
        self._base_side = self._base_side or side
        if self._base_side == side:
            mine.on_base_raster[number] = said
        elif self._base_side < side:  # the base was too slow for this side
            mine.on_base_raster[number] = self._segment(worker, self._base_side)

    def _segment(self, worker: Worker, side: int) -> Facts:
        path, out = example_raster(self._scratch, side), self._scratch / "mask.tif"
        return worker.ask("raster", path=str(path), out=str(out), overlap=OVERLAP)


def check_side(side: int, tile: int) -> None:
    """Raise InputError if a raster is too small to time."""
    if side < tile:
        raise InputError(
            f"a raster of {side} px is smaller than the model's tile ({tile} px): nothing would overlap; give --size "
            f"{4 * tile} or so"
        )


def fitting_side(side: int, tile: int, tile_s: float) -> int:
    """Return the side of a model's raster, px: ``side``, or less if it would take more than ``RASTER_S``."""
    axis = Axis(side, tile, OVERLAP)
    along = len(axis.starts)
    while along > LEAST_ALONG and along**2 * tile_s > RASTER_S:
        along -= 1
        side = tile + (along - 1) * axis.stride
    return side


def pooled(by_round: Mapping[int, Sequence[float]]) -> list[float]:
    """Return the measurements of all rounds in one list."""
    return [value for values in by_round.values() for value in values]
