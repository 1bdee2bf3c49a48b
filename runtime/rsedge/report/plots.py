"""Plot layout: axes with round ticks, points with whiskers and tags. The template draws the plots."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rsedge.bench.facts import Row, Spread
from rsedge.report.accuracy import Scores
from rsedge.report.figures import number, score, shorten, whole
from rsedge.report.inputs import Bench

LOG_FROM = 12  # largest over smallest value; a linear axis shows more below this ratio
DECADE_STEPS = (1, 2, 5)
DECADES_ALONE = 2.5  # above this number of decades, ticks are powers of ten only
LEAST_SCORES = 0.05  # shortest range of a score axis, so that small differences are not shown large
WIDTH, HEIGHT = 400, 300  # px of a drawing; a phone shows the drawing a little smaller
LEFT, RIGHT, TOP, BOTTOM = 54, 18, 20, 46  # margins around the plot's frame, px
TAG_CHARS, TAG_PX, LINE_PX = 6, 8, 15  # tags: longest, width of a character, height of a line
LIFT_PX = 10  # height of a tag above its point, so that no whisker crosses the tag


@dataclass(frozen=True)
class Axis:
    """An axis from ``low`` to ``high``, mapped to 0 to 1."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def around(
        cls, values: Iterable[float], most: float = math.inf, room: float = 0.08, least: float = 0
    ) -> Axis:
        """Fit an axis to all values with a margin, up to ``most``; its range is at least ``least``.

        The axis is logarithmic if all values are above 0 and the largest is `LOG_FROM` times the smallest.
        """
        low, high = min(values := list(values)), max(values)
        if low > 0 and high / low >= LOG_FROM:
            spare = (high / low) ** room
            return cls(low / spare, high * spare, log=True)
        spare = max((high - low) * room, (least - high + low) / 2) or abs(high) * room or 1.0
        return cls(max(0.0, low - spare) if low >= 0 else low - spare, min(high + spare, max(high, most)))

    def place(self, value: float) -> float:
        """Map a value to 0 (start of the axis) to 1 (end of the axis)."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int = 5) -> tuple[float, ...]:
        """Return round values within the axis, ascending, about ``most`` at most."""
        if not self.log:
            return _linear(self.low, self.high, most)
        decades = math.log10(self.high / self.low)
        steps = DECADE_STEPS if decades < DECADES_ALONE else DECADE_STEPS[:1]
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        found = [s * 10.0**p for p in powers for s in steps if self.low <= s * 10.0**p <= self.high]
        return tuple(found[:: -(-len(found) // most)] if len(found) > most + 1 else found)

    def texts(self, ticks: Sequence[float]) -> list[str]:
        """Format ticks without trailing zeros; on a linear axis all have the same decimal places."""
        plain = [f"{tick:,.9f}".rstrip("0").rstrip(".") for tick in ticks]
        places = max((len(text.partition(".")[2]) for text in plain), default=0)
        return plain if self.log else [f"{tick:,.{places}f}" for tick in ticks]


def _linear(low: float, high: float, most: int) -> tuple[float, ...]:
    rough = (high - low) / max(1, most)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(i * step, 12) for i in range(first, last + 1))


@dataclass(frozen=True)
class Point:
    """One network in a plot. ``spread``: spread of the horizontal value; None if not measured."""

    x: float
    y: float
    tag: str  # beside the point
    label: str  # what the tag stands for
    said: str  # the whole point in words
    spread: Spread | None = None
    hollow: bool = False  # the teacher


@dataclass(frozen=True)
class Dot:
    """A drawn point, px. ``whisker``: its two ends; ``tag_y``: None if there is no room for the tag."""

    point: Point
    x: float
    y: float
    whisker: tuple[float, float] | None
    tag: str
    tag_y: float | None


@dataclass(frozen=True)
class Plot:
    """A scatter plot, px. Ticks are (position, text)."""

    title: str
    x_title: str
    y_title: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    dots: tuple[Dot, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    top: int = TOP
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM


def scatter(points: Sequence[Point], title: str, x_title: str, y_title: str) -> Plot | None:
    """Place points with whiskers and tags; None if there are no points or one has x <= 0."""
    if not points or any(p.x <= 0 for p in points):
        return None
    ends = [v for p in points if p.spread for v in (p.spread.p10, p.spread.p90) if v > 0]
    x_axis = Axis.around([p.x for p in points] + ends)
    y_axis = Axis.around([p.y for p in points], most=1, room=0.2, least=LEAST_SCORES)

    def across(value: float) -> float:
        return round(LEFT + x_axis.place(max(value, x_axis.low)) * (WIDTH - LEFT - RIGHT), 1)

    def down(value: float) -> float:
        return round(TOP + (1 - y_axis.place(value)) * (HEIGHT - TOP - BOTTOM), 1)

    places = [(across(p.x), down(p.y)) for p in points]
    tags = [shorten(p.tag, TAG_CHARS) for p in points]
    dots = (
        Dot(p, *at, (across(p.spread.p10), across(p.spread.p90)) if p.spread else None, tag, tag_y)
        for p, at, tag, tag_y in zip(points, places, tags, _beside(places, tags), strict=True)
    )
    x_ticks, y_ticks = (tuple(zip(a.ticks(), a.texts(a.ticks()), strict=True)) for a in (x_axis, y_axis))
    return Plot(
        title,
        f"{x_title}, logarithmic" if x_axis.log else x_title,
        y_title,
        tuple((across(tick), text) for tick, text in x_ticks),
        tuple((down(tick), text) for tick, text in y_ticks),
        tuple(dots),
    )


def _beside(places: Sequence[tuple[float, float]], tags: Sequence[str]) -> list[float | None]:
    """Return each tag's y, px: above its point, moved up a line at a time until it overlaps no other tag."""
    wide, found = max(map(len, tags)) * TAG_PX, list[float | None]([None] * len(places))
    for i in sorted(range(len(places)), key=lambda i: -places[i][1]):
        x, y = places[i][0], places[i][1] - LIFT_PX
        taken = [(places[j][0], v) for j, v in enumerate(found) if v is not None]
        while any(abs(x - u) < wide and abs(y - v) < LINE_PX for u, v in taken):
            y -= LINE_PX
        found[i] = y if y >= LINE_PX / 2 else None
    return found


def against_accuracy(bench: Bench, scores: Scores, batch: int) -> list[Plot]:
    """Plot mIoU against speed and against size, for the rows whose mIoU is known."""
    fast, small = list[Point](), list[Point]()
    for row in bench.rows:
        if row.label not in scores.of_row:
            continue
        miou, mark = scores.of_row[row.label][0], scores.mark(row)
        said = f"{row.name} {row.place}: mIoU {score(miou)}"
        named = row.label, f"{bench.tag(row)} ({mark})" if mark else bench.tag(row)
        if fps := row.fps.get(batch):
            fast.append(Point(fps.p50, miou, *named, f"{said}, {whole(fps)} tiles/s", fps, row.is_teacher))
        if row.size_bytes:
            size_mb = row.size_bytes / 1e6
            small.append(Point(size_mb, miou, *named, f"{said}, {number(size_mb)} MB", None, row.is_teacher))
    drawn = (
        scatter(fast, "mIoU against speed", f"tiles/s at batch {batch}", "mIoU"),
        scatter(small, "mIoU against size", "size on disk, MB", "mIoU"),
    )
    return [plot for plot in drawn if plot is not None]


@dataclass(frozen=True)
class Bar:
    """One bar of a chart."""

    label: str
    value: float
    spread: Spread | None = None


def bars(bench: Bench, batch: int) -> list[tuple[str, str, list[Bar], float]]:
    """Return bar charts for rows without mIoU: (title, unit, bars, value of the full width)."""

    def size(row: Row) -> float:
        return (row.size_bytes or 0) / 1e6

    fast = [Bar(bench.tag(r), fps.p50, fps) for r in bench.rows if (fps := r.fps.get(batch))]
    small = [Bar(bench.tag(r), size(r)) for r in bench.rows if r.size_bytes]
    charts = ((f"Speed at batch {batch}", "tiles/s", fast), ("Size on disk", "MB", small))
    return [
        (*chart, max(b.spread.p90 if b.spread else b.value for b in chart[2]) or 1.0)
        for chart in charts
        if chart[2]
    ]
