"""HTML page with the results of ``rsedge bench`` and ``rsedge eval``.

    inputs             JSON results, read into the records that bench and eval write
    accuracy, figures  the score of each row; numbers as text
    tables, plots      cells of the tables, positions in the plots
    pictures           image, mask and truth
    summary, repeat    summary sentences; commands to repeat the measurements
    page               the page, from the template ``page.html`` with ``style.css`` and ``script.js``

The report measures nothing: every figure comes from the result files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rsedge.files import whole_or_nothing, writing
from rsedge.raster import check_replaceable, check_target
from rsedge.report.inputs import Inputs
from rsedge.report.page import GENERATOR, page, template
from rsedge.report.pictures import Progress, Sources, read_preview

__all__ = ["GENERATOR", "Inputs", "Sources", "page", "write_report"]

SUFFIXES = (".html", ".htm")
HEAD_BYTES = 1024  # the start of a page, which holds the generator tag of rsedge


def write_report(
    out: Path,
    results: Sequence[Path],
    pictures: Sources | None = None,
    heading: str | None = None,
    command: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write the page to ``out`` and return its size in bytes. ``results``: files of bench and eval, in any order.

    ``progress`` is called with (raster rows read, rows in all). Raises InputError if a file is not a valid result,
    the rasters do not match, or ``out`` is a file that rsedge did not write; OutputError if ``out`` cannot be written;
    BackendError if Jinja2 is not installed.
    """
    check_target(out, overwrite, SUFFIXES)
    check_replaceable(out, overwrite, _is_report)
    template()  # fails before rasters are read if Jinja2 is missing
    inputs = Inputs.read(results)
    names = [tuple(c.name for c in found.classes) for found in inputs.evals]
    preview = read_preview(pictures, names, progress) if pictures else None
    text = page(inputs, preview, heading, command).encode("utf-8")
    with writing(out), whole_or_nothing(out) as partial:
        partial.write_bytes(text)
    return len(text)


def _is_report(path: Path) -> bool:
    with path.open("rb") as file:
        return f'name="generator" content="{GENERATOR}'.encode() in file.read(HEAD_BYTES)
