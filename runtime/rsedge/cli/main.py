"""The application: its commands and its handling of errors."""

from __future__ import annotations

import signal
import sys
from collections import UserDict
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from rsedge.cli import common, stopping
from rsedge.cli.settings import read_settings
from rsedge.cli.stopping import INTERRUPTED, STOPS
from rsedge.errors import BackendError, RsedgeError
from rsedge.gdal_settings import restrict_process
from rsedge.version import __version__

# Module and function (or group) of each command, in the order of `rsedge --help`.
COMMANDS = {
    "train-teacher": "training.train_teacher",
    "distill": "training.distill",
    "infer": "infer.infer",
    "watch": "watch.watch",
    "eval": "evaluate.evaluate_command",
    "data": "data.app",
    "sample": "sample.sample",
    "models": "models.models",
    "export": "export.export",
    "bench": "bench.bench",
    "report": "report.report",
    "verify": "verify.verify",
    "doctor": "doctor.doctor",
}


DOCTOR = "`rsedge doctor` shows what runs on this machine, what is missing and what is wrong"


class _OnDemand(UserDict[str, Any]):
    """Commands by name, imported on first use because importing all of them would slow down every start."""

    def __getitem__(self, name: str) -> Any:
        found = self.data[name]
        if isinstance(found, str):
            module, _, attribute = found.partition(".")
            found = self.data[name] = _command(
                name, getattr(import_module(f"rsedge.cli.{module}"), attribute)
            )
        return found


def sections_of(command: Any, context: Any) -> dict[str, list[tuple[str, str]]]:
    """Return the options of a command as (names, help) by heading; arguments and options without one come first."""
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for parameter in command.get_params(context):
        kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
        heading = getattr(parameter, "rich_help_panel", None) or kind
        if record := parameter.get_help_record(context):
            sections.setdefault(heading, []).append(record)
    return {heading: records for heading, records in sections.items() if records}


class _Command(TyperCommand):
    """A command whose help groups its options under their ``rich_help_panel``, without rich."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, the options without a heading, then the headings in order of appearance."""
        for heading, records in sections_of(self, ctx).items():
            with formatter.section(heading):
                formatter.write_dl(records)


def _command(name: str, function: Any) -> Any:
    group = function
    if not isinstance(function, typer.Typer):
        group = typer.Typer(add_completion=False, rich_markup_mode=None)
        group.command(name, cls=_Command)(function)
    command = typer.main.get_command(group)
    command.name = name
    return command


class _Group(TyperGroup):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands = _OnDemand(COMMANDS)


app = typer.Typer(
    name="rsedge",
    cls=_Group,
    help="Remote-sensing segmentation on edge hardware.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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
            help="File with options by command; all of them apply.",
            show_default="rsedge.toml in this folder, if only you can write it, without output files and addresses",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Read the defaults from ``rsedge.toml`` in the current folder before every command."""
    read_settings(context, settings)


def main() -> None:
    """Run the command line. Exit codes: 0 success, 1 failure, 2 wrong usage or input, 130 interrupted."""
    for stop in STOPS:
        signal.signal(stop, stopping.stop)
    restrict_process()
    try:
        app(prog_name="rsedge")
    except RsedgeError as error:
        common.complain_of(error, "" if error.exit_code == INTERRUPTED else "error: ")
        if isinstance(error, BackendError):
            common.complain(DOCTOR)
        sys.exit(error.exit_code)
    except OSError as error:  # such as a path that is too long or a folder without permission
        common.complain(f"error: {error}")
        sys.exit(1)
    except MemoryError:
        common.complain("error: out of memory. Close other programs or use a narrower raster.")
        sys.exit(1)
    except stopping.Interrupted:
        common.complain(stopping.interrupted())
        sys.exit(INTERRUPTED)
    finally:  # too late to interrupt, because the result is published or discarded
        stopping.ignore_stops()
