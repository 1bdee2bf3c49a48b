"""The ``rsedge report`` command."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsedge.cli import common, flags
from rsedge.errors import InputError

if TYPE_CHECKING:
    from rsedge.report import Sources


def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="Output files of `rsedge bench --json` and `rsedge eval --json`, in any order.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Page to write.")] = Path("report.html"),
    raster: Annotated[
        Path | None,
        typer.Option(help="Raster to show; needs --mask.", metavar="TIF", show_default=False),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="Mask of --raster, by `rsedge infer`.", metavar="TIF", show_default=False),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="Labels of --raster.", metavar="TIF", show_default=False)
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(help="TOML table of the labels' colours.", show_default="the mask's own colours"),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading.", show_default="the models' names")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace also a file that `rsedge report` did not write.")
    ] = False,
    quiet: flags.Quiet = False,
) -> None:
    """Make one HTML page of benches and evals: tables, plots, gate, classes, a before/after slider."""
    from rsedge.report import write_report

    pictures = _pictures(raster, mask, truth, classes)
    options = {"--raster": raster, "--mask": mask, "--truth": truth, "--classes": classes, "--title": title}
    command = ["rsedge", "report", *map(str, results), "--out", str(out)]
    command += [part for name, value in options.items() if value is not None for part in (name, str(value))]
    with common.progress_bar("rows", quiet) as progress:
        size_bytes = write_report(out, results, pictures, title, shlex.join(command), overwrite, progress)
    if not quiet:
        common.say(f"report   {out}, {size_bytes / 1e6:.2f} MB")


def _pictures(
    raster: Path | None, mask: Path | None, truth: Path | None, classes: Path | None
) -> Sources | None:
    from rsedge.report import Sources

    if classes is not None and truth is None:
        raise InputError("--classes are the label colours of --truth, which was not given")
    if raster is None and mask is None and truth is None:
        return None
    if raster is None or mask is None:
        raise InputError("a preview needs both --raster and --mask (--truth may be added); give both or none")
    return Sources(raster, mask, truth, classes)
