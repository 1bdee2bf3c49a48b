"""Time spent waiting is counted apart; a line is logged where nobody watches a bar."""

import itertools
import logging

import pytest

from rsedge_train.fit import meter as meter_module
from rsedge_train.fit.meter import Meter


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when told."""
    now = [100.0]
    monkeypatch.setattr(meter_module.time, "monotonic", lambda: now[0])

    def forward(seconds):
        now[0] += seconds

    return forward


def batches(clock, seconds):
    for n in itertools.count():
        clock(seconds)
        yield n


def test_waiting_is_counted_from_the_second_batch_on(clock):
    with Meter(steps=10, first=0) as meter:
        source = batches(clock, 1.0)
        for _ in range(4):
            meter.wait_for(source)
            clock(3.0)
            meter.stepped(2.0, images=8)
    assert meter.elapsed_s == 16
    assert meter.wait_share == pytest.approx(3 / 16)
    assert meter.seconds_per_step == 4
    assert meter.facts() == {"images_per_s": 2.0, "wait_share": pytest.approx(3 / 16)}


def test_a_line_every_half_minute(clock, caplog):
    caplog.set_level(logging.INFO, logger="rsedge_train")
    with Meter(steps=20, first=10) as meter:
        for _ in range(7):
            clock(10.0)
            meter.stepped(1.5, images=5)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "step 13 of 20  loss 1.5000  0.5 images/s  waiting 0.0 %  left 1.2 min",
        "step 16 of 20  loss 1.5000  0.5 images/s  waiting 0.0 %  left 0.7 min",
    ]


def test_a_quiet_one_says_nothing(clock, caplog):
    caplog.set_level(logging.INFO, logger="rsedge_train")
    with Meter(steps=20, first=0, quiet=True) as meter:
        clock(100.0)
        meter.stepped(1.0, images=1)
    assert not caplog.records
