"""Commands that made the result files, as far as the files record them."""

from __future__ import annotations

import shlex

from rsedge.report.inputs import Bench, Eval, Inputs


def commands(inputs: Inputs) -> list[str]:
    """Return one command per file."""
    return [*map(_bench, inputs.benches), *map(_eval, inputs.evals)]


def _bench(bench: Bench) -> str:
    how = bench.method
    paths = dict.fromkeys(row.path for row in bench.students)
    teacher = next((row.path for row in bench.rows if row.is_teacher and row.latency), "none")
    told = ("device", "precision", "data", "classes", "bands", "scale", "nodata", "alpha")
    options = {
        "--teacher": teacher,
        **{f"--{name}": getattr(how, name) for name in told},
        "--threads": how.threads,
        "--streams": how.streams if how.streams != 1 else None,
        "--rounds": how.rounds or None,
        "--seconds": how.seconds if how.rounds else None,
        "--size": how.raster_side or None,
    }
    said = [part for name, value in options.items() if value is not None for part in (name, _plain(value))]
    return f"{shlex.join(['rsedge', 'bench', *paths, *said, '--json'])} > {shlex.quote(bench.source)}"


def _eval(found: Eval) -> str:
    precision = ["--precision", found.precision] if found.precision else []
    return f"{shlex.join(['rsedge', 'eval', 'DATA', *precision, '--json'])} > {shlex.quote(found.source)}"


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
