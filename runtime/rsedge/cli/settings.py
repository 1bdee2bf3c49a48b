"""Commands whose options are a dataclass, and option defaults from ``rsedge.toml``."""

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
SHARED = {"train": ("train-teacher", "distill")}  # a table whose entries apply to several commands
OUTPUTS = frozenset(
    {"out", "out-dir", "preview", "polygons", "summary", "csv", "map", "bundle"}
)  # engines are written into the bundle
PEERS = frozenset({"dask"})
CONSENT = frozenset({"overwrite", "allow"})  # the user's own consent to what is refused otherwise
ADDRESSES = (
    "://",
    "/vsi",
    "hub:",
    "\\\\",
)  # in any value: URLs, GDAL's file systems, timm's hubs, network shares
MOST_BYTES = 256 << 10
Options = TypeVar("Options")


def with_options(
    kind: type[Options],
) -> Callable[[Callable[[Options, frozenset[str]], None]], Callable[..., None]]:
    """Turn a function of one dataclass, whose fields are ``Annotated`` typer options, into a command.

    The function also receives the names of the options set on the command line or in ``rsedge.toml``.
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
    """Use the tables of a settings file as option defaults of the commands with their names.

    ``path`` None means ``rsedge.toml`` in the current folder, which somebody else may have written. Its use is
    noted, it is ignored if others can write it, and it may name neither output files nor addresses.

    Raises InputError if the file cannot be read, a table is not a command, a key is not an option, or an option of
    the invoked command must not be set by that file.
    """
    own = path is None
    path = path or Path(SETTINGS_NAME)
    if own and not path.is_file():
        return
    tables = _tables(path, own)
    if tables is None:
        why = "belongs to another user or can be written by others"
        _tell(context, f"{path} (in this folder) {why}, so it is ignored; use it with --settings {path}")
        return
    # Not imported, because newer versions of typer bring a click of their own.
    commands: dict[str, Any] = context.command.commands  # type: ignore[attr-defined]
    defaults: dict[str, dict[str, Any]] = {}
    taken: list[str] = []
    for table, entries in tables.items():
        names = SHARED.get(table, (table,))
        if not isinstance(entries, dict) or not set(names) <= set(commands):
            known = ", ".join(sorted({*SHARED, *commands}))
            raise InputError(f"{path}: [{table}] is not a table of settings; allowed are {known}")
        options = {name: _options(commands[name]) for name in names}
        _check_keys(path, table, entries, set.intersection(*(set(keys) for keys in options.values())))
        for name in names:
            now = name == context.invoked_subcommand
            if own and now:
                _check_kinds(path, table, entries, options[name])
            taken += [key for key in entries if now and key not in taken]
            for key, value in entries.items():
                # A command's own table overrides a shared one, wherever it stands in the file.
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
    """Raise InputError if an option must not be set by a file in the current folder."""
    for key, value in entries.items():
        if _reaches_out(key, options[key], value):
            raise InputError(
                f"{path}: [{table}] {key} sets an output file, a permission or an address, which a file in the current "
                "folder must not do. Give it on the command line, or accept the whole file with "
                f"`rsedge --settings {path} ...`."
            )


def _as_typed(value: object, parameter: Any) -> object:
    """Return a value as typed on the command line: a list as one text, unless the option can be repeated."""
    if parameter.multiple:
        return value if isinstance(value, list) else [value]
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _tables(path: Path, own: bool) -> dict[str, Any] | None:
    """Return the file's tables, or None if it must be the user's ``own`` file but is not."""
    try:
        try:
            handle = os.open(path, READING)
        except OSError:
            if own and not is_trusted(path):
                return None  # somebody else's unreadable file stops no command
            raise
        if own and not is_trusted(path, handle):
            os.close(handle)
            return None
        return parse_toml(read_open(handle, MOST_BYTES))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _reaches_out(option: str, parameter: Any, value: object) -> bool:
    """Return True if an option sets an output, a peer, a permission or an address."""
    if option in CONSENT or (option in OUTPUTS | PEERS and not parameter.is_flag):
        return True
    return any(sign in str(value) for sign in ADDRESSES)


def _tell(context: typer.Context, text: str) -> None:
    """Keep a note until --quiet is known; print it at once if the command lacks that option."""
    command = context.command.commands.get(context.invoked_subcommand)  # type: ignore[attr-defined]
    if command is not None and "quiet" in {p.name for p in command.params}:
        context.meta.setdefault(SETTINGS_NOTES, []).append(text)
    elif command is not None:
        note(text, quiet=False)


def _options(command: Any) -> dict[str, Any]:
    """Return the command's parameters by long option without dashes; {} without a command."""
    return {
        option.removeprefix("--"): parameter
        for parameter in (command.params if command else ())
        for option in parameter.opts
        if option.startswith("--") and option != "--help"
    }
