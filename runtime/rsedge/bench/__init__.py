"""Benchmark of models on this machine: every artifact of a bundle on every available device, and the teacher.

    options      what to measure (``facts.BenchOptions``)
    contenders   the models (``contender``), each in its own process (``crew``, ``worker``)
    rounds       rounds in which the models take turns (``turns``), recorded by ``sensors``
    rows         summaries with their spread (``rows``, ``facts``), and the machine (``machine``)

No value is estimated: a value that was neither measured nor recorded in the bundle is None.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from rsedge.bench.contender import Contender, of_bundles
from rsedge.bench.crew import Worker
from rsedge.bench.facts import BATCHES, TEACHER, BenchOptions, BenchResult, Machine, Method, NotRun
from rsedge.bench.inputs import example_tile
from rsedge.bench.machine import this_machine
from rsedge.bench.rows import rows_of
from rsedge.bench.sensors import Sensors
from rsedge.bench.turns import OVERLAP, WARMUP, Turns, check_side
from rsedge.errors import BackendError, InputError, ModelError
from rsedge.model.bundle import Bundle
from rsedge.score.evaluation import find_labelled

__all__ = ["BUSY", "WARMUP", "BenchOptions", "BenchResult", "Contender", "bench", "example_tile"]

BUSY = 0.5  # load per core before measuring, above which times are not reliable


def bench(
    bundles: Sequence[Path | str | None] = (None,),
    options: BenchOptions | None = None,
    teacher: Contender | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BenchResult:
    """Measure every artifact of ``bundles`` (None: the default model) that this machine can run, and a teacher.

    Each model is opened in its own process, and all stay open so that they can take turns. ``progress`` is called
    with (turns done, turns in all).

    Raises InputError or ModelError if a bundle cannot be used or the teacher does not match it, BackendError if no
    artifact can run on this machine.
    """
    options, sensors = options or BenchOptions(), Sensors()
    machine = this_machine()  # before measuring, because a benchmark adds load
    contenders, not_run = of_bundles(bundles, options)
    if options.data:  # fails now rather than after minutes of measuring
        table = Path(options.classes) if options.classes else None
        for path in {_classes(path): path for path in bundles}.values():
            manifest = Bundle.open(path).manifest
            find_labelled(manifest, options.data, classes=table, allow_missing=options.allow_missing)
    if teacher and len({_classes(path) for path in bundles}) > 1:
        raise InputError(
            "models of different classes have no teacher in common; give --teacher none, or one at a time"
        )
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rsedge-bench-")))
        workers, lost = _open(([teacher] if teacher else []) + list(contenders), stack)
        not_run = (*not_run, *lost)
        if not any(w.contender.role != TEACHER for w in workers):
            raise BackendError(f"no artifact can run on this machine: {_list(not_run)}")
        for worker in workers:
            check_side(options.raster_side, worker.facts["tile"])
        turns = Turns(options, sensors, scratch)
        found = turns.take(workers, progress)
    not_run = (*not_run, *turns.lost)
    if not any(m.contender.role != TEACHER for m in found):
        raise BackendError(f"no artifact could be measured on this machine: {_list(not_run)}")
    rows, base = rows_of(found, sensors)
    notes = [f"{m.contender}: {note}" for m in found for note in m.facts.get("notes", ())]
    return BenchResult(
        machine=machine,
        method=_method(options, turns),
        base=base,
        rows=rows,
        not_run=not_run,
        notes=(*_busy(machine), *sensors.notes, *dict.fromkeys(notes)),
    )


def _classes(path: Path | str | None) -> tuple[str, ...]:
    return tuple(c.name for c in Bundle.open(path).manifest.classes)


def _open(contenders: Sequence[Contender], stack: ExitStack) -> tuple[list[Worker], list[NotRun]]:
    workers, lost = list[Worker](), list[NotRun]()
    for contender in contenders:
        try:
            workers.append(stack.enter_context(Worker(contender)))
        except (BackendError, ModelError, InputError) as error:
            if contender.role == TEACHER and not contender.optional:
                raise
            lost.append(NotRun(str(contender), str(error)))
    return workers, lost


def _method(options: BenchOptions, turns: Turns) -> Method:
    return Method(
        rounds=options.rounds,
        seconds=options.seconds,
        warmup_runs=WARMUP,
        raster_side=options.raster_side,
        batches=BATCHES,
        overlap=OVERLAP,
        overhead_share=turns.overhead.share,
        device=options.device,
        precision=options.precision,
        threads=options.threads,
        streams=options.streams,
        data=options.data,
        classes=options.classes,
        bands=_listed(options.bands),
        scale=_listed(options.scale),
        nodata=_listed(options.nodata),
        alpha=None if options.alpha is None else str(options.alpha),
    )


def _listed(values: Sequence[float] | None) -> str | None:
    return None if values is None else ",".join(f"{v:g}" for v in values)


def _busy(machine: Machine) -> tuple[str, ...]:
    load, cores = machine.load_1min_before, machine.cores
    if load is None or load <= BUSY * cores:
        return ()
    return (
        f"other work was running (load {load:.1f} on {cores} cores): the times are too long; measure again on a "
        "quiet machine",
    )


def _list(not_run: Sequence[NotRun]) -> str:
    return "; ".join(map(str, not_run))
