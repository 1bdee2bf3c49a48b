"""The model as the options of a command ask for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsedge.cli import common, stopping
from rsedge.errors import InputError

if TYPE_CHECKING:
    from rsedge.backends import Backend


def open_asked(
    model: str | None,
    device: str,
    precision: str | None,
    threads: int | None,
    streams: int | None,
    fast: bool,
    quiet: bool,
) -> Backend:
    """Open the bundle at ``model``, or its fastest artifact if ``fast``.

    Raises InputError if options contradict each other, and what `open_model` raises.
    """
    if not fast:
        from rsedge.infer.segmentation import open_model

        with stopping.stops_wait():
            return open_model(model, device, threads, precision, streams)
    if precision is not None:
        raise InputError(
            f"--fast chooses the precision, but --precision {precision} was given too; leave one out"
        )
    from rsedge.verify.fastest import open_fastest

    with common.progress_bar("measuring speeds, once", quiet) as progress:
        return open_fastest(model, device, threads, streams, progress)
