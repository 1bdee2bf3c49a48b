"""What the seeded fuzzers share: odd values, and ways to damage bytes, JSON and text."""

from __future__ import annotations

import copy
import json
import random
import re
from typing import Any

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 1e300, float("inf"), float("nan"), "", "x", "x" * 10_000,
    "\ud800", "\x1b[2J", "a\u202eb", "a\nb", [], {}, [[]], [1, 2], {"a": 1}, "../../etc/passwd", "/etc/passwd",
]  # fmt: skip
WORDS = [
    b"", b"0", b"-1", b"1", b"2", b"255", b"256", b"65536", b"2147483647", b"2147483648", b"4294967295",
    b"1e308", b"1e-308", b"1e999", b"-inf", b"nan", b"0x7f", b"9" * 400, b"x" * 5000, b"\xff\xfe\x80", b"\x00",
    b"&lt;", b"<", b">", b"%s%n%d", b"YES", b"NO", b"Byte", b"Float64", b"CFloat32", b"UInt16", b"Int8",
    b"../..", b"/etc/passwd", b"Alpha", b"Palette",
]  # fmt: skip
TOKEN = re.compile(rb"[A-Za-z_]+|-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?|\"[^\"]*\"")


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, part in inner for place in places(part, (*at, key)))][0 if at else 1 :]


def reworded(rng: random.Random, data: bytes) -> bytes:
    """A JSON text with some values of it exchanged, or gone."""
    facts = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        found = places(facts)
        if not found:
            break
        *path, last = rng.choice(found)
        inside = facts
        for key in path:
            inside = inside[key]
        if isinstance(inside, dict) and rng.random() < 0.15:
            del inside[last]
        else:
            inside[last] = copy.deepcopy(rng.choice(ODD))
    return json.dumps(facts).encode()


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Some bits flipped, a piece cut out, doubled or overwritten, or an end that is missing."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(found) + 1)
        size = rng.choice((1, 4, 30, 1000))
        way = rng.randrange(5)
        if way == 0 and at < len(found):
            found[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            del found[at : at + size]
        elif way == 2:
            found[at:at] = found[at : at + size]
        elif way == 3:
            found[at : at + size] = rng.randbytes(size)
        else:
            del found[at:]
    return bytes(found)


def retold(rng: random.Random, text: bytes) -> bytes:
    """A text with some of its words and numbers replaced, or swapped with others of it."""
    for _ in range(rng.randint(1, 3)):
        found = list(TOKEN.finditer(text))
        if not found:
            break
        token = rng.choice(found)
        word = rng.choice(WORDS) if rng.random() < 0.75 else rng.choice(found)[0]
        quoted = token[0].startswith(b'"') and not word.startswith(b'"')
        text = text[: token.start()] + (b'"%s"' % word if quoted else word) + text[token.end() :]
    return text
