"""The application: its commands, and what becomes of errors."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from rsedge.cli import (
    bench,
    common,
    data,
    evaluate,
    export,
    infer,
    models,
    report,
    sample,
    training,
    verify,
    watch,
)
from rsedge.cli.common import INTERRUPTED, STOPS
from rsedge.cli.settings import read_settings
from rsedge.errors import RsedgeError
from rsedge.gdal_settings import restrict_process
from rsedge.version import __version__

app = typer.Typer(
    name="rsedge",
    help="Remote-sensing segmentation on edge hardware.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("train-teacher")(training.train_teacher)
app.command("distill")(training.distill)
app.command("infer")(infer.infer)
app.command("watch")(watch.watch)
app.command("eval")(evaluate.evaluate_command)
app.add_typer(data.app, name="data")
app.command("sample")(sample.sample)
app.command("models")(models.models)
app.command("export")(export.export)
app.command("bench")(bench.bench)
app.command("report")(report.report)
app.command("verify")(verify.verify)


def _show_version(wanted: bool) -> None:
    if wanted:
        common.say(f"rsedge {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
    settings: Annotated[
        Path | None,
        typer.Option(
            help="Options by command, all of them taken.",
            show_default="rsedge.toml in this folder, if it is yours, but for files to write and addresses",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Before every command: defaults from ``rsedge.toml`` in the current folder."""
    read_settings(context, settings)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 wrong usage or input, 130 interrupted."""
    for stop in STOPS:
        signal.signal(stop, common.stop)
    restrict_process()
    try:
        app(prog_name="rsedge")
    except RsedgeError as error:
        common.complain(str(error) if error.exit_code == INTERRUPTED else f"error: {error}")
        sys.exit(error.exit_code)
    except OSError as error:  # a path too long, a folder that may not be entered
        common.complain(f"error: {error}")
        sys.exit(1)
    except MemoryError:
        common.complain("error: out of memory; close other programs or use a narrower raster")
        sys.exit(1)
    except common.Interrupted:
        common.complain(common.interrupted())
        sys.exit(INTERRUPTED)
    finally:  # the result stands or does not: too late to interrupt
        common.ignore_stops()
