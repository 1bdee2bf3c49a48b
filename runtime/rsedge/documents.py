"""Text from untrusted files: files read once, JSON and TOML bounded in size and depth, printable names.

`from_json` makes dataclasses of parsed JSON, so that a record is written and read by one definition. All
functions raise ValueError for invalid content, so that callers have one error to report.
"""

from __future__ import annotations

import json
import math
import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import cache
from itertools import repeat
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from rsedge.text import HIDDEN, printable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MOST_BYTES = 64 << 20  # default limit of a JSON file; rsedge's own have some thousands
MOST_TOML_BYTES = 1 << 20
MOST_DEPTH = 100  # of nested lists and objects, because code that walks them recurses
MOST_NAME = 200  # characters
MOST_SHOWN = 60  # characters of a wrong value, or of its key, in a message
Count = Annotated[int, 0]  # for fields of `from_json`: a whole number, at least that
T = TypeVar("T")
READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)  # does not wait for a pipe


def read_bytes(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Return the bytes of a regular file, opened once and without waiting for a pipe.

    Raises OSError if the file cannot be read, ValueError if it is not a regular file, exceeds ``most_bytes`` or
    changes during reading.
    """
    return read_open(os.open(path, READING), most_bytes)


def read_open(handle: int, most_bytes: int = MOST_BYTES) -> bytes:
    """Return the bytes of an open file, as `read_bytes`, and close it."""
    with open(handle, "rb", buffering=0) as file:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError("it is not a regular file")
        if facts.st_size > most_bytes:
            raise ValueError(f"it has {facts.st_size} bytes, but at most {most_bytes} are allowed")
        parts, left = list[bytes](), facts.st_size + 1
        while left and (part := file.read(left)):
            parts.append(part)
            left -= len(part)
    if left != 1:
        raise ValueError("it changed during reading")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def parse_json(text: str | bytes, most_bytes: int = MOST_BYTES) -> Any:
    """Parse a JSON text. Raises ValueError if the text is not JSON, too large or too deep."""
    _check_size(text, most_bytes)
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    _check_depth(value)
    return value


def parse_toml(text: str | bytes, most_bytes: int = MOST_TOML_BYTES) -> dict[str, Any]:
    """Parse a TOML text into a table. Raises ValueError if the text is not TOML, too large or too deep."""
    _check_size(text, most_bytes)
    try:
        table = tomllib.loads(text if isinstance(text, str) else text.decode())
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    _check_depth(table)
    return table


def odd_name(value: object, most: int = MOST_NAME) -> str | None:
    """Return why a value is not a printable name, as a phrase that follows the value; None if it is one."""
    if not isinstance(value, str):
        return f"is a {type(value).__name__}, not a text"
    if not value:
        return "is empty"
    if len(value) > most:
        return f"has {len(value)} characters, but at most {most} are allowed"
    odd = HIDDEN.search(value)
    return None if odd is None else f"contains the character U+{ord(odd[0]):04X}, which cannot be printed"


def from_json(
    kind: type[T], value: object, *, exact: bool = False, least: float = 0, most: float = sys.float_info.max
) -> T:
    """Make the dataclass ``kind`` from a parsed JSON object.

    Its fields may be of bool, int, `Count`, float, str, Any and dataclasses, of tuples and mappings of them, and each
    ``| None``. What is missing or null takes a field's default, or is None where the field may be. A key is the
    field's name without an underscore at its end: ``class_``. ``exact`` refuses keys that are no field's. ``least``
    and ``most`` bound the sizes of numbers other than 0. NaN and infinity are no numbers; where null may be, they are.

    Raises ValueError that names the place: ``rows[0].tile: expected a whole number, not "512 px"``.
    """
    found: T = _Loader(exact, least, most).read(kind, value, "")
    return found


class OtherSchemaError(ValueError):
    """JSON that another version of rsedge wrote."""


def without_schema(facts: Any, key: str, known: int) -> dict[str, Any]:
    """Return a parsed JSON object without the number of its schema, the value of ``key``.

    Raises OtherSchemaError if that is not ``known``, ValueError if it is missing or ``facts`` is not an object.
    """
    _expect(isinstance(facts, dict), "an object", facts, "")
    if key not in facts:
        raise ValueError(f"{key}: is missing")
    if facts[key] != known:
        raise OtherSchemaError(f"schema {facts[key]!r:.60}, but this rsedge reads {known}. Upgrade rsedge")
    return {k: v for k, v in facts.items() if k != key}


def to_dict(record: Any) -> dict[str, Any]:
    """Return the JSON object from which `from_json` makes the dataclass again."""
    return asdict(record, dict_factory=lambda pairs: {name.rstrip("_"): value for name, value in pairs})


@dataclass(frozen=True)
class _Loader:
    exact: bool
    least: float
    most: float

    def read(self, kind: Any, value: Any, where: str) -> Any:
        """Return the value as its annotation requires; ``where`` is its place, for messages."""
        reader, of = _reader(kind)
        return getattr(self, reader)(of, value, where)

    def _record(self, kind: Any, value: Any, where: str) -> Any:
        _expect(isinstance(value, dict), "an object", value, where)
        known, found = _fields(kind), {}
        if self.exact and (odd := value.keys() - known.keys()):
            raise ValueError(f"{_within(where, min(odd))}: no such key is known")
        for key, (name, of, needed) in known.items():
            at, held = _within(where, key), value.get(key)
            if held is None and not needed:
                continue
            if held is None and key not in value and NoneType not in get_args(of):
                raise ValueError(f"{at}: is missing")
            found[name] = self.read(of, held, at)
        try:
            return kind(**found)
        except ValueError as error:  # what the record says of itself
            raise ValueError(f"{where}: {error}" if where else str(error)) from error

    def _tuple(self, kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
        _expect(isinstance(value, list), "a list", value, where)
        if kinds[-1] is Ellipsis:
            kinds = (*repeat(kinds[0], len(value)),)
        _expect(len(value) == len(kinds), f"a list of {len(kinds)}", value, where)
        return tuple(
            self.read(of, held, f"{where}[{i}]")
            for i, (of, held) in enumerate(zip(kinds, value, strict=True))
        )

    def _mapping(self, kinds: tuple[Any, ...], value: Any, where: str) -> dict[Any, Any]:
        _expect(isinstance(value, dict), "an object", value, where)
        if kinds[0] is int and (odd := [key for key in value if not key.isdecimal()]):
            raise ValueError(f"{_within(where, odd[0])}: expected whole numbers as keys")
        return {kinds[0](key): self.read(kinds[1], held, _within(where, key)) for key, held in value.items()}

    def _optional(self, kinds: tuple[Any, ...], value: Any, where: str) -> Any:
        (kind,) = (k for k in kinds if k is not NoneType)
        unknown = value is None or (isinstance(value, float) and not math.isfinite(value))
        return None if unknown else self.read(kind, value, where)

    def _at_least(self, kinds: tuple[Any, ...], value: Any, where: str) -> Any:
        found = self.read(kinds[0], value, where)
        _expect(found >= kinds[1], f"{PLAIN[kinds[0]]} from {kinds[1]} on", value, where)
        return found

    def _plain(self, kind: Any, value: Any, where: str) -> Any:
        if kind is Any:
            return value
        _expect(type(value) in {kind, int if kind is float else kind}, PLAIN[kind], value, where)
        if kind in {int, float} and value and not self.least <= abs(value) <= self.most:
            raise ValueError(f"{where}: {_shown(value)} is beyond what can be measured or counted")
        return kind(value)


PLAIN: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@cache
def _reader(kind: Any) -> tuple[str, Any]:
    """Return the method that reads values of a kind, and its argument: the kinds of the parts, or the kind itself."""
    if is_dataclass(kind):
        return "_record", kind
    composed = {
        tuple: "_tuple",
        Mapping: "_mapping",
        Union: "_optional",
        UnionType: "_optional",
        Annotated: "_at_least",
    }
    reader = composed.get(get_origin(kind))
    return (reader, get_args(kind)) if reader else ("_plain", kind)


@cache
def _fields(kind: Any) -> dict[str, tuple[str, Any, bool]]:
    """Return the fields of a dataclass by key: name, annotation, and True if the field has no default."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        f.name.rstrip("_"): (f.name, hints[f.name], f.default is MISSING and f.default_factory is MISSING)
        for f in fields(kind)
        if f.init
    }


def _within(where: str, key: str) -> str:
    return f"{where}{'.' * bool(where)}{printable(key):.{MOST_SHOWN}}"


def _expect(is_so: bool, wanted: str, value: object, where: str) -> None:
    if not is_so:
        raise ValueError(f"{where}{': ' * bool(where)}expected {wanted}, not {_shown(value)}")


def _shown(value: object) -> str:
    said = json.dumps(value)
    return f"{said[:MOST_SHOWN]}{'...' * (len(said) > MOST_SHOWN)}"


TOO_DEEP = f"its lists and tables are nested deeper than {MOST_DEPTH}"


def _check_size(text: str | bytes, most_bytes: int) -> None:
    if len(text) > most_bytes:
        raise ValueError(f"it has {len(text)} bytes, but at most {most_bytes} are allowed")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ValueError(TOO_DEEP)
