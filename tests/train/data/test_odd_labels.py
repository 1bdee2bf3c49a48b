"""Labels whose numbers are no classes: problems that are told, not tracebacks."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from rsedge.errors import InputError
from rsedge_train.data.detect import Seen, _count_band


def test_labels_without_one_number_hold_nothing() -> None:
    seen = Seen()
    _count_band(np.full((4, 4), math.nan, np.float32), None, {}, seen)
    assert seen.values == Counter()


def test_complex_labels_are_an_error() -> None:
    with pytest.raises(InputError, match="complex"):
        _count_band(np.ones((4, 4), np.complex64), None, {}, Seen())
