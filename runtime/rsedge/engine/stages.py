"""Stages of a run, and what each takes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

# Stages of a run: decoding; cutting tiles; copies to, work on and copies from the device; blending; parts' files.
STAGES = ("read", "pre", "copy_in", "infer", "copy_out", "blend", "encode")
ALL_STAGES = ("prepare", *STAGES, "write")  # including the work of ``segment`` before and after


@dataclass
class Stats:
    """Statistics of a run. Seconds are each stage's own work; stages overlap, so their sum exceeds the run's time."""

    windows: int = 0
    windows_skipped: int = 0  # without a single valid pixel
    valid_pixels: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    busy_s: float = 0.0  # work of all threads without waiting for each other, to which the stages must add up

    def add(self, other: Stats) -> None:
        """Add the statistics of another run."""
        self.windows += other.windows
        self.windows_skipped += other.windows_skipped
        self.valid_pixels += other.valid_pixels
        self.busy_s += other.busy_s
        for stage, seconds in other.seconds.items():
            self.seconds[stage] += seconds


class Timed:
    """A context that adds the time of its block to one stage."""

    def __init__(self, stats: Stats, stage: str) -> None:
        self._stats, self._stage = stats, stage

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._stats.seconds[self._stage] += time.perf_counter() - self._begin
