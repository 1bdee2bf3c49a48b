"""Numbers formatted for readers: three digits, a unit, a spread."""

from __future__ import annotations

import math

from rsedge.bench.facts import Spread

NONE = "\N{EN DASH}"  # shown if nothing was measured


def decimals(value: float, digits: int = 3) -> int:
    """Return the number of decimal places that show ``digits`` significant digits of ``value``."""
    if value == 0 or not math.isfinite(value):
        return 0
    return min(9, max(0, digits - 1 - math.floor(math.log10(abs(value)) + 1e-12)))


def number(value: float | None, digits: int = 3) -> str:
    """Format a number, such as ``305``, ``36.1``, ``0.812`` or ``1,712``; None as a dash."""
    return NONE if value is None else f"{value:,.{decimals(value, digits)}f}"


def middle(spread: Spread | None, digits: int = 3) -> str:
    """Format the median; None as a dash."""
    return NONE if spread is None else number(spread.p50, digits)


def around(spread: Spread, digits: int = 3) -> str:
    """Format the 10th to 90th percentile with the median's decimal places: ``298 to 311``."""
    places = decimals(spread.p50, digits)
    return f"{spread.p10:,.{places}f} to {spread.p90:,.{places}f}"


def whole(spread: Spread, digits: int = 3) -> str:
    """Format the median with its percentiles: ``305 (298 to 311)``."""
    return f"{middle(spread, digits)} ({around(spread, digits)})"


def score(value: float | None) -> str:
    """Format an IoU, F1 or accuracy between 0 and 1."""
    return NONE if value is None else f"{value:.3f}"


def percent(value: float | None, places: int = 1) -> str:
    """Format a share as a percentage; a share below 1 is never rounded up to 100 %."""
    if value is None:
        return NONE
    shown = f"{value * 100:.{places}f}"
    if value < 1 and float(shown) >= 100:
        shown = f"{100 - 10.0**-places:.{places}f}"
    return f"{shown}\N{NO-BREAK SPACE}%"


def seconds(value: float) -> str:
    """Format a duration: ``1.4 s``, ``26 ms``."""
    return f"{number(value, 2)} s" if value >= 0.1 else f"{number(value * 1e3, 2)} ms"


def plural(count: int, what: str) -> str:
    """Format a count with its noun: ``1 raster``, ``2 rasters``."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def shorten(text: str, most: int) -> str:
    """Cut ``text`` to at most ``most`` characters, with an ellipsis if it was longer."""
    return text if len(text) <= most else text[: most - 1].rstrip(" ,") + "\N{HORIZONTAL ELLIPSIS}"
