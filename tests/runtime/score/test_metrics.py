from __future__ import annotations

import math

import numpy as np
import pytest

from rsedge.errors import InputError
from rsedge.score.metrics import Confusion

TRUTH = np.array([[0, 0, 1, 1], [2, 2, 255, 0]], np.uint8)
FOUND = np.array([[0, 1, 1, 1], [2, 0, 0, 255]], np.uint8)


def test_scores_against_a_count_by_hand() -> None:
    c = Confusion.of(TRUTH, FOUND, 4)
    assert c.counts.sum() == 6  # one pixel unlabelled, one without prediction
    np.testing.assert_allclose(c.iou[:3], [1 / 3, 2 / 3, 1 / 2])
    np.testing.assert_allclose(c.f1[:3], [2 / 4, 4 / 5, 2 / 3])
    assert math.isnan(c.iou[3])
    assert c.miou == pytest.approx((1 / 3 + 2 / 3 + 1 / 2) / 3)
    assert c.oa == pytest.approx(4 / 6)


def test_adding_counts_is_counting_together() -> None:
    halves = Confusion.of(TRUTH[:1], FOUND[:1], 4) + Confusion.of(TRUTH[1:], FOUND[1:], 4)
    np.testing.assert_array_equal(halves.counts, Confusion.of(TRUTH, FOUND, 4).counts)


def test_majority_is_the_constant_prediction() -> None:
    truth = np.array([0, 1, 1, 1, 2], np.uint8)
    c = Confusion.of(truth, np.zeros(5, np.uint8), 3).majority
    np.testing.assert_array_equal(c.counts, Confusion.of(truth, np.ones(5, np.uint8), 3).counts)
    assert c.oa == pytest.approx(0.6)


def test_masks_of_two_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="rows, columns"):
        Confusion.of(TRUTH, FOUND[:, :2], 3)
