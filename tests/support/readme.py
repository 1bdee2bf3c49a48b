"""What README.md says: its blocks of code, the commands in them, code in its prose."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
_SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block; ``line`` is that of its first line of text, from 1."""

    line: int
    language: str
    text: str
    before: str  # the last paragraph before it, "" where another block stands there

    @property
    def commands(self) -> list[str]:
        """Of a block of sh: each line, without its comment."""
        return [re.sub(r"\s+#.*", "", line) for line in self.text.splitlines() if line.strip()]


@dataclass(frozen=True)
class Span:
    """Inline code, and the heading that it stands under."""

    line: int
    heading: str
    text: str


def blocks(path: Path = README) -> list[Block]:
    """All fenced blocks, in order."""
    found = list[Block]()
    language, begin, body, before, gap = "", 0, list[str](), "", True
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            if begin:
                found.append(Block(begin, language, "\n".join(body) + "\n", before))
                begin, body, before = 0, [], ""
            else:
                begin, language = number + 1, line[3:]
        elif begin:
            body.append(line)
        elif line.strip():
            before = line if gap or not before else f"{before}\n{line}"
        gap = not line.strip()
    return found


def prose(path: Path = README) -> Iterator[tuple[int, str, str]]:
    """Lines outside fenced blocks: number, the heading above, the text."""
    inside, heading = False, ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            heading = line.lstrip("# ") if line.startswith("#") else heading
            yield number, heading, line


def spans(path: Path = README) -> list[Span]:
    """All inline code."""
    return [
        Span(number, heading, text) for number, heading, line in prose(path) for text in _SPAN.findall(line)
    ]


def links(path: Path = README) -> list[str]:
    """Targets of all links and pictures."""
    return [target for _, _, line in prose(path) for target in re.findall(r"\]\(([^)]+)\)", line)]


def anchors(path: Path = README) -> set[str]:
    """What GitHub names the headings."""
    headings = (line.lstrip("# ") for _, _, line in prose(path) if line.startswith("#"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
