from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsedge.bench.facts import Spread
from rsedge.report import figures
from rsedge.report.plots import LIFT_PX, LINE_PX, TAG_PX, Axis, Point, scatter

values = st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=12)


@given(values)
def test_an_axis_holds_its_values_in_order_and_has_ticks(held: list[float]) -> None:
    axis = Axis.around(held)
    places = [axis.place(v) for v in sorted(held)]
    assert places == sorted(places)
    assert all(0 <= p <= 1 for p in places)
    ticks = axis.ticks()
    assert ticks == tuple(sorted(set(ticks)))
    assert all(axis.low * (1 - 1e-6) <= t <= axis.high * (1 + 1e-6) for t in ticks)
    assert 1 <= len(ticks) <= 14
    assert len(set(axis.texts(ticks))) == len(ticks)


def test_ticks_are_round() -> None:
    assert Axis(0.57, 0.63).ticks(6) == (0.57, 0.58, 0.59, 0.6, 0.61, 0.62, 0.63)
    assert Axis(0, 1).texts((0.58, 0.6)) == ["0.58", "0.60"]
    assert Axis(0.18, 11, log=True).ticks(8) == (0.2, 0.5, 1, 2, 5, 10)
    assert Axis(0.1, 1000, log=True).texts((0.2, 1, 1000)) == ["0.2", "1", "1,000"]


def test_an_axis_is_logarithmic_where_small_values_would_vanish() -> None:
    assert Axis.around([0.2, 9]).log
    assert not Axis.around([3, 9]).log
    assert not Axis.around([0, 9]).log
    scores = Axis.around([0.5888, 0.5893], most=1, least=0.05)
    assert scores.high - scores.low == pytest.approx(0.05)
    assert Axis.around([0.98, 0.999], most=1, least=0.05).high == 1


def _points() -> list[Point]:
    return [
        Point(0.2, 0.61, "T", "T teacher", "teacher", Spread(0.2, 0.19, 0.21, 5), hollow=True),
        Point(9.3, 0.58, "1", "1 int8", "int8", Spread(9.3, 8.0, 12.0, 5)),
    ]


def test_a_plot_places_points_spreads_and_tags() -> None:
    plot = scatter(_points(), "mIoU against speed", "tiles/s", "mIoU")
    assert plot is not None
    assert (plot.title, plot.x_title, plot.y_title) == ("mIoU against speed", "tiles/s, logarithmic", "mIoU")
    teacher, student = plot.dots
    assert (teacher.tag, student.tag) == ("T", "1")
    assert (teacher.tag_y, student.tag_y) == (teacher.y - LIFT_PX, student.y - LIFT_PX)
    assert teacher.whisker is not None
    assert student.whisker is not None
    share = (math.log(9.3) - math.log(0.2)) / (math.log(12) - math.log(0.19))
    width = student.whisker[1] - teacher.whisker[0]
    assert (student.x - teacher.x) / width == pytest.approx(share, abs=0.01)
    assert plot.top < teacher.y < student.y < plot.bottom
    assert all(plot.left <= x <= plot.right for x, _ in plot.x_ticks)


def test_there_is_no_plot_of_what_has_no_place_on_it() -> None:
    assert scatter([], "p", "x", "y") is None
    assert scatter([Point(0, 0.5, "1", "1", "said")], "p", "x", "y") is None


@given(st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1)), min_size=1, max_size=40))
def test_tags_stand_on_no_other_and_within_the_drawing(places: list[tuple[float, float]]) -> None:
    points = [Point(x, y, str(i), str(i), "said") for i, (x, y) in enumerate(places, 1)]
    plot = scatter(points, "p", "x", "y")
    assert plot is not None
    boxes = [(d.x, d.tag_y, len(d.tag) * TAG_PX) for d in plot.dots if d.tag_y is not None]
    assert boxes
    for i, (x, y, wide) in enumerate(boxes):
        assert LINE_PX / 2 <= y <= plot.bottom
        assert x + wide <= plot.width
        assert not any(
            abs(x - u) < min(wide, other) and abs(y - v) < LINE_PX for u, v, other in boxes[i + 1 :]
        )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (305.2, "305"),
        (36.14, "36.1"),
        (0.8123, "0.812"),
        (1712.4, "1,712"),
        (0, "0"),
        (None, "–"),
        (0.000123, "0.000123"),
    ],
)
def test_numbers_have_three_digits(value: float | None, said: str) -> None:
    assert figures.number(value) == said


def test_spreads_have_the_places_of_their_median() -> None:
    assert figures.whole(Spread(305.2, 298.1, 311.4, 5)) == "305 (298 to 311)"
    assert figures.whole(Spread(9.31, 9.0, 12.13, 5)) == "9.31 (9.00 to 12.13)"


def test_nearly_all_is_not_all() -> None:
    assert figures.percent(0.9999995, 2).replace("\xa0", " ") == "99.99 %"
    assert figures.percent(1.0).replace("\xa0", " ") == "100.0 %"
    assert figures.percent(0.1234).replace("\xa0", " ") == "12.3 %"


def test_long_texts_are_cut() -> None:
    assert figures.shorten("teacher fp32, torch", 13) == "teacher fp32…"
    assert figures.seconds(0.026) == "26 ms"
    assert figures.seconds(1.42) == "1.4 s"
