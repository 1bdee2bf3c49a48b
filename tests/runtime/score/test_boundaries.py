"""The boundary F-score, against distances worked out pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsedge.score.boundaries import TOLERANCE_PX, BoundaryCounter, BoundaryCounts

CLASSES = 3


def reference(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Counts (4, classes) by looking at every pair of boundary pixels."""
    unknown = (truth >= CLASSES) | (predicted >= CLASSES)
    maps = [np.where(unknown, 255, x) for x in (truth, predicted)]
    found = np.zeros((4, CLASSES), np.int64)
    for k in range(CLASSES):
        edges = []
        for x in maps:
            edge = set()
            for (i, j), v in np.ndenumerate(x):
                sides = [(i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)]
                inside = [x[p] for p in sides if 0 <= p[0] < x.shape[0] and 0 <= p[1] < x.shape[1]]
                if v == k and any(w not in {v, 255} for w in inside):
                    edge.add((i, j))
            edges.append(edge)
        for at, (mine, theirs) in enumerate((edges, edges[::-1])):
            found[2 * at, k] = len(mine)
            found[2 * at + 1, k] = sum(
                any((i - r) ** 2 + (j - c) ** 2 <= TOLERANCE_PX**2 for r, c in theirs) for i, j in mine
            )
    return found


def counted(truth: np.ndarray, predicted: np.ndarray, cuts: list[int]) -> BoundaryCounts:
    counter = BoundaryCounter(truth.shape[1], CLASSES)
    for rows in np.split(np.arange(len(truth)), sorted(cuts)):
        counter.add(truth[rows], predicted[rows])
    return counter.finish()


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_it_is_what_all_pairs_give_however_the_rows_come(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 24)), data.draw(st.integers(1, 20))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    coarse = rng.choice([0, 1, 2, 255], (2, 6, 5), p=[0.4, 0.3, 0.2, 0.1])
    truth, predicted = coarse.repeat(4, 1).repeat(4, 2)[:, :height, :width].astype(np.uint8)
    cuts = data.draw(st.lists(st.integers(0, height), max_size=4))
    found = counted(truth, predicted, cuts)
    assert np.array_equal(np.stack(list(vars(found).values())), reference(truth, predicted))


def test_an_outline_three_pixels_off_is_matched_and_four_is_not() -> None:
    truth = np.zeros((40, 40), np.uint8)
    truth[:, 20:] = 1
    for off, expected in ((0, 1.0), (3, 1.0), (4, 0.0)):
        predicted = np.broadcast_to(np.arange(40) >= 20 + off, (40, 40)).astype(np.uint8)
        found = counted(truth, predicted, [])
        assert found.f[:2] == pytest.approx([expected, expected])
        assert np.isnan(found.f[2])
        assert found.mean_f == pytest.approx(expected)


def test_what_touches_unlabelled_ground_is_no_outline() -> None:
    truth = np.zeros((20, 20), np.uint8)
    truth[:, 10:] = 255
    assert not counted(truth, np.zeros((20, 20), np.uint8), []).truth.any()


def test_a_class_that_is_never_found_scores_zero() -> None:
    truth = np.zeros((20, 20), np.uint8)
    truth[5:9, 5:9] = 1
    found = counted(truth, np.zeros((20, 20), np.uint8), [])
    assert found.f[0] == found.f[1] == 0
