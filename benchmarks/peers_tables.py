"""Calculations of peers.py: places of tiles, rows, the table. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from streaming_tables import Rounds, Spread, ratios

MIB = 2**20
OWN = "rsedge"


@dataclass(frozen=True)
class Kind:
    """A contender's design: how it joins tiles, who writes the mask."""

    seams: str
    writer: str


KINDS: Mapping[str, Kind] = {
    OWN: Kind("linear ramps", "library"),
    "geodeep": Kind("crop", "library"),
    "monai": Kind("gaussian", "script"),
    "torchgeo": Kind("last one wins", "script"),
    "naive": Kind("none, no overlap", "script"),
    "naive-blend": Kind("linear ramps", "script"),
}


@dataclass(frozen=True)
class Row:
    """One contender with one model. Shares are None if not measured."""

    contender: str
    seams: str
    seconds: Spread
    mpx_per_s: Spread
    over_own: Spread
    peak_bytes: float | None = None
    bytes_per_pixel: float | None = None  # growth of the peak
    agreement: float | None = None
    unlike_reference: float | None = None
    kept: Mapping[str, Any] | None = None  # ``peers_contenders.inspect``

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def rows_of(
    runs: Mapping[str, Mapping[str, Rounds]],
    small: Mapping[str, Mapping[str, Any]],
    agreed: Mapping[str, float],
    pixels: int,
    small_pixels: int,
) -> list[Row]:
    """Return rows of all that ran on the large raster; ``small``: facts from the small one, ``unlike``, ``kept``."""
    own, rows = runs[OWN]["wall_s"], list[Row]()
    for name, quantities in runs.items():
        peak = max(quantities["peak_rss_bytes"])
        grew = peak - small[name]["peak_rss_bytes"]
        rows.append(
            Row(
                name,
                KINDS[name].seams,
                *_speeds(quantities["wall_s"], own, pixels),
                peak_bytes=peak,
                bytes_per_pixel=grew / (pixels - small_pixels) if pixels > small_pixels else None,
                agreement=agreed.get(name),
                unlike_reference=small[name]["unlike"],
                kept=small[name]["kept"],
            )
        )
        if "loop_s" in quantities:
            speeds = _speeds(quantities["loop_s"], own, pixels)
            rows.append(Row(f"{name}, without its filter", KINDS[name].seams, *speeds))
    return rows


def first_pixel(transform: Any, left: float, top: float) -> tuple[int, int]:
    """Return row and column of the pixel whose upper left corner has these coordinates on a north-up grid."""
    return round((top - transform.f) / transform.e), round((left - transform.c) / transform.a)


def put(mask: NDArray[np.uint8], part: NDArray[np.uint8], row: int, col: int) -> None:
    """Overwrite ``mask`` (height, width) by ``part`` from ``row``, ``col`` on, dropping what lies outside."""
    top, left = max(row, 0), max(col, 0)
    inside = part[top - row :, left - col :][: max(0, mask.shape[0] - top), : max(0, mask.shape[1] - left)]
    mask[top : top + inside.shape[0], left : left + inside.shape[1]] = inside


def table(rows: Sequence[Row]) -> str:
    """Return Markdown with a line per contender."""
    lines = [
        "| contender | seconds (p10 to p90) | Mpx/s (p10 to p90) | over rsedge (p10 to p90) | peak MiB "
        "| MiB a further Mpx | agrees | unlike the reference | seams | grid, by | nodata marked / others |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        peak = "" if r.peak_bytes is None else f"{r.peak_bytes / MIB:.0f}"
        growth = "" if r.bytes_per_pixel is None else f"{r.bytes_per_pixel * 1e6 / MIB:.1f}"
        lines.append(
            f"| {r.contender} | {r.seconds} | {r.mpx_per_s} | {r.over_own} | {peak} | {growth} "
            f"| {_percent(r.agreement, 3)} | {_percent(r.unlike_reference, 4)} | {r.seams} "
            f"| {_grid(r)} | {_nodata(r.kept)} |"
        )
    return "\n".join(lines)


def _speeds(wall_s: Rounds, own_s: Rounds, pixels: int) -> tuple[Spread, Spread, Spread]:
    seconds = np.asarray(wall_s, np.float64)
    return Spread.of(seconds), Spread.of(pixels / 1e6 / seconds), ratios(seconds, own_s)


def _grid(row: Row) -> str:
    if row.kept is None:
        return ""
    return f"{'kept' if row.kept['same_grid'] else '**lost**'}, {KINDS[row.contender].writer}"


def _nodata(kept: Mapping[str, Any] | None) -> str:
    if kept is None or "nodata_marked" not in kept:
        return ""
    return f"{_percent(kept['nodata_marked'], 1)} / {_percent(kept['valid_marked'], 1)}"


def _percent(share: float | None, digits: int) -> str:
    return "" if share is None else f"{100 * share:.{digits}f} %"
