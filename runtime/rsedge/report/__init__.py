"""One HTML page of what ``rsedge bench`` and ``rsedge eval`` found.

    inputs             the JSON, read into the records that bench and eval write
    accuracy, figures  which score belongs where; numbers as text
    tables, plots      what stands in a table, where things go in a plot
    pictures           image, mask and truth
    summary, repeat    sentences; commands
    page               all of it in the template ``page.html``, with ``style.css`` and ``script.js``

Nothing here measures: every figure is in the files it is made from.
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
HEAD_BYTES = 1024  # in which a page of ours says that it is one


def write_report(
    out: Path,
    results: Sequence[Path],
    pictures: Sources | None = None,
    heading: str | None = None,
    command: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write the page to ``out``; returns its bytes. ``results``: files of bench and eval, in any order.

    ``progress`` is called with (raster rows read, rows in all). Raises InputError when a file is not what it should
    be, rasters do not fit, or ``out`` is somebody's file; OutputError when it cannot be written; BackendError where
    Jinja2 is not installed.
    """
    check_target(out, overwrite, SUFFIXES)
    check_replaceable(out, overwrite, _is_report)
    template()  # before rasters are read
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
