"""Calculations of table4.py: counted passes, frames a second, ratios to the teacher, the table. No I/O."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from streaming_tables import Rounds, Spread, ratios

TEACHER = "arafnet-t"
DEPLOYED = "-deployed"  # suffix of a way that runs students after their exact rewrites
MIB = 2**20
MOST_PASSES = 1000


@dataclass(frozen=True)
class Counts:
    """The paper's columns of one network that follow from its layers: M parameters, G operations x 8, MiB."""

    params_m: float
    flops_g: float
    size_mb: float


@dataclass(frozen=True)
class Row:
    """Printed and measured figures of one network."""

    network: str
    printed: Counts
    printed_fps: float
    printed_ratio: float  # its FPS over the teacher's
    counted: Counts  # ours, under the authors' convention
    fps: Spread
    ratio: Spread | None  # FPS over the teacher's of the same round; None if the teacher did not run
    peak_bytes: float  # highest of all rounds

    @classmethod
    def of(
        cls, network: str, counts: Mapping[str, Mapping[str, Any]], runs: Mapping[str, Any], batch: int
    ) -> Row:
        """Return the row; ``counts`` by network, with ``printed``; ``runs`` by network and quantity."""
        own, printed = counts[network], counts[network]["printed"]
        wall = np.asarray(runs[network]["wall_s"], np.float64)
        peak = runs[network].get("device_peak_bytes", runs[network]["peak_rss_bytes"])
        return cls(
            network=network,
            printed=_counts(printed),
            printed_fps=printed["fps"],
            printed_ratio=printed["fps"] / counts[TEACHER]["printed"]["fps"],
            counted=_counts(own),
            fps=Spread.of(batch / wall),
            ratio=ratios(_seconds(runs, TEACHER), wall) if TEACHER in runs else None,
            peak_bytes=max(peak),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain JSON values."""
        return asdict(self)


def passes(
    call: Callable[[], None], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Return the seconds of each pass, as many as fit into ``seconds``, one at least."""
    found = list[float]()
    begin = clock()
    while not found or (clock() - begin < seconds and len(found) < MOST_PASSES):
        start = clock()
        call()
        found.append(clock() - start)
    return found


def table(rows: Sequence[Row], device: str) -> str:
    """Return Markdown with the paper's columns and ours side by side."""
    lines = [
        "| network | params M, paper / ours | FLOPs G (x8), paper / ours | size MiB, paper / ours | FPS, paper | FPS, "
        f"ours (p10 to p90) | x teacher, paper | x teacher, ours (p10 to p90) | peak {device} MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        pairs = (
            (r.printed.params_m, r.counted.params_m),
            (r.printed.flops_g, r.counted.flops_g),
            (r.printed.size_mb, r.counted.size_mb),
        )
        both = " | ".join(f"{paper:.2f} / {ours:.2f}" for paper, ours in pairs)
        lines.append(
            f"| {r.network} | {both} | {r.printed_fps:.2f} | {r.fps} | {r.printed_ratio:.1f} | {r.ratio or '-'} "
            f"| {r.peak_bytes / MIB:.0f} |"
        )
    return "\n".join(lines)


def left_out_lines(left_out: Mapping[str, str]) -> str:
    """Return Markdown on the networks that did not run, with their errors."""
    return "\n".join(f"- {network} did not run, it {why}" for network, why in left_out.items())


def _counts(columns: Mapping[str, float]) -> Counts:
    return Counts(columns["params_m"], columns["flops_g"], columns["size_mb"])


def _seconds(runs: Mapping[str, Any], network: str) -> Rounds:
    return np.asarray(runs[network]["wall_s"], np.float64)
