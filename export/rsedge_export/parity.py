"""Proof that an exported graph computes what the network computes."""

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
from rsedge.bundle import Bundle


@dataclass(frozen=True)
class Parity:
    """How an ONNX file compares with its torch model on real tiles."""

    tiles: int
    worst_error: float  # largest difference of a score, as a share of the scores' range
    argmax_agreement: float  # share of pixels with the same class


def compare(model: nn.Module, bundle: Path, tiles: Iterable[NDArray[Any]]) -> Parity:
    """Run both on ``tiles``, each (bands, tile, tile) as stored, through ONNX Runtime's CPU provider."""
    count, worst, low, high, same, pixels = 0, 0.0, np.inf, -np.inf, 0, 0
    with open_backend(Bundle.open(bundle), "cpu") as backend, torch.inference_mode():
        for tile in tiles:
            expected = model(torch.from_numpy(tile[None])).numpy()
            found = backend.infer(tile[None])
            worst = max(worst, float(np.abs(expected - found).max()))
            low, high = min(low, float(expected.min())), max(high, float(expected.max()))
            same += int((expected.argmax(1) == found.argmax(1)).sum())
            pixels += found[:, 0].size
            count += 1
    return Parity(count, worst / (high - low), same / pixels)
