from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rsedge import ModelError
from rsedge_export.proof.parity import CLEAR, Parity, compare
from toys import TILE


class Bands(nn.Module):
    """Scores are the bands, as in the bundle of ``conftest``, plus ``offset`` (bands, tile, tile)."""

    def __init__(self, offset: np.ndarray | None = None) -> None:
        super().__init__()
        self.offset = None if offset is None else torch.from_numpy(offset)

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.float() if self.offset is None else pixels.float() + self.offset


def three_kinds() -> np.ndarray:
    """Range 0..250. Rows 0-15: band 0 leads by 100; 16-31: it ties with band 1; the rest: band 2 leads."""
    tile = np.zeros((3, TILE, TILE), np.uint8)
    tile[0, :16], tile[0, 16:32], tile[1, 16:32], tile[2, 32:] = 100, 60, 60, 250
    return tile


def test_the_same_numbers_agree(bundle: Path) -> None:
    found = compare(Bands(), bundle, [three_kinds()] * 2)
    assert found == Parity(2, 0.0, 1.0, 0.75, 1.0)  # ties are a quarter of the pixels


def test_a_near_tie_settled_the_other_way_is_told_and_not_judged(bundle: Path) -> None:
    offset = np.zeros((3, TILE, TILE), np.float32)
    offset[1, 16:32] = 0.5 * CLEAR * 250  # the network leans to band 1, the graph takes the first of equals
    found = compare(Bands(offset), bundle, [three_kinds()])
    assert (found.argmax_agreement, found.clear_share, found.clear_agreement) == (0.75, 0.75, 1.0)
    assert found.worst_error == pytest.approx(0.5 * CLEAR)
    found.check()


def test_a_decided_pixel_with_another_class_is_judged(bundle: Path) -> None:
    offset = np.zeros((3, TILE, TILE), np.float32)
    offset[1, 16:32] = 4 * CLEAR * 250
    found = compare(Bands(offset), bundle, [three_kinds()])
    assert (found.argmax_agreement, found.clear_share, found.clear_agreement) == (0.75, 1.0, 0.75)
    with pytest.raises(ModelError, match="75.0000% of the clear pixels"):
        found.check()


def test_nan_is_not_equal(bundle: Path) -> None:
    offset = np.zeros((3, TILE, TILE), np.float32)
    offset[0, 0, 0] = np.nan
    with pytest.raises(ModelError):
        compare(Bands(offset), bundle, [three_kinds()]).check()


def test_a_network_that_answers_one_number_proves_nothing(bundle: Path) -> None:
    with pytest.raises(ModelError, match="answers 0 everywhere"):
        compare(Bands(), bundle, [np.zeros((3, TILE, TILE), np.uint8)])


GOOD = Parity(8, 4e-4, 0.9998, 0.97, 0.9999)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"argmax_agreement": 0.5, "clear_share": 0.4}, None),  # near ties are told, not judged
        ({"worst_error": 0.011}, "1.10e-02"),
        ({"worst_error": float("nan")}, "nan"),
        ({"clear_agreement": 0.998}, "99.8000%"),
        ({"clear_share": 0.0, "clear_agreement": None}, "no clear pixel"),
    ],
)
def test_what_counts_as_equal(changes: dict[str, Any], message: str | None) -> None:
    found = replace(GOOD, **changes)
    if message is None:
        found.check()
    else:
        with pytest.raises(ModelError, match=message):
            found.check()
