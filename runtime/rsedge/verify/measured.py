"""What a comparison leaves for later runs: how many streams are fastest, and all speeds, passed or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from rsedge.backends import Backend
from rsedge.backends.speeds import ON_CPU, Machine, Speed
from rsedge.engine.sliding_window import Progress
from rsedge.verify.compare import ROUNDS, Candidate, Check, check
from rsedge.verify.conditions import Conditions
from rsedge.verify.tiles import Tiles

COUNTS = (2, 4, 8)  # streams to try; each takes memory of its own


def stream_counts(threads: int) -> tuple[int, ...]:
    """Return the numbers of streams, above one, to try on so many threads."""
    return tuple(n for n in COUNTS if n <= threads)


def check_streams(
    reference: Backend,
    candidates: Iterable[Candidate],
    tiles: Tiles,
    step: Callable[[], None],
    rounds: int = ROUNDS,
) -> tuple[Check, ...]:
    """Compare the candidates that run on a CPU, each with several tiles in work at once, with the reference."""
    return tuple(
        check(reference, Candidate(c.precision, c.device, streams=n), tiles, reference.threads, step, rounds)
        for c in candidates
        if c.device in ON_CPU
        for n in stream_counts(reference.threads)
    )


def steps(progress: Progress | None, total: int) -> Callable[[], None]:
    """Return a function that counts tiles up to ``total``."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    return step


def speeds_of(reference: Backend, checks: Sequence[Check], on: Conditions) -> tuple[Speed, ...]:
    """Return the speeds of what was compared and of the reference; () if nothing was.

    What failed is among them, so that nobody tries it again in vain or uses what passed earlier.
    """
    machine, found = Machine.here(), list[Speed]()
    for c in checks:
        if c.state == "not run" or c.sha256 is None:
            continue
        facts = c.precision, c.device, str(c.provider), str(c.version), on.threads
        times_ms = 1e3 * (c.p50_s or 0), 1e3 * (c.reference_p50_s or 0)
        agreement, passed = c.found.agreement if c.found else 0.0, c.state == "passed"
        found.append(Speed(*facts, *times_ms, agreement, c.sha256, on.date, machine, c.streams, passed))
    times = [speed.reference_ms for speed in found if speed.reference_ms]
    if times:
        own_ms = float(np.median(times))
        own = "fp32", "cpu", reference.provider, reference.version, on.threads
        found.append(Speed(*own, own_ms, own_ms, 1.0, reference.bundle.sha256, on.date, machine))
    return tuple(found)
