"""What README.md and the pages of docs/ say: their blocks of code, the commands in them, code in their prose."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# In the order in which they are read, so that a page finds what those before it left.
PAGES = (
    ROOT / "README.md",
    *(ROOT / "docs" / name for name in re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)),
)
NOT_RUN = "Not run here"  # in the paragraph before a block: its commands need something that tests lack
_SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block; ``line`` is that of its first line of text, from 1."""

    page: Path
    line: int
    language: str
    text: str
    before: str  # the last paragraph before it, "" where another block stands there

    @property
    def place(self) -> str:
        """Its page and line."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Of a block of sh: each line, without its comment."""
        return [re.sub(r"\s+#.*", "", line) for line in self.text.splitlines() if line.strip()]


@dataclass(frozen=True)
class Span:
    """Inline code."""

    page: Path
    line: int
    text: str


def blocks(path: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    found = list[Block]()
    language, begin, body, before, gap = "", 0, list[str](), "", True
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            if begin:
                found.append(Block(path, begin, language, "\n".join(body) + "\n", before))
                begin, body, before = 0, [], ""
            else:
                begin, language = number + 1, line[3:]
        elif begin:
            body.append(line)
        elif line.strip():
            before = line if gap or not before else f"{before}\n{line}"
        gap = not line.strip()
    return found


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Lines outside fenced blocks: number, text."""
    inside = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            yield number, line


def spans(path: Path) -> list[Span]:
    """All inline code of a page."""
    return [Span(path, number, text) for number, line in prose(path) for text in _SPAN.findall(line)]


def links(path: Path) -> list[str]:
    """Targets of all links and pictures of a page."""
    return [target for _, line in prose(path) for target in re.findall(r"\]\(([^)]+)\)", line)]


def anchors(path: Path) -> set[str]:
    """What GitHub and MkDocs name the headings of a page."""
    headings = (line.lstrip("# ") for _, line in prose(path) if line.startswith("#"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
