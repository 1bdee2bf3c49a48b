"""Which layers may be INT8: each one's damage is measured on real tiles, and layers stay float until little is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from rsedge_export.graph.session import open_session
from rsedge_export.precision.qdq import switchable
from rsedge_export.precision.ranges import Scale
from rsedge_export.precision.sites import Site

Progress = Callable[[int, int], None]
FRAGMENT = (
    0.01  # share of the work that a float layer costs besides its own: conversions before and behind it
)
STEPS = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    8,
    10,
    12,
    15,
    18,
    22,
    27,
    33,
    40,
    50,
    65,
    80,
    100,
)  # layers left float that are tried


@dataclass(frozen=True)
class Damage:
    """What one layer alone in INT8 does to the answer."""

    site: Site
    changed: float  # share of the pixels whose class differs from fp32's
    error: float  # root mean square change of a score

    @property
    def price(self) -> float:
        """Damage for the time saved: what to leave float first."""
        return self.changed / (self.site.share + FRAGMENT)


class Bench:
    """One graph on some tiles, with any choice of layers in INT8, against itself in fp32."""

    def __init__(
        self,
        model: onnx.ModelProto,
        sites: Sequence[Site],
        scales: Mapping[str, Scale],
        tiles: Sequence[NDArray[Any]],
        *,
        unsigned: bool,
    ) -> None:
        self._session = open_session(switchable(model, sites, scales, unsigned=unsigned))
        self._sites, self._tiles = sites, tiles
        self._exact = [self._run(tile, np.zeros(len(sites), np.bool_)) for tile in tiles]

    def measure(self, chosen: set[str]) -> tuple[float, float, float]:
        """With the ``chosen`` layers in INT8: share of pixels with fp32's class, that of the worst tile, RMS error."""
        switches = np.array([s.name in chosen for s in self._sites])
        shares, squares = [], []
        for tile, exact in zip(self._tiles, self._exact, strict=True):
            found = self._run(tile, switches)
            shares.append(float((found.argmax(1) == exact.argmax(1)).mean()))
            squares.append(float(np.square(found - exact).mean()))
        return float(np.mean(shares)), min(shares), float(np.sqrt(np.mean(squares)))

    def damages(self, progress: Progress | None = None) -> list[Damage]:
        """Each layer's damage alone, dearest first."""
        found = []
        for done, site in enumerate(self._sites, 1):
            agreement, _, error = self.measure({site.name})
            found.append(Damage(site, 1 - agreement, error))
            if progress:
                progress(done, len(self._sites))
        return sorted(found, key=lambda d: -d.price)

    def _run(self, tile: NDArray[Any], switches: NDArray[np.bool_]) -> NDArray[np.float32]:
        (scores,) = self._session.run(["scores"], {"pixels": tile[None], "quantized": switches})
        return np.asarray(scores)


@dataclass(frozen=True)
class Choice:
    """Which layers compute in INT8, and how well that does on tiles that set no scale."""

    int8: tuple[str, ...]
    left_float: tuple[Damage, ...]
    agreement: float  # with fp32, share of the pixels
    worst_tile: float


def choose(bench: Bench, damages: Sequence[Damage], target: float, more_than: int = -1) -> Choice | None:
    """Leave as few of the dearest layers float as bring the agreement to ``target``; None where all but one do not.

    ``more_than``: leave more than so many float.
    """
    names = {d.site.name for d in damages}
    counts = {*(c for c in STEPS if c < len(damages)), len(damages) - 1}
    for count in sorted(c for c in counts if c > more_than):
        chosen = names - {d.site.name for d in damages[:count]}
        agreement, worst, _ = bench.measure(chosen)
        if agreement >= target:
            order = tuple(d.site.name for d in damages if d.site.name in chosen)
            return Choice(order, tuple(damages[:count]), agreement, worst)
    return None
