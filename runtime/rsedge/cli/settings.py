"""Options that come as a dataclass, and their defaults from ``rsedge.toml``."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import typer

from rsedge.cli.common import note
from rsedge.cli.flags import SETTINGS_NOTES
from rsedge.errors import InputError
from rsedge.files import is_trusted

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SETTINGS_NAME = "rsedge.toml"
SHARED = {"train": ("train-teacher", "distill")}  # a table whose entries count for several commands
OUTPUTS = frozenset({"out", "out-dir", "preview", "polygons", "csv", "map"})
PEERS = frozenset({"dask"})
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
        inspect.Parameter(f.name, keyword, default=f.default, annotation=hints[f.name])
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
    if own and not is_trusted(path):
        why = "another user's, or can be written by others"
        _tell(
            context, f"{path} (in this folder) is {why}: nothing is taken from it but with --settings {path}"
        )
        return
    # Newer typer brings its own click, so its classes cannot be named here.
    commands: dict[str, Any] = context.command.commands  # type: ignore[attr-defined]
    defaults: dict[str, dict[str, Any]] = {}
    taken: list[str] = []
    for table, entries in _tables(path).items():
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
                    defaults.setdefault(name, {})[parameter] = _as_typed(value)
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
        if _reaches_out(key, options[key], _as_typed(value)):
            raise InputError(
                f"{path}: [{table}] {key} replaces or names a file to be written, or is an address, which is not "
                f"taken from the current folder unasked; give it on the command line, or take all with `rsedge "
                f"--settings {path} ...`"
            )


def _as_typed(value: object) -> object:
    """A list as it is typed on the command line."""
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _tables(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES)
            tables = tomllib.loads(text.decode())
            more = file.read(1)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if more:
        raise InputError(f"{path} is larger than {MOST_BYTES >> 10} KiB; it is no settings file")
    return tables


def _reaches_out(option: str, parameter: Any, value: object) -> bool:
    """Whether an option's value says what is written or who is spoken to."""
    if option == "overwrite" or (option in OUTPUTS | PEERS and not parameter.is_flag):
        return True
    return isinstance(value, str) and any(sign in value for sign in ADDRESSES)


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
