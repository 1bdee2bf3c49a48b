"""Down the ladder: which layers compute in INT8, fewer each time, from measured damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import islice

import onnx

from rsedge_export.precision.calibration import CalibrationTiles
from rsedge_export.precision.ranges import Scale
from rsedge_export.precision.sensitivity import Bench, Choice, Damage, Progress, choose
from rsedge_export.precision.sites import Site

# Agreement with fp32 that the layers left float are to bring; the next one where the gate says no.
TARGETS = (0.99, 0.995, 0.998)
PROBES = 3  # tiles on which each layer's damage is measured
HELD = 16  # tiles that choose the layers; their scores stay in memory

Stages = Callable[[str], AbstractContextManager[Progress | None]]  # a progress bar for each piece of work


def no_stages(_: str) -> AbstractContextManager[Progress | None]:
    """Nobody watches."""
    return nullcontext()


class Sensitivity:
    """Each layer's damage alone, measured when it is first asked for, as signed INT8: the harsher of the two."""

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
        """Dearest first."""
        probes = self._tiles.some(PROBES)
        with self._stages("layer by layer") as progress:
            bench = Bench(self._model, self._sites, self._scales, probes, unsigned=False)
            return bench.damages(progress)

    @property
    def forbidden(self) -> str:
        """Which layers do the most damage, for people."""
        worst = sorted(self.damages, key=lambda d: -d.changed)[:5]
        named = ", ".join(f"{d.site.name} {d.site.shape} {d.changed:.2%}" for d in worst)
        return f"the layers that alone change the most pixels: {named}"


class Rungs:
    """Choices of layers, fewer INT8 each time, as long as there are any."""

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
        self._least = least  # agreement that the gate asks for

    @cached_property
    def everything(self) -> Choice:
        """All layers."""
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
            if choice is None and target == TARGETS[0]:  # good enough for the gate, if not for us
                choice = choose(self._bench(), self.sensitivity.damages, self._least, more_than=left)
            if choice is None:
                return
            left = len(choice.left_float)
            yield choice

    def _bench(self) -> Bench:
        """Opened anew each time: between two rungs the gate needs the memory."""
        tiles = list(islice(self._tiles.choosing(), HELD))
        return Bench(self._model, self._sites, self.scales, tiles, unsigned=self._unsigned)
