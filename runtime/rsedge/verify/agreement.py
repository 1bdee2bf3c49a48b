"""Agreement of two answers to the same tiles. Each share names its total."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLEAR = 1e-3  # of the range of a tile's scores; if the best two are closer, rounding may settle the tie either way


@dataclass(frozen=True)
class Agreement:
    """Agreement of a candidate's scores and classes with the reference's, over all valid pixels.

    "Range" spans the lowest to the highest score of the reference over all tiles.
    """

    tiles: int
    pixels: int
    worst_error: float  # largest difference of a score, as a share of the range
    mean_error: float  # mean difference of a score, as a share of the range
    agreement: float  # share of pixels with the same class
    clear_share: float  # share of pixels whose best two reference scores differ by more than CLEAR
    clear_agreement: float | None  # share of clear pixels with the same class; None without clear pixels
    worst_tile: float  # lowest agreement of a tile


class AgreementMeter:
    """Sums over tiles, added one at a time; holds one tile in memory."""

    def __init__(self) -> None:
        self._low, self._high = np.inf, -np.inf
        self._worst = self._error_sum = 0.0
        self._scores = self._pixels = self._same = self._clear = self._clear_same = 0
        self._shares: list[float] = []

    def add(
        self, reference: NDArray[np.float32], found: NDArray[np.float32], valid: NDArray[np.bool_]
    ) -> None:
        """Compare two scores of one tile, (classes, h, w) each, where ``valid`` (h, w) is True.

        A tile without a valid pixel is ignored.
        """
        a, b = reference[:, valid], found[:, valid]  # (classes, pixels)
        if not a.size:
            return
        error = np.abs(a - b)
        self._worst = max(self._worst, float(error.max()))
        self._error_sum += float(error.sum(dtype=np.float64))
        self._low, self._high = min(self._low, float(a.min())), max(self._high, float(a.max()))
        same = a.argmax(0) == b.argmax(0)
        best = np.partition(a, -2, axis=0)
        clear = best[-1] - best[-2] > CLEAR * (a.max() - a.min())
        self._scores += a.size
        self._pixels += same.size
        self._same += int(same.sum())
        self._clear += int(clear.sum())
        self._clear_same += int((same & clear).sum())
        self._shares.append(float(same.mean()))

    @property
    def result(self) -> Agreement:
        """The agreement of all added tiles. Raises ValueError before the first valid pixel."""
        if not self._pixels:
            raise ValueError("nothing was compared: no tile has a valid pixel")
        span = (self._high - self._low) or 1.0  # constant scores: errors stay absolute
        return Agreement(
            tiles=len(self._shares),
            pixels=self._pixels,
            worst_error=self._worst / span,
            mean_error=self._error_sum / self._scores / span,
            agreement=self._same / self._pixels,
            clear_share=self._clear / self._pixels,
            clear_agreement=self._clear_same / self._clear if self._clear else None,
            worst_tile=min(self._shares),
        )
