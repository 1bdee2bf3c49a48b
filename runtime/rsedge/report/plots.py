"""Plots as SVG: scores against speed and size, bars, stacked bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from rsedge.report.axes import Axis, Box, place_labels
from rsedge.report.figures import number, shorten, whole
from rsedge.report.markup import el
from rsedge.report.records import Spread

NARROW, WIDE = 328, 560  # px: a phone's page, half a desktop's
CHAR_PX, LINE_PX = 6.9, 16  # of labels, 12 px high; a character is narrower in nearly every font
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 12, 46  # around the plot's frame, px
BAR_PX = 26
LEAST_SCORES = 0.05  # of an axis of scores: what is less is no difference to be shown large


@dataclass(frozen=True)
class Point:
    """One network in a plot. ``spread``: of the horizontal value, where that was measured."""

    x: float
    y: float
    label: str
    said: str  # all of it in words
    spread: Spread | None = None
    hollow: bool = False  # the teacher


@dataclass(frozen=True)
class Titles:
    """What a plot and its axes are called."""

    plot: str
    x: str
    y: str


def scatter(points: Sequence[Point], titles: Titles) -> Element:
    """Points with whiskers and labels, drawn twice: as wide as a phone, and as half a desktop."""
    drawings = (_scatter(points, titles, width) for width in (NARROW, WIDE))
    return el(
        "figure",
        el("figcaption", titles.plot),
        *(el("div", d, class_=c) for d, c in zip(drawings, ("narrow", "wide"), strict=True)),
        class_="plot",
    )


def _scatter(points: Sequence[Point], titles: Titles, width: int) -> Element:
    height = round(width * 0.66) if width > NARROW else 300
    frame = Box(LEFT, TOP, width - LEFT - RIGHT, height - TOP - BOTTOM)
    ends = [v for p in points for v in ((p.spread.p10, p.spread.p90) if p.spread else ()) if v > 0]
    x_axis = Axis.around([p.x for p in points] + ends)
    y_axis = Axis.around([p.y for p in points], most=1, room=0.2, least=LEAST_SCORES)
    places = [
        (frame.x + x_axis.place(p.x) * frame.width, frame.y + (1 - y_axis.place(p.y)) * frame.height)
        for p in points
    ]
    whiskers = [_whisker(p, x_axis, frame, y) for p, (_, y) in zip(points, places, strict=True)]
    texts = [shorten(p.label, 24 if width == NARROW else 34) for p in points]
    boxes = place_labels(
        places, [(len(t) * CHAR_PX, LINE_PX) for t in texts], frame, [w for w in whiskers if w is not None]
    )
    said = "; ".join(p.said for p in points)
    return el(
        "svg",
        el("title", f"{titles.plot}: {said}"),
        _grid(x_axis, y_axis, frame, titles, width),
        *(_drawn_whisker(w) for w in whiskers if w is not None),
        *(_marker(p, at) for p, at in zip(points, places, strict=True)),
        *(_label(t, at, box) for t, at, box in zip(texts, places, boxes, strict=True)),
        viewBox=f"0 0 {width} {height}",
        role="img",
    )


def _grid(x_axis: Axis, y_axis: Axis, frame: Box, titles: Titles, width: int) -> Element:
    bottom, right = frame.y + frame.height, frame.x + frame.width
    drawn = el("g", aria_hidden="true")
    ticks = x_axis.ticks(5 if width == NARROW else 8)
    for tick, said in zip(ticks, tick_texts(ticks, x_axis.log), strict=True):
        x = _px(frame.x + x_axis.place(tick) * frame.width)
        drawn.append(el("line", x1=x, x2=x, y1=_px(frame.y), y2=_px(bottom), class_="grid"))
        drawn.append(el("text", said, x=x, y=_px(bottom + 16), class_="tick", text_anchor="middle"))
    ticks = y_axis.ticks(5)
    for tick, said in zip(ticks, tick_texts(ticks, y_axis.log), strict=True):
        y = _px(frame.y + (1 - y_axis.place(tick)) * frame.height)
        drawn.append(el("line", x1=_px(frame.x), x2=_px(right), y1=y, y2=y, class_="grid"))
        drawn.append(el("text", said, x=_px(frame.x - 6), y=y, dy="0.35em", class_="tick", text_anchor="end"))
    kind = ", logarithmic" if x_axis.log else ""
    middle = _px(frame.x + frame.width / 2)
    drawn.append(
        el("text", titles.x + kind, x=middle, y=_px(bottom + 36), class_="axis", text_anchor="middle")
    )
    turned = f"translate(12 {_px(frame.y + frame.height / 2)}) rotate(-90)"
    drawn.append(el("text", titles.y, transform=turned, class_="axis", text_anchor="middle"))
    return drawn


def tick_texts(ticks: Sequence[float], log: bool) -> list[str]:
    """Round values without needless zeros; on a linear axis all with the same places."""
    plain = [f"{tick:,.9f}".rstrip("0").rstrip(".") for tick in ticks]
    places = max((len(text.partition(".")[2]) for text in plain), default=0)
    return plain if log else [f"{tick:,.{places}f}" for tick in ticks]


def _whisker(point: Point, axis: Axis, frame: Box, y: float) -> Box | None:
    if point.spread is None:
        return None
    low = max(point.spread.p10, axis.low)
    first, last = (frame.x + axis.place(v) * frame.width for v in (low, point.spread.p90))
    return Box(first, y - 9, max(last - first, 0.5), 18)


def _drawn_whisker(box: Box) -> Element:
    left, right, y = _px(box.x), _px(box.x + box.width), _px(box.y + box.height / 2)
    ends = f"M{left} {_px(box.y)}v{_px(box.height)}M{right} {_px(box.y)}v{_px(box.height)}"
    return el("path", d=f"M{left} {y}H{right}{ends}", class_="whisker")


def _marker(point: Point, at: tuple[float, float]) -> Element:
    kind = "dot hollow" if point.hollow else "dot"
    return el("circle", el("title", point.said), cx=_px(at[0]), cy=_px(at[1]), r=4, class_=kind)


def _label(text: str, at: tuple[float, float], box: Box | None) -> Element | None:
    if box is None:
        return None
    # The nearest point of the label's box; a line leads there where that is not next to the point.
    x, y = min(max(at[0], box.x), box.x + box.width), min(max(at[1], box.y), box.y + box.height)
    far = abs(x - at[0]) + abs(y - at[1]) > 20
    line = el("path", d=f"M{_px(at[0])} {_px(at[1])}L{_px(x)} {_px(y)}", class_="lead") if far else None
    left = box.x + box.width / 2 < at[0] - 1 and box.x + box.width < at[0]
    anchor = {"x": _px(box.x + box.width), "text_anchor": "end"} if left else {"x": _px(box.x)}
    return el("g", line, el("text", text, y=_px(box.y + 12), class_="label", **anchor))


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


@dataclass(frozen=True)
class Bar:
    """One bar of a chart."""

    label: str
    value: float
    spread: Spread | None = None


def bars(title: str, unit: str, shown: Sequence[Bar]) -> Element:
    """Horizontal bars from 0, each with its figure; whiskers where there is a spread."""
    most = max(b.spread.p90 if b.spread else b.value for b in shown) or 1.0
    return el(
        "figure",
        el("figcaption", f"{title}, {unit}"),
        el("ul", *(_bar(b, unit, most) for b in shown), class_="bars"),
        class_="plot",
    )


def _bar(bar: Bar, unit: str, most: float) -> Element:
    whisker = None
    if bar.spread:
        low, high = (_share(v / most) for v in (bar.spread.p10, bar.spread.p90))
        ends = (el("line", x1=x, x2=x, y1="3", y2="13") for x in (low, high))
        whisker = el("g", el("line", x1=low, x2=high, y1="8", y2="8"), *ends, class_="whisker")
    rect = el("rect", width=_share(bar.value / most), height="100%", class_="bar")
    figure = whole(bar.spread) if bar.spread else number(bar.value)
    return el(
        "li",
        el("span", bar.label, class_="what"),
        el("span", f"{figure} {unit}", class_="figure"),
        el("svg", rect, whisker, height=16, width="100%", aria_hidden="true"),
    )


def _share(value: float) -> str:
    return f"{100 * value:.2f}%"


def stacked(parts: Mapping[str, float], most: float, said: str) -> Element:
    """One bar of the parts beside one another; ``most`` is what would fill the width."""
    drawn, at = el("svg", el("title", said), width="100%", height=BAR_PX, role="img"), 0.0
    for name, value in parts.items():
        rect = el(
            "rect",
            el("title", f"{name} {number(value)} s"),
            x=_share(at / most),
            width=_share(value / most),
            height="100%",
            class_=f"stage {name}",
        )
        drawn.append(rect)
        at += value
    return drawn
