"""Numbers as people read them: three digits, a unit, a spread."""

from __future__ import annotations

import math

from rsedge.bench.facts import Spread

NONE = "\N{EN DASH}"  # where nothing was measured


def decimals(value: float, digits: int = 3) -> int:
    """Places after the point that show ``digits`` digits of a value."""
    if value == 0 or not math.isfinite(value):
        return 0
    return min(9, max(0, digits - 1 - math.floor(math.log10(abs(value)) + 1e-12)))


def number(value: float | None, digits: int = 3) -> str:
    """``305``, ``36.1``, ``0.812``, ``1,712``; a dash for None."""
    return NONE if value is None else f"{value:,.{decimals(value, digits)}f}"


def middle(spread: Spread | None, digits: int = 3) -> str:
    """The median."""
    return NONE if spread is None else number(spread.p50, digits)


def around(spread: Spread, digits: int = 3) -> str:
    """``298 to 311``: the 10th to the 90th percentile, to the places of the median."""
    places = decimals(spread.p50, digits)
    return f"{spread.p10:,.{places}f} to {spread.p90:,.{places}f}"


def whole(spread: Spread, digits: int = 3) -> str:
    """``305 (298 to 311)``."""
    return f"{middle(spread, digits)} ({around(spread, digits)})"


def score(value: float | None) -> str:
    """An IoU, F1 or accuracy between 0 and 1."""
    return NONE if value is None else f"{value:.3f}"


def percent(value: float | None, places: int = 1) -> str:
    """A share, cut and not rounded where it would be taken for all: 99.98 % is not 100.0 %."""
    if value is None:
        return NONE
    shown = f"{value * 100:.{places}f}"
    if value < 1 and float(shown) >= 100:
        shown = f"{100 - 10.0**-places:.{places}f}"
    return f"{shown}\N{NO-BREAK SPACE}%"


def seconds(value: float) -> str:
    """``1.4 s``, ``26 ms``."""
    return f"{number(value, 2)} s" if value >= 0.1 else f"{number(value * 1e3, 2)} ms"


def plural(count: int, what: str) -> str:
    """``1 raster``, ``2 rasters``."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def shorten(text: str, most: int) -> str:
    """The text with its end left out where it is longer than ``most`` characters."""
    return text if len(text) <= most else text[: most - 1].rstrip(" ,") + "\N{HORIZONTAL ELLIPSIS}"
