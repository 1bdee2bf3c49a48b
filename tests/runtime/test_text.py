"""Foreign text: escaped and on one line."""

from __future__ import annotations

import csv
import io
import unicodedata
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsedge.text import block, columns, csv_cell, printable, xml_text

EVERYTHING = st.text(st.characters())  # surrogates, too
# Unicode's classes of what is not seen as itself, but for the joiners that some languages are written with.
UNSEEN = {"Cc", "Cs", "Zl", "Zp"}
BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@given(EVERYTHING)
def test_what_is_shown_is_seen_and_one_line(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert not {unicodedata.category(c) for c in shown} & UNSEEN
    assert not {unicodedata.bidirectional(c) for c in shown} & BIDI
    shown.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("new\nline\r", r"new\nline\r"),
        ("\ud800", r"\ud800"),
        ("a\u202eb", r"a\u202eb"),
        ("\x9b2J", r"\x9b2J"),
        ("\u2066x\u2028", r"\u2066x\u2028"),
        ("Gebäude, 水, می\u200cخواهم, 🌳", "Gebäude, 水, می\u200cخواهم, 🌳"),
        ("C:\\new", "C:\\new"),
    ],
)
def test_only_what_deceives_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(EVERYTHING)
def test_a_later_line_of_a_note_is_no_first_line(text: str) -> None:
    first, *others = block(f"note: {text}")
    assert first.startswith("note: ")
    assert all(line.startswith("    ") for line in others)


@given(EVERYTHING)
def test_xml_is_well_formed_whatever_is_in_it(text: str) -> None:
    element = ET.Element("a")
    element.text = xml_text(text)
    found = ET.fromstring(ET.tostring(element, encoding="utf-8")).text or ""
    assert found == xml_text(text).replace("\r\n", "\n").replace("\r", "\n") or "\r" in text


@given(EVERYTHING)
def test_no_cell_is_a_formula(text: str) -> None:
    out = io.StringIO()
    csv.writer(out).writerow([csv_cell(text), "end"])
    ((cell, end),) = csv.reader(io.StringIO(out.getvalue(), newline=""))
    assert end == "end"
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))


def test_numbers_stay_numbers() -> None:
    assert csv_cell(-1.5) == -1.5
    assert csv_cell("=1+1") == "'=1+1"
    assert csv_cell("b0") == "b0"


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    rows = [["", "model", "MB"], ["1", "b\x1b0", "24.6"], ["12", "x", ""]]
    assert columns(rows) == ["    model   MB", "1   b\\x1b0  24.6", "12  x"]
    assert columns(rows, right=True, least=4) == ["       model    MB", "1     b\\x1b0  24.6", "12         x"]
    assert columns([["", ""]]) == [""]
