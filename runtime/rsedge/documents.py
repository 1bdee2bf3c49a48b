"""Text from untrusted files: files read once, JSON and TOML bounded in size and depth, printable names.

All functions of this module raise ValueError for invalid content, so that callers have one error to report.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

from rsedge.text import HIDDEN

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MOST_BYTES = 64 << 20  # default limit of a JSON file; rsedge's own have some thousands
MOST_TOML_BYTES = 1 << 20
MOST_DEPTH = 100  # of nested lists and objects, because code that walks them recurses
MOST_NAME = 200  # characters
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
