"""The commands that made the files, as far as the files tell."""

from __future__ import annotations

import shlex

from rsedge.report.evals import Eval
from rsedge.report.inputs import Inputs
from rsedge.report.records import Bench


def commands(inputs: Inputs) -> list[str]:
    """One command a file."""
    return [*map(_bench, inputs.benches), *map(_eval, inputs.evals)]


def _bench(bench: Bench) -> str:
    paths = dict.fromkeys(row.path for row in bench.students if row.path)
    teacher = next((row.path for row in bench.rows if row.is_teacher and row.fps), "none")
    options = {
        "--teacher": teacher,
        **{
            f"--{key}": bench.method.text(key)
            for key in ("device", "precision", "data", "classes", "bands", "scale", "nodata", "alpha")
        },
        "--threads": bench.method.count("threads"),
        "--rounds": bench.method.count("rounds"),
        "--seconds": bench.method.number("seconds"),
        "--size": bench.method.count("raster_side"),
    }
    said = [part for name, value in options.items() if value is not None for part in (name, _plain(value))]
    return f"{shlex.join(['rsedge', 'bench', *paths, *said, '--json'])} > {shlex.quote(bench.source)}"


def _eval(found: Eval) -> str:
    precision = ["--precision", found.precision] if found.precision else []
    return f"{shlex.join(['rsedge', 'eval', 'DATA', *precision, '--json'])} > {shlex.quote(found.source)}"


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
