"""Calculations of streaming.py: ratios of rounds, their bars, work per stage, tables. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Rounds = Sequence[float] | NDArray[np.float64]  # one a round, mostly seconds
FLOAT_BYTES = 4
OVERVIEWS = 1 / 3  # pixels of all overviews over those of the raster: 1/4 + 1/16 + ...


@dataclass(frozen=True)
class Spread:
    """Median of the rounds, between their 10th and 90th percentile."""

    p10: float
    p50: float
    p90: float

    @classmethod
    def of(cls, values: Rounds) -> Spread:
        """Return the spread of at least one value."""
        if len(values) == 0:
            raise ValueError("no rounds: nothing was measured")
        return cls(*(float(v) for v in np.percentile(np.asarray(values, np.float64), (10, 50, 90))))

    def __str__(self) -> str:
        return f"{_short(self.p50)} ({_short(self.p10)} to {_short(self.p90)})"


@dataclass(frozen=True)
class Row:
    """One figure and its bar. ``bar`` None: for information only."""

    what: str
    found: Spread
    bar: float | None = None
    kind: Literal["at most", "at least"] = "at most"
    unit: str = ""
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Return True if the median meets the bar; None without a bar."""
        if self.bar is None:
            return None
        return self.found.p50 <= self.bar if self.kind == "at most" else self.found.p50 >= self.bar

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "holds": self.holds}


@dataclass(frozen=True)
class Work:
    """Work of one stage for a whole raster, and the seconds one thread needed."""

    stage: str
    bytes_moved: float  # read and written, each array once
    operations: float  # arithmetic only; 0 if unknown (a codec)
    seconds: float

    def least_s(self, bytes_per_s: float, operations_per_s: float) -> float:
        """Return the seconds that memory or arithmetic needs at the machine's measured best, whichever is more."""
        return max(self.bytes_moved / bytes_per_s, self.operations / operations_per_s)


def ratios(over: Rounds, under: Rounds) -> Spread:
    """Return ``over`` / ``under`` of each round, which had the same load."""
    if len(over) != len(under):
        raise ValueError(f"{len(over)} rounds over {len(under)}: take the ratios of the same rounds")
    return Spread.of(np.asarray(over, np.float64) / np.asarray(under, np.float64))


def floor_s(read_s: Rounds, write_s: Rounds, model_s: Rounds) -> NDArray[np.float64]:
    """Return the least seconds per round when reading and writing run beside the model: the slower of the two."""
    reading_and_writing = np.asarray(read_s, np.float64) + np.asarray(write_s, np.float64)
    return np.maximum(reading_and_writing, np.asarray(model_s, np.float64))


def geometry_work(
    pixels: int, window_pixels: int, bands: int, classes: int
) -> dict[str, tuple[float, float]]:
    """Return bytes and operations of the stages whose work follows from sizes.

    ``pixels`` of the raster; ``window_pixels`` of all windows, overlap counted again. uint8 in, float32 scores.
    """
    scores = window_pixels * classes * FLOAT_BYTES
    shared = (window_pixels - pixels) * classes * FLOAT_BYTES  # sums for the next window: written and read
    return {
        "decode": (pixels * bands, 0),
        "gather": (2 * window_pixels * bands, 0),
        "blend + argmax": (
            scores + 2 * shared + pixels,
            2 * window_pixels * classes + pixels * (classes - 1),
        ),
        "encode": (pixels, 0),
        "GeoTIFF": (2 * pixels, 0),
        "COG": ((2 + OVERVIEWS) * pixels, 0),
    }


def blend_reference(
    scores: Iterable[tuple[int, int, NDArray[np.float32]]],
    shape: tuple[int, int, int],
    down: Mapping[int, NDArray[np.float64]],
    across: Mapping[int, NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Blend scores of a whole raster by whole arrays in float64, of ``shape`` (classes, height, width).

    ``scores``: first row, first column and scores (classes, h, w) of each window; ``down`` and ``across``: weights by
    first row and first column. Pixels beyond the raster are dropped.
    """
    total = np.zeros(shape)
    for row, col, tile in scores:
        weight = np.multiply.outer(down[row], across[col])
        h, w = weight.shape
        total[:, row : row + h, col : col + w] += tile[:, :h, :w].astype(np.float64) * weight
    return total


def ramps(starts: Sequence[int], length: int, tile: int, overlap: float) -> dict[int, NDArray[np.float64]]:
    """Return weights along one axis by first pixel: ramps over ``overlap`` of a tile at each border, summing to 1.

    Weights are taken at the middle of a pixel; see ``rsedge.tiling.axes.Axis.weights``.
    """
    size, ramp = min(tile, length), max(1, round(tile * overlap))
    middle = np.arange(size) + 0.5
    raw = np.clip(np.minimum(middle, size - middle) / ramp, 0, 1)
    total = np.zeros(length)
    for start in starts:
        total[start : start + size] += raw
    return {start: raw / total[start : start + size] for start in starts}


def bars_table(rows: Sequence[Row]) -> str:
    """Return Markdown with each figure and its bar."""
    lines = ["| what | found: median (p10 to p90) | bar | holds |", "|---|---|---|---|"]
    for row in rows:
        holds = {None: "", True: "yes", False: "**no**"}[row.holds]
        bar = "" if row.bar is None else f"{row.kind} {row.bar:g}{row.unit}"
        note = f" ({row.note})" if row.note else ""
        lines.append(f"| {row.what}{note} | {row.found}{row.unit} | {bar} | {holds} |")
    return "\n".join(lines)


def seconds_table(walls: Mapping[str, Mapping[str, Rounds]]) -> str:
    """Return Markdown with each contender's seconds of work, process and CPU, and its memory."""
    head = "| contender | work, s | process, s | CPU, s | peak MiB |"
    lines = [head, "|---|---|---|---|---|"]
    for name, runs in walls.items():
        cells = [str(Spread.of(runs[key])) for key in ("wall_s", "process_s", "cpu_s")]
        peak = max(runs["peak_rss_bytes"]) / 2**20
        lines.append(f"| {name} | {' | '.join(cells)} | {peak:.0f} |")
    return "\n".join(lines)


def work_table(works: Sequence[Work], machine: Mapping[str, float]) -> str:
    """Return Markdown with each stage's bytes, operations, speed, and distance from the machine's best."""
    best_bytes, best_operations = machine["copy_1_bytes_per_s"], machine["operations_per_s"]
    lines = [
        f"memory {best_bytes / 1e9:.1f} GB/s by one thread, {machine['copy_2_bytes_per_s'] / 1e9:.1f} by two (a copy, "
        f"read + written); arithmetic {best_operations / 1e9:.0f} Gop/s by one thread (float32 matmul)",
        "",
        "| stage, one thread | s | MB moved | Gop | GB/s | Gop/s | times its least |",
        "|---|---|---|---|---|---|---|",
    ]
    for work in works:
        least = work.least_s(best_bytes, best_operations)
        lines.append(
            f"| {work.stage} | {work.seconds:.3f} | {work.bytes_moved / 1e6:.0f} | {_giga(work.operations)} "
            f"| {work.bytes_moved / work.seconds / 1e9:.2f} | {_giga(work.operations / work.seconds)} "
            f"| {work.seconds / least:.1f} |"
        )
    return "\n".join(lines)


def _giga(operations: float) -> str:
    return f"{operations / 1e9:.2f}" if operations else "-"


def _short(value: float) -> str:
    """Format three significant digits, avoiding exponents for common values."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.{2 if abs(value) >= 1 else 3}f}" if abs(value) >= 0.01 else f"{value:.1e}"
