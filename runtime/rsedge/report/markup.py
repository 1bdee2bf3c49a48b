"""HTML and SVG built as a tree, so that every text and attribute is escaped when it is written."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias
from xml.etree.ElementTree import Element, tostring

# Python's own XML reader, and browsers, take none of these.
FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Child: TypeAlias = "Element | str | Iterable[Child] | None"


def el(tag: str, *children: Child, **attributes: object) -> Element:
    """An element. ``class_`` is written class, ``aria_label`` aria-label; None and False leave an attribute out,
    True leaves it empty. Of children, None is nothing, and what can be iterated over is its items.
    """
    names = {name: name.rstrip("_").replace("_", "-") for name in attributes}
    kept = {names[n]: v for n, v in attributes.items() if v is not None and v is not False}
    made = Element(tag, {n: "" if v is True else clean(str(v)) for n, v in kept.items()})
    _append(made, children)
    return made


def clean(text: str) -> str:
    """The text with what no page can hold (control characters, halves of pairs) replaced."""
    return FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)


def to_html(root: Element) -> str:
    """A whole page. Text inside script and style is written as it is: it must be ours."""
    return f"<!doctype html>\n{tostring(root, encoding='unicode', method='html')}\n"


def _append(parent: Element, children: Iterable[Child]) -> None:
    for child in children:
        if child is None:
            continue
        if isinstance(child, Element):
            parent.append(child)
        elif isinstance(child, str):
            text = clean(child)
            if len(parent):
                parent[-1].tail = (parent[-1].tail or "") + text
            else:
                parent.text = (parent.text or "") + text
        else:
            _append(parent, child)
