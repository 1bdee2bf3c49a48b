from __future__ import annotations

import math
from xml.etree.ElementTree import Element

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsedge.report import figures
from rsedge.report.axes import Axis, Box, place_labels
from rsedge.report.plots import Point, Titles, scatter, stacked, tick_texts
from rsedge.report.records import Spread

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
    assert len(set(tick_texts(ticks, axis.log))) == len(ticks)


def test_ticks_are_round() -> None:
    assert Axis(0.57, 0.63).ticks(6) == (0.57, 0.58, 0.59, 0.6, 0.61, 0.62, 0.63)
    assert tick_texts((0.58, 0.6), log=False) == ["0.58", "0.60"]
    assert Axis(0.18, 11, log=True).ticks(8) == (0.2, 0.5, 1, 2, 5, 10)
    assert tick_texts((0.2, 1, 1000), log=True) == ["0.2", "1", "1,000"]


def test_an_axis_is_logarithmic_where_small_values_would_vanish() -> None:
    assert Axis.around([0.2, 9]).log
    assert not Axis.around([3, 9]).log
    assert not Axis.around([0, 9]).log
    scores = Axis.around([0.5888, 0.5893], most=1, least=0.05)
    assert scores.high - scores.low == pytest.approx(0.05)
    assert Axis.around([0.98, 0.999], most=1, least=0.05).high == 1


frame = Box(40, 10, 400, 250)
point = st.tuples(st.floats(40, 440), st.floats(10, 260))
width = st.floats(20, 130)


@given(st.lists(st.tuples(point, width), min_size=1, max_size=10))
def test_labels_touch_neither_each_other_nor_a_point_nor_the_edge(given_: list) -> None:
    points, widths = [p for p, _ in given_], [w for _, w in given_]
    placed = place_labels(points, [(w, 16) for w in widths], frame)
    boxes = [box for box in placed if box is not None]
    for i, box in enumerate(boxes):
        assert box.within(frame)
        assert not any(box.touches(other) for other in boxes[i + 1 :])
        assert not any(box.touches(Box(x - 5, y - 5, 10, 10)) for x, y in points)
    assert len(boxes) == len(points)  # there is room for ten


def test_a_label_stands_next_to_its_point_where_that_is_free() -> None:
    (box,) = place_labels([(200, 100)], [(80, 16)], frame)
    assert box == Box(210, 92, 80, 16)


def test_labels_keep_off_whiskers_where_they_can() -> None:
    whisker = Box(150, 91, 200, 18)
    (box,) = place_labels([(200, 100)], [(80, 16)], frame, [whisker])
    assert box is not None
    assert not box.touches(whisker)


def test_of_more_labels_than_there_is_room_for_some_are_left_out() -> None:
    crowd = [(100.0, 100.0)] * 30
    placed = place_labels(crowd, [(90, 16)] * 30, Box(40, 10, 200, 100))
    assert None in placed
    assert any(placed)


def _points() -> list[Point]:
    return [
        Point(0.2, 0.61, "T teacher", "teacher", Spread(0.2, 0.19, 0.21, 5), hollow=True),
        Point(9.3, 0.58, "1 int8", "int8", Spread(9.3, 8.0, 12.0, 5)),
    ]


def test_a_plot_shows_points_spreads_and_labels_at_both_widths() -> None:
    figure = scatter(_points(), Titles("mIoU against speed", "tiles/s", "mIoU"))
    drawings = figure.findall("div/svg")
    assert [d.get("viewBox") for d in drawings] == ["0 0 328 300", "0 0 560 370"]
    for svg in drawings:
        assert [_classes(e) for e in svg.iter("circle")] == ["dot hollow", "dot"]
        assert len([e for e in svg.iter("path") if _classes(e) == "whisker"]) == 2
        assert [e.text for e in svg.iter("text") if _classes(e) == "label"] == ["T teacher", "1 int8"]
        dots = [float(e.get("cx", "")) for e in svg.iter("circle")]
        share = (math.log(9.3) - math.log(0.2)) / (math.log(12) - math.log(0.19))
        whiskers = [e.get("d", "") for e in svg.iter("path") if _classes(e) == "whisker"]
        first = float(whiskers[0][1:].split()[0])
        last = float(whiskers[1].split("H")[1].split("M")[0])
        assert (dots[1] - dots[0]) / (last - first) == pytest.approx(share, abs=0.01)


def test_stages_are_as_wide_as_they_are_long() -> None:
    bar = stacked({"read": 1.0, "infer": 3.0}, 8.0, "said")
    assert [(r.get("x"), r.get("width")) for r in bar.iter("rect")] == [
        ("0.00%", "12.50%"),
        ("12.50%", "37.50%"),
    ]


def _classes(element: Element) -> str | None:
    return element.get("class")


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
