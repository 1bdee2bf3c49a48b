"""Options that come as a dataclass, and their defaults from ``rsedge.toml``."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import typer

from rsedge.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SETTINGS_NAME = "rsedge.toml"
SHARED = {"train": ("train-teacher", "distill")}  # a table whose entries count for several commands
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


def read_settings(context: typer.Context, path: Path = Path(SETTINGS_NAME)) -> None:
    """Take the tables of ``rsedge.toml`` as defaults of the commands they are named after.

    Raises InputError for a file that cannot be read, a table that is no command and a key that is no option.
    """
    if not path.is_file():
        return
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    # Newer typer brings its own click, so its classes cannot be named here.
    commands: dict[str, Any] = context.command.commands  # type: ignore[attr-defined]
    defaults: dict[str, dict[str, Any]] = {}
    for table, entries in tables.items():
        names = SHARED.get(table, (table,))
        if not isinstance(entries, dict) or not set(names) <= set(commands):
            known = ", ".join(sorted({*SHARED, *commands}))
            raise InputError(f"{path}: [{table}] is no table of settings; allowed are {known}")
        options = {name: _options(commands[name]) for name in names}
        allowed = set.intersection(*(set(keys) for keys in options.values()))
        for key, value in entries.items():
            if key not in allowed:
                raise InputError(
                    f"{path}: [{table}] has no {key!r}; allowed are {', '.join(sorted(allowed))}"
                )
            listed = ",".join(map(str, value)) if isinstance(value, list) else value
            for name in names:
                # A command's own table wins over a shared one, wherever it stands in the file.
                if table not in SHARED or options[name][key] not in defaults.get(name, {}):
                    defaults.setdefault(name, {})[options[name][key]] = listed
    context.default_map = defaults


def _options(command: Any) -> dict[str, str]:
    """Long options of a command without their dashes, and the parameters behind them."""
    return {
        option.removeprefix("--"): parameter.name
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--") and option != "--help"
    }
