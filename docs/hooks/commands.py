"""The reference of the command line, made from the commands themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

from rsedge.cli.main import app, sections_of


def reference() -> str:
    """Return Markdown: a section a command, with its usage and a table of its options."""
    group = typer.main.get_command(app)
    return "\n".join(line for name, command in _walk(group, "rsedge") for line in _section(name, command))


def _walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the command and all below it, by their full names."""
    yield name, command
    for word, below in getattr(command, "commands", {}).items():
        yield from _walk(below, f"{name} {word}")


def _section(name: str, command: Any) -> Iterator[str]:
    context = command.context_class(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    yield from (f"## {name}", "", "```text", usage, "```", "", command.help or "", "")
    for heading, records in sections_of(command, context).items():
        yield from (f"| {heading} | |", "|---|---|")
        yield from (f"| `{names}` | {_cell(text)} |" for names, text in records)
        yield ""


def _cell(text: str) -> str:
    """Return help as a table's cell; what stands between backticks is code already."""
    words = " ".join(text.split()).replace("|", "\\|")
    return "".join(
        part if part.startswith("`") else part.replace("<", "&lt;").replace("*", "\\*")
        for part in re.split(r"(`[^`]*`)", words)
    )
