"""Count of steps and time, shown as a bar with an ETA on a terminal and as occasional lines elsewhere."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rsedge_train.data.crops import Batch

log = logging.getLogger(__name__)
LOG_EVERY_S = 30.0
SMOOTHING = 0.05


class Meter:
    """Context manager around the loop. ``first`` steps were done in earlier sessions."""

    def __init__(self, steps: int, first: int, *, quiet: bool = False) -> None:
        self.steps, self.first = steps, first
        self.done, self.images, self.waited_s, self.loss = 0, 0, 0.0, math.nan
        self.live = sys.stderr.isatty() and not quiet
        self.quiet = quiet
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        self.bar = Progress(*columns, console=Console(stderr=True), disable=not self.live)
        self.task = self.bar.add_task("training", total=steps, completed=first)
        self.start = self.logged = time.monotonic()

    def __enter__(self) -> Meter:
        self.start = self.logged = time.monotonic()
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    @property
    def elapsed_s(self) -> float:
        """Return the seconds since the loop began."""
        return time.monotonic() - self.start

    @property
    def seconds_per_step(self) -> float:
        """Return the mean seconds per step of this session."""
        return self.elapsed_s / max(1, self.done)

    @property
    def wait_share(self) -> float:
        """Return the share of time spent waiting for data, without the first batch, which starts the workers."""
        return self.waited_s / max(self.elapsed_s, 1e-9)

    def facts(self) -> dict[str, float]:
        """Return columns of the log."""
        return {"images_per_s": self.images / max(self.elapsed_s, 1e-9), "wait_share": self.wait_share}

    def wait_for(self, batches: Iterator[Batch]) -> Batch:
        """Return the next batch, counting the time as waiting."""
        begin = time.monotonic()
        batch = next(batches)
        if self.done:
            self.waited_s += time.monotonic() - begin
        return batch

    def stepped(self, loss: float, images: int) -> None:
        """Count one step."""
        self.done += 1
        self.images += images
        self.loss = loss if self.done == 1 else self.loss + SMOOTHING * (loss - self.loss)
        rate = self.images / self.elapsed_s
        self.bar.update(self.task, advance=1, description=f"loss {self.loss:.3f}  {rate:.1f} images/s")
        now = time.monotonic()
        if not self.live and not self.quiet and now - self.logged >= LOG_EVERY_S:
            self.logged = now
            left_s = (self.steps - self.first - self.done) * self.seconds_per_step
            log.info(
                "step %d of %d  loss %.4f  %.1f images/s  waiting %.1f %%  left %.1f min",
                *(self.first + self.done, self.steps, self.loss, rate, 100 * self.wait_share, left_s / 60),
            )
