"""What comes from outside as text: files read once, JSON and TOML bounded in size and depth, names fit to be printed.

Everything here raises ValueError for what cannot be right, so that a reader has one kind of error to put into words.
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

MOST_BYTES = 64 << 20  # of a JSON file, unless its reader says otherwise; ours have some thousands
MOST_TOML_BYTES = 1 << 20
MOST_DEPTH = 100  # of lists and objects in each other; whoever walks them does so by calling itself
MOST_NAME = 200  # characters
READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)  # waits for no pipe


def read_bytes(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file, by one opening; what is no file, such as a pipe, is not waited for.

    Raises OSError where it cannot be read, ValueError where it is no regular file, larger than ``most_bytes`` or
    changes meanwhile.
    """
    return read_open(os.open(path, READING), most_bytes)


def read_open(handle: int, most_bytes: int = MOST_BYTES) -> bytes:
    """As `read_bytes`, of a file that is open already, which it closes."""
    with open(handle, "rb", buffering=0) as file:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError("it is no regular file")
        if facts.st_size > most_bytes:
            raise ValueError(f"it has {facts.st_size} bytes, at most {most_bytes} are read")
        parts, left = list[bytes](), facts.st_size + 1
        while left and (part := file.read(left)):
            parts.append(part)
            left -= len(part)
    if left != 1:
        raise ValueError("it changed while it was read")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def parse_json(text: str | bytes, most_bytes: int = MOST_BYTES) -> Any:
    """The value that a JSON text holds. Raises ValueError where it is none, too large or too deep."""
    _check_size(text, most_bytes)
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    _check_depth(value)
    return value


def parse_toml(text: str | bytes, most_bytes: int = MOST_TOML_BYTES) -> dict[str, Any]:
    """The table that a TOML text holds. Raises ValueError where it is none, too large or too deep."""
    _check_size(text, most_bytes)
    try:
        table = tomllib.loads(text if isinstance(text, str) else text.decode())
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    _check_depth(table)
    return table


def odd_name(value: object, most: int = MOST_NAME) -> str | None:
    """Why a value is no name to print or to write into a file, to be put after it; None where it is one."""
    if not isinstance(value, str):
        return f"is a {type(value).__name__}, not a text"
    if not value:
        return "is empty"
    if len(value) > most:
        return f"has {len(value)} characters; at most {most} are a name"
    odd = HIDDEN.search(value)
    return None if odd is None else f"holds the character U+{ord(odd[0]):04X}, which cannot be printed"


TOO_DEEP = f"its lists and tables are nested deeper than {MOST_DEPTH}"


def _check_size(text: str | bytes, most_bytes: int) -> None:
    if len(text) > most_bytes:
        raise ValueError(f"it has {len(text)} bytes, at most {most_bytes} are read")


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
