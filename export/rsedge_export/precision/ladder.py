"""The ladder: choices of INT8 layers, fewer on each rung, based on measured damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import islice

import onnx

from rsedge_export.precision.calibration import CalibrationTiles
from rsedge_export.precision.sensitivity import Bench, Choice, Damage, Progress, choose
from rsedge_export.precision.sites import Site
from rsedge_train.nets.grids import Scale

# Agreement with fp32 to reach by leaving layers float; the next value is tried if the gate rejects one.
TARGETS = (0.99, 0.995, 0.998)
PROBES = 3  # tiles on which each layer's damage is measured
HELD = 16  # tiles that choose the layers, whose scores stay in memory

Stages = Callable[[str], AbstractContextManager[Progress | None]]  # a progress bar for each stage


def no_stages(_: str) -> AbstractContextManager[Progress | None]:
    """Return no progress bar."""
    return nullcontext()


class Sensitivity:
    """Damage of each layer alone, measured on first use as signed INT8, the harsher of the two kinds."""

    def __init__(
        self,
        model: onnx.ModelProto,
        sites: Sequence[Site],
        scales: dict[str, Scale],
        tiles: CalibrationTiles,
        stages: Stages,
    ) -> None:
        self._model, self._sites, self._scales = model, sites, scales
        self._tiles, self._stages = tiles, stages

    @cached_property
    def damages(self) -> list[Damage]:
        """Return the damages, largest price first."""
        probes = self._tiles.some(PROBES)
        with self._stages("layer by layer") as progress:
            bench = Bench(self._model, self._sites, self._scales, probes, unsigned=False)
            return bench.damages(progress)

    @property
    def forbidden(self) -> str:
        """Return a text on the layers that do the most damage."""
        worst = sorted(self.damages, key=lambda d: -d.changed)[:5]
        named = ", ".join(f"{d.site.name} {d.site.shape} {d.changed:.2%}" for d in worst)
        return f"the layers that alone change the most pixels: {named}"


class Rungs:
    """Choices of layers, with fewer INT8 layers each time, until none is left."""

    def __init__(
        self,
        model: onnx.ModelProto,
        sites: Sequence[Site],
        scales: dict[str, Scale],
        tiles: CalibrationTiles,
        unsigned: bool,
        sensitivity: Sensitivity,
        least: float,
    ) -> None:
        self._model, self._sites, self._tiles, self._unsigned = model, sites, tiles, unsigned
        self.scales, self.sensitivity = scales, sensitivity
        self._least = least  # agreement required by the gate

    @cached_property
    def everything(self) -> Choice:
        """Return the choice of all layers."""
        names = tuple(s.name for s in self._sites)
        agreement, worst, _ = self._bench().measure(set(names))
        return Choice(names, (), agreement, worst)

    def __iter__(self) -> Iterator[Choice]:
        left = -1
        if self.everything.agreement >= TARGETS[0]:
            left = 0
            yield self.everything
        for target in TARGETS:
            choice = choose(self._bench(), self.sensitivity.damages, target, more_than=left)
            if choice is None and target == TARGETS[0]:  # enough for the gate, although below our own target
                choice = choose(self._bench(), self.sensitivity.damages, self._least, more_than=left)
            if choice is None:
                return
            left = len(choice.left_float)
            yield choice

    def _bench(self) -> Bench:
        """Open the bench again each time, because the gate needs the memory between two rungs."""
        tiles = list(islice(self._tiles.choosing(), HELD))
        return Bench(self._model, self._sites, self.scales, tiles, unsigned=self._unsigned)
