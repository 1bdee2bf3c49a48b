"""Axes with round ticks, and labels placed beside points without touching one another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LOG_FROM = 12  # largest over smallest value: below, a linear axis shows more
DECADE_STEPS = (1, 2, 5)
DECADES_ALONE = 2.5  # with more decades, powers of ten only


@dataclass(frozen=True)
class Axis:
    """Values from ``low`` to ``high``, placed at 0 to 1."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def around(
        cls, values: Iterable[float], most: float = math.inf, room: float = 0.08, least: float = 0
    ) -> Axis:
        """An axis that holds all values with room beside them, up to ``most``; it spans ``least`` or more.

        Logarithmic where all are above 0 and the largest is `LOG_FROM` times the smallest.
        """
        low, high = min(values := list(values)), max(values)
        if low > 0 and high / low >= LOG_FROM:
            spare = (high / low) ** room
            return cls(low / spare, high * spare, log=True)
        spare = max((high - low) * room, (least - high + low) / 2) or abs(high) * room or 1.0
        return cls(max(0.0, low - spare) if low >= 0 else low - spare, min(high + spare, max(high, most)))

    def place(self, value: float) -> float:
        """0 at the axis's beginning, 1 at its end."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int = 6) -> tuple[float, ...]:
        """Round values within the axis, ascending, not many more than ``most``."""
        if not self.log:
            return _linear(self.low, self.high, most)
        decades = math.log10(self.high / self.low)
        steps = DECADE_STEPS if decades < DECADES_ALONE else DECADE_STEPS[:1]
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        found = [s * 10.0**p for p in powers for s in steps if self.low <= s * 10.0**p <= self.high]
        return tuple(found[:: -(-len(found) // most)] if len(found) > most + 1 else found)


def _linear(low: float, high: float, most: int) -> tuple[float, ...]:
    rough = (high - low) / max(1, most)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(i * step, 12) for i in range(first, last + 1))


@dataclass(frozen=True)
class Box:
    """A rectangle, pixels; ``x`` and ``y`` are its left upper corner."""

    x: float
    y: float
    width: float
    height: float

    def touches(self, other: Box) -> bool:
        """Whether the two have area in common."""
        return (
            self.x < other.x + other.width
            and other.x < self.x + self.width
            and self.y < other.y + other.height
            and other.y < self.y + self.height
        )

    def within(self, other: Box) -> bool:
        """Whether all of it lies in the other."""
        return (
            self.x >= other.x
            and self.y >= other.y
            and self.x + self.width <= other.x + other.width
            and self.y + self.height <= other.y + other.height
        )


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    frame: Box,
    taken: Sequence[Box] = (),
    gap: float = 10,
) -> tuple[Box | None, ...]:
    """Where each point's label goes: the nearest free place inside ``frame``, None where there is none left.

    Labels touch neither one another nor any point (``gap`` is the least distance from their own); nor, while there
    is other room, what is ``taken``, such as whiskers. Points in a crowd choose first.
    """
    dots = [Box(x - gap + 1, y - gap + 1, 2 * gap - 2, 2 * gap - 2) for x, y in points]
    placed: list[Box | None] = [None] * len(points)
    crowd = [sum(math.hypot(x - u, y - v) < 60 for u, v in points) for x, y in points]
    for i in sorted(range(len(points)), key=lambda i: -crowd[i]):
        (x, y), (width, height) = points[i], sizes[i]
        others = [*dots, *(box for box in placed if box is not None)]
        for avoided in ([*others, *taken], others):
            spots = (Box(a, b, width, height) for a, b in _spots(x, y, width, height, frame, gap))
            free = (s for s in spots if s.within(frame) and not any(s.touches(other) for other in avoided))
            placed[i] = min(free, key=lambda s: _cost(s, i, points), default=None)
            if placed[i] is not None:
                break
    return tuple(placed)


def _cost(box: Box, own: int, points: Sequence[tuple[float, float]]) -> float:
    """How badly a label would stand: its distance, and more where it is as near to other points."""
    away = [
        math.hypot(max(box.x - x, x - box.x - box.width, 0), max(box.y - y, y - box.y - box.height, 0))
        for x, y in points
    ]
    taken_for = sum(other <= away[own] + 4 for i, other in enumerate(away) if i != own)
    to_the_left = 0.5 if box.x < points[own][0] else 0  # of two as near, the one to the right
    return away[own] + 25 * taken_for + to_the_left


def _spots(
    x: float, y: float, width: float, height: float, frame: Box, gap: float
) -> Iterable[tuple[float, float]]:
    """Left upper corners to try: around the point, then everywhere."""
    for left in (x + gap, x - width - gap, x - width / 2, x - width + gap, x - gap):
        for top in (y - height / 2, y - height - gap, y + gap):
            yield left, top
    rows, columns = int(frame.height // height), int(frame.width // (width / 3))
    for row in range(rows):
        for column in range(columns):
            yield frame.x + column * width / 3, frame.y + row * height
