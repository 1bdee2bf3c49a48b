"""Choice of INT8 layers: each layer's damage is measured on real tiles, and the worst layers stay float."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from rsedge_export.graph.session import open_session
from rsedge_export.precision.qdq import switchable
from rsedge_export.precision.sites import Site
from rsedge_train.nets.grids import Scale

Progress = Callable[[int, int], None]
FRAGMENT = (
    0.01  # extra cost of a float layer, as a share of the work, for the conversions before and after it
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
)  # numbers of float layers that are tried


@dataclass(frozen=True)
class Damage:
    """Effect on the answer of one layer alone in INT8."""

    site: Site
    changed: float  # share of pixels whose class differs from fp32's
    error: float  # root mean square change of a score

    @property
    def price(self) -> float:
        """Return the damage per time saved, by which layers are left float first."""
        return self.changed / (self.site.share + FRAGMENT)


class Bench:
    """Comparison on some tiles of one graph, with any choice of layers in INT8, against its fp32 answers."""

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
        """Measure ``chosen`` layers in INT8: share of pixels with fp32's class, worst tile's share, RMS error."""
        switches = np.array([s.name in chosen for s in self._sites])
        shares, squares = [], []
        for tile, exact in zip(self._tiles, self._exact, strict=True):
            found = self._run(tile, switches)
            shares.append(float((found.argmax(1) == exact.argmax(1)).mean()))
            squares.append(float(np.square(found - exact).mean()))
        return float(np.mean(shares)), min(shares), float(np.sqrt(np.mean(squares)))

    def damages(self, progress: Progress | None = None) -> list[Damage]:
        """Return each layer's damage alone, largest price first."""
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
    """Choice of INT8 layers, and its agreement on tiles that set no scale."""

    int8: tuple[str, ...]
    left_float: tuple[Damage, ...]
    agreement: float  # with fp32, share of the pixels
    worst_tile: float


def choose(bench: Bench, damages: Sequence[Damage], target: float, more_than: int = -1) -> Choice | None:
    """Leave as few layers float as reach ``target`` agreement, largest price first; None if impossible.

    ``more_than``: leave more than this many layers float.
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
