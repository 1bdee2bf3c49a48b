"""Models take turns: what disturbs the machine disturbs all of them, and ratios stand on rounds."""

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

# options that scoring on labels takes
EVALUATED = ("data", "classes", "bands", "scale", "nodata", "alpha", "allow_missing")

WARMUP = 3  # runs not counted: first touches of memory, a GPU's choice of kernels
SLOW_S = 1.0  # a run of more than that is warmed up once
RASTER_S = 30.0  # a model that needs more for the raster gets a smaller one
LEAST_ALONG = 2  # windows along its sides, so that there is something to blend
ENOUGH_S, ENOUGH_ROUNDS = 90.0, 3  # a model that has used both takes no further turns
Facts = dict[str, Any]
OVERLAP = Options().overlap


@dataclass
class Measured:
    """One model's measurements, by round: a list of times for each, so that rounds can be compared."""

    contender: Contender
    facts: Facts  # what it said when it was opened
    times_s: dict[int, dict[int, list[float]]] = field(default_factory=lambda: {b: {} for b in BATCHES})
    cpu_s: float = 0.0  # of all single tiles together
    pixels: str = ""  # what was on the tiles
    rasters: dict[int, Facts] = field(default_factory=dict)
    on_base_raster: dict[int, Facts] = field(
        default_factory=dict
    )  # where the base had a smaller one, of that
    readings: dict[int, Reading] = field(default_factory=dict)
    tile_peak_bytes: int = 0
    raster_peak_bytes: int | None = None
    device_bytes: int | None = None
    scores: Facts | None = None
    spent_s: float = 0.0

    def fps(self, batch: int) -> dict[int, float]:
        """Tiles a second, by round: of the round's median."""
        return {n: batch / statistics.median(t) for n, t in self.times_s[batch].items()}


@dataclass
class Overhead:
    """What measuring itself took of the time that was measured."""

    own_s: float = 0.0
    measured_s: float = 0.0

    @property
    def share(self) -> float:
        """0 to 1."""
        return self.own_s / self.measured_s if self.measured_s else 0.0


class Turns:
    """Runs the rounds. ``scratch``: a folder for rasters and masks."""

    def __init__(self, options: BenchOptions, sensors: Sensors, scratch: Path) -> None:
        self._options, self._sensors, self._scratch = options, sensors, scratch
        self.overhead, self.lost = Overhead(), list[NotRun]()
        self._base_side: int | None = None  # of the raster that the first model was given

    def take(
        self, workers: Sequence[Worker], progress: Callable[[int, int], None] | None = None
    ) -> list[Measured]:
        """All rounds, each beginning with another model; ratios will be to the first.

        A model that breaks down takes no further turns, and ``lost`` says why.
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
        """What was measured before the model broke down stands."""
        try:
            yield
        except (BackendError, ModelError, InputError) as error:
            del going[worker]
            self.lost.append(NotRun(f"{worker.contender}, from there on", str(error)))

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
        for batch in BATCHES[1:]:  # last, since a runtime keeps the memory that a batch took
            self._tiles(worker, mine, number, batch, seconds)

    def _tiles(self, worker: Worker, mine: Measured, number: int, batch: int, seconds: float) -> Facts:
        warm_up = 0
        if number == 0:
            # A run that is not counted, to know how many more to make.
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
        if number == 0:  # not counted: libraries are loaded and kernels compiled on first use
            self._segment(worker, mine.facts["tile"])
        on_gpu = "cuda" in mine.facts["provider"].lower() or "tensorrt" in mine.facts["provider"].lower()
        with self._sensors.watch(on_gpu) as reading:
            said = self._segment(worker, side)
        mine.rasters[number], mine.readings[number] = said, reading
        mine.spent_s += said["seconds"]["total"]
        if number == 0:  # before any batch
            mine.raster_peak_bytes = said["peak_rss_bytes"]
        self.overhead.own_s += reading.cost_s
        self.overhead.measured_s += said["seconds"]["total"]
        self._base_side = self._base_side or side
        if self._base_side == side:
            mine.on_base_raster[number] = said
        elif self._base_side < side:  # the teacher was too slow for this one
            mine.on_base_raster[number] = self._segment(worker, self._base_side)

    def _segment(self, worker: Worker, side: int) -> Facts:
        path, out = example_raster(self._scratch, side), self._scratch / "mask.tif"
        return worker.ask("raster", path=str(path), out=str(out), overlap=OVERLAP)


def check_side(side: int, tile: int) -> None:
    """Raise InputError where a raster is too small to time."""
    if side < tile:
        raise InputError(
            f"a raster of {side} px is smaller than the model's tile ({tile} px): nothing would overlap; give --size "
            f"{4 * tile} or so"
        )


def fitting_side(side: int, tile: int, tile_s: float) -> int:
    """The raster's side that a model is given: ``side``, or less where that would take more than ``RASTER_S``."""
    axis = Axis(side, tile, OVERLAP)
    along = len(axis.starts)
    while along > LEAST_ALONG and along**2 * tile_s > RASTER_S:
        along -= 1
        side = tile + (along - 1) * axis.stride
    return side


def pooled(by_round: Mapping[int, Sequence[float]]) -> list[float]:
    """All measurements of all rounds."""
    return [value for values in by_round.values() for value in values]
