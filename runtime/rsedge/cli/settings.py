"""Options that come as a dataclass, and their defaults from ``rsedge.toml``."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import typer

from rsedge.cli.common import note
from rsedge.cli.flags import SETTINGS_NOTES
from rsedge.documents import READING, parse_toml, read_open
from rsedge.errors import InputError
from rsedge.files import is_trusted

SETTINGS_NAME = "rsedge.toml"
SHARED = {"train": ("train-teacher", "distill")}  # a table whose entries count for several commands
OUTPUTS = frozenset(
    {"out", "out-dir", "preview", "polygons", "csv", "map", "bundle"}
)  # engines go into the last
PEERS = frozenset({"dask"})
CONSENT = frozenset({"overwrite", "allow"})  # the user's own, to what is not done otherwise
ADDRESSES = (
    "://",
    "/vsi",
    "hub:",
    "\\\\",
)  # in any value: URLs, GDAL's file systems, timm's hubs, other hosts' shares
MOST_BYTES = 256 << 10
Options = TypeVar("Options")


def with_options(
    kind: type[Options],
) -> Callable[[Callable[[Options, frozenset[str]], None]], Callable[..., None]]:
    """Make a command of a function of one dataclass, whose fields are ``Annotated`` typer options.

    The function also gets the names of the options that the user set, on the command line or in
    ``rsedge.toml``.
    """
    hints = get_type_hints(kind, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(
            f.name,
            keyword,
            default=inspect.Parameter.empty if f.default is dataclasses.MISSING else f.default,
            annotation=hints[f.name],
        )
        for f in dataclasses.fields(kind)  # type: ignore[arg-type]
    ]
    parameters.append(inspect.Parameter("context", keyword, annotation=typer.Context))

    def decorate(function: Callable[[Options, frozenset[str]], None]) -> Callable[..., None]:
        def command(context: typer.Context, **values: Any) -> None:
            sources = {name: context.get_parameter_source(name) for name in values}
            given = frozenset(name for name, source in sources.items() if source and source.name != "DEFAULT")
            function(kind(**values), given)

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def read_settings(context: typer.Context, path: Path | None = None) -> None:
    """Take the tables of a settings file as defaults of the commands they are named after.

    ``path`` None: ``rsedge.toml`` in the current folder, which may be somebody else's work. It is told of, left
    alone where others can write it, and names neither files to be written nor addresses.

    Raises InputError for a file that cannot be read, a table that is no command, a key that is no option, and an
    option of the command at hand that is not to be taken from there.
    """
    own = path is None
    path = path or Path(SETTINGS_NAME)
    if own and not path.is_file():
        return
    tables = _tables(path, own)
    if tables is None:
        why = "another user's, or can be written by others"
        _tell(
            context, f"{path} (in this folder) is {why}: nothing is taken from it but with --settings {path}"
        )
        return
    # Newer typer brings its own click, so its classes cannot be named here.
    commands: dict[str, Any] = context.command.commands  # type: ignore[attr-defined]
    defaults: dict[str, dict[str, Any]] = {}
    taken: list[str] = []
    for table, entries in tables.items():
        names = SHARED.get(table, (table,))
        if not isinstance(entries, dict) or not set(names) <= set(commands):
            known = ", ".join(sorted({*SHARED, *commands}))
            raise InputError(f"{path}: [{table}] is no table of settings; allowed are {known}")
        options = {name: _options(commands[name]) for name in names}
        _check_keys(path, table, entries, set.intersection(*(set(keys) for keys in options.values())))
        for name in names:
            now = name == context.invoked_subcommand
            if own and now:
                _check_kinds(path, table, entries, options[name])
            taken += [key for key in entries if now and key not in taken]
            for key, value in entries.items():
                # A command's own table wins over a shared one, wherever it stands in the file.
                parameter = options[name][key].name
                if table not in SHARED or parameter not in defaults.get(name, {}):
                    defaults.setdefault(name, {})[parameter] = _as_typed(value, options[name][key])
    context.default_map = defaults
    if taken:
        _tell(context, f"defaults from {path}{' (in this folder)' * own}: {', '.join(taken)}")


def _check_keys(path: Path, table: str, entries: Mapping[str, object], allowed: set[str]) -> None:
    for key in entries:
        if key not in allowed:
            raise InputError(f"{path}: [{table}] has no {key!r}; allowed are {', '.join(sorted(allowed))}")


def _check_kinds(path: Path, table: str, entries: Mapping[str, object], options: Mapping[str, Any]) -> None:
    """Raise InputError where an option is not to be taken from the current folder."""
    for key, value in entries.items():
        if _reaches_out(key, options[key], value):
            raise InputError(
                f"{path}: [{table}] {key} replaces or names a file to be written, lets files reach further, or is an "
                f"address, which is not taken from the current folder unasked; give it on the command line, or take "
                f"all with `rsedge --settings {path} ...`"
            )


def _as_typed(value: object, parameter: Any) -> object:
    """A value as it is typed on the command line: a list in one, but for options that are given several times."""
    if parameter.multiple:
        return value if isinstance(value, list) else [value]
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _tables(path: Path, own: bool) -> dict[str, Any] | None:
    """What the file holds; None where it is to be the user's ``own`` and is not."""
    try:
        handle = os.open(path, READING)
        if own and not is_trusted(path, handle):
            os.close(handle)
            return None
        return parse_toml(read_open(handle, MOST_BYTES))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _reaches_out(option: str, parameter: Any, value: object) -> bool:
    """Whether an option's value says what is written, who is spoken to or what others' files may do."""
    if option in CONSENT or (option in OUTPUTS | PEERS and not parameter.is_flag):
        return True
    return any(sign in str(value) for sign in ADDRESSES)


def _tell(context: typer.Context, text: str) -> None:
    """Keep a note until the command knows of --quiet; a command without that option has it at once."""
    command = context.command.commands.get(context.invoked_subcommand)  # type: ignore[attr-defined]
    if command is not None and "quiet" in {p.name for p in command.params}:
        context.meta.setdefault(SETTINGS_NOTES, []).append(text)
    elif command is not None:
        note(text, quiet=False)


def _options(command: Any) -> dict[str, Any]:
    """Long options of a command without their dashes, and the parameters behind them; none of no command."""
    return {
        option.removeprefix("--"): parameter
        for parameter in (command.params if command else ())
        for option in parameter.opts
        if option.startswith("--") and option != "--help"
    }
