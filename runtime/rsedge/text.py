"""Escaping of foreign text for a terminal, a log, XML or a spreadsheet.

Names of files, classes and models come from other people. Unescaped, they could colour a terminal, forge a line of
a log, or run as a formula.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Controls, C0 and C1; surrogates, which cannot be encoded; marks of direction and line breaks; invisible characters.
# Joiners (U+200C, U+200D) are kept, because Persian and Hindi need them.
HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # beginnings that make a cell a formula


def printable(text: str) -> str:
    """Return the text on one line, with invisible and control characters escaped."""
    return text if text.isprintable() else HIDDEN.sub(_escaped, text)


def block(text: str) -> list[str]:
    """Return the text's lines, each `printable`, indented after the first, so that none looks like a new message."""
    first, *others = text.split("\n")
    return [printable(first), *(f"    {printable(line)}" for line in others)]


def columns(rows: Sequence[Sequence[str]], *, right: bool = False, least: int = 0) -> list[str]:
    """Lines of a table for a terminal, cells `printable`; ``right``: all columns but the first end flush.

    ``least`` characters are the first column's.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    first, *others = (max(map(len, column)) for column in zip(*cells, strict=True))
    marks = [f"<{max(first, least)}", *(f"{'>' if right else '<'}{width}" for width in others)]
    return ["  ".join(map(format, row, marks)).rstrip() for row in cells]


def xml_text(text: str) -> str:
    """Return the text with U+FFFD in place of every character that XML cannot hold. Markup is not escaped."""
    return text if text.isprintable() else NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def csv_cell(value: object) -> object:
    """Return a value for a CSV file, with ``'`` before a text that a spreadsheet would take for a formula."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if value.startswith(FORMULA) else text


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
