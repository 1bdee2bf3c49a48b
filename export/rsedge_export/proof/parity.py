"""Proof that an exported graph computes what the network computes.

Compared are the network as trained, fp32, before the rewrites of deployment, and the
file as the device runs it, after the rewrites. The proof thus covers rewrites, exporter, preprocessing and ONNX
Runtime together.

Conditions (``check``), each relative to the scores' range over all tiles:

* no score is off by more than ``WORST_ERROR`` (1e-3). Rounding leaves 1e-7 to 1e-5; a wrong graph is off by
  1e-1 and more.
* of the pixels whose best two scores differ by more than ``CLEAR`` (1e-3 of the range of their tile),
  ``LEAST_AGREEMENT`` (0.999) have the same class. All other pixels are near ties, which rounding may settle
  either way and which the network itself does not decide: a short training has many. Their share and the
  agreement over all pixels are reported, so that the exception hides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rsedge.backends import open_backend
from rsedge.errors import ModelError
from rsedge.model.bundle import Bundle

CLEAR, WORST_ERROR, LEAST_AGREEMENT = 1e-3, 1e-3, 0.999


@dataclass(frozen=True)
class Parity:
    """Comparison of an ONNX file with its torch model."""

    tiles: int
    worst_error: float  # largest difference of a score, as a share of the scores' range
    argmax_agreement: float  # share of all pixels with the same class
    clear_share: float  # share of pixels whose best two scores differ by more than CLEAR of the tile's range
    clear_agreement: float | None  # share of the clear pixels with the same class; None without any

    @property
    def holds(self) -> bool:
        """Return True if the graph computes what the network computes, within the bounds."""
        agreement = self.clear_agreement
        # Written as "not (worst <= bound)" so that NaN fails too.
        return self.worst_error <= WORST_ERROR and agreement is not None and agreement >= LEAST_AGREEMENT

    def check(self) -> None:
        """Raise ModelError unless the comparison ``holds``."""
        if self.holds:
            return
        agreement = self.clear_agreement
        shown = "no clear pixel" if agreement is None else f"{agreement:.4%} of the clear pixels agree"
        raise ModelError(
            f"the exported graph does not compute what the network computes: largest error "
            f"{self.worst_error:.2e} of the scores' range (allowed: {WORST_ERROR:g}), {shown} (required: "
            f"{LEAST_AGREEMENT:.1%}). If the weights were trained to the end, report this network"
        )


def compare(model: nn.Module, bundle: Path, tiles: Iterable[NDArray[Any]]) -> Parity:
    """Run both on ``tiles``, each (bands, tile, tile) as stored, through ONNX Runtime's CPU provider.

    Raises ModelError if the network answers the same number everywhere, which makes a comparison meaningless.
    """
    count, worst, low, high, same, clear, clear_same, pixels = 0, 0.0, np.inf, -np.inf, 0, 0, 0, 0
    with open_backend(Bundle.open(bundle), "cpu") as backend, torch.inference_mode():
        for tile in tiles:
            expected = model(torch.from_numpy(tile[None])).numpy()
            found = backend.infer(tile[None])
            worst = float(np.maximum(worst, np.abs(expected - found).max()))  # NaN stays NaN
            low, high = min(low, float(expected.min())), max(high, float(expected.max()))
            agree = expected.argmax(1) == found.argmax(1)
            best = np.partition(expected, -2, axis=1)
            decided = best[:, -1] - best[:, -2] > CLEAR * (expected.max() - expected.min())
            same, clear = same + int(agree.sum()), clear + int(decided.sum())
            clear_same += int((agree & decided).sum())
            pixels += agree.size
            count += 1
    if not high > low:
        raise ModelError(
            f"the network answers {high:g} everywhere: its weights are untrained or damaged. Train it again"
        )
    return Parity(
        count, worst / (high - low), same / pixels, clear / pixels, clear_same / clear if clear else None
    )
