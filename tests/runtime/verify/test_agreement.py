from __future__ import annotations

import numpy as np
import pytest

from rsedge.verify.agreement import AgreementMeter

ALL = np.ones((2, 2), np.bool_)


def scores(*pixels: tuple[float, float]) -> np.ndarray:
    """Two classes, four pixels."""
    return np.array(pixels, np.float32).T.reshape(2, 2, 2)


def test_shares_are_of_what_they_say() -> None:
    meter = AgreementMeter()
    # Range 0 to 10. Pixel 3 is a near tie that flips, pixel 4 is clear and flips.
    a = scores((10, 0), (0, 10), (5.001, 5), (6, 4))
    b = scores((10, 0), (0, 9), (5, 5.001), (4, 6))
    meter.add(a, b, ALL)
    r = meter.result
    assert (r.tiles, r.pixels, r.agreement, r.worst_tile) == (1, 4, 0.5, 0.5)
    assert (r.clear_share, r.clear_agreement) == (0.75, pytest.approx(2 / 3))
    assert r.worst_error == pytest.approx(0.2)
    assert r.mean_error == pytest.approx((1 + 0.002 + 4) / 8 / 10, rel=1e-3)


def test_tiles_add_up_and_the_worst_is_remembered() -> None:
    meter = AgreementMeter()
    a = scores((10, 0), (10, 0), (10, 0), (10, 0))
    meter.add(a, a, ALL)
    meter.add(a, scores((10, 0), (0, 10), (0, 10), (0, 10)), ALL)
    assert (meter.result.tiles, meter.result.agreement, meter.result.worst_tile) == (2, 5 / 8, 1 / 4)


def test_pixels_without_data_count_for_nothing() -> None:
    meter = AgreementMeter()
    a = scores((10, 0), (10, 0), (10, 0), (10, 0))
    b = scores((10, 0), (10, 0), (-99, 99), (-99, 99))
    meter.add(a, b, np.array([[True, True], [False, False]]))
    meter.add(a, b, np.zeros((2, 2), np.bool_))
    r = meter.result
    assert (r.tiles, r.pixels, r.agreement, r.worst_error) == (1, 2, 1.0, 0.0)


def test_nothing_clear_is_said_and_nothing_at_all_is_an_error() -> None:
    meter = AgreementMeter()
    with pytest.raises(ValueError, match="nothing was compared"):
        assert meter.result
    a = scores((1, 1), (1, 1), (1, 1), (1, 1))
    meter.add(a, a, ALL)
    assert (meter.result.clear_share, meter.result.clear_agreement, meter.result.worst_error) == (
        0.0,
        None,
        0.0,
    )
