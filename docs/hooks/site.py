"""MkDocs events: fill in what is generated, and mend links that lead out of the docs folder.

A page asks for generated text by a comment on a line of its own:

    <!-- table: peers -->           a table of benchmarks/results (``results``)
    <!-- commands -->               the reference of the command line (``commands``)
    <!-- include: CHANGELOG.md -->  a file of the repository

Links in the pages are those of the repository, so that they also work where the repository is read. On the site a
picture outside docs/ is copied, a file that has a page becomes that page, and any other file loses its link.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import commands
import results
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "docker/README.md": "device.md",
}
PICTURES = ("preview", "report", "distillation")  # of benchmarks/results
_MARK = re.compile(r"^<!-- (table|include|commands)(?:: (\S+))? -->$", re.MULTILINE)
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the pictures of the results to the site."""
    for name in PICTURES:
        path = ROOT / "benchmarks" / "results" / f"{name}.png"
        files.append(File.generated(config, f"images/{name}.png", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the page's text with generated parts filled in and links of the site."""
    folder = posixpath.dirname(page.file.src_uri)
    text = _MARK.sub(lambda mark: _generate(mark[1], mark[2]), markdown)
    parts = _FENCE.split(text)
    return "".join(
        part if part.startswith("```") else _LINK.sub(lambda link: _link(link, folder), part)
        for part in parts
    )


def _generate(kind: str, name: str | None) -> str:
    if kind == "commands":
        return commands.reference()
    if kind == "table":
        if name not in results.TABLES:
            raise PluginError(f"no table {name!r}; docs/hooks/results.py has {', '.join(results.TABLES)}")
        return results.TABLES[name]()
    path = ROOT / (name or "")
    text = path.read_text(encoding="utf-8")
    # Its links are relative to its folder; from a page directly under docs/ they begin one folder up.
    base = posixpath.join("..", posixpath.dirname(name or ""))
    return _LINK.sub(lambda link: _moved(link, base), text)


def _moved(link: re.Match[str], base: str) -> str:
    target = link[3] if "://" in link[3] else posixpath.normpath(posixpath.join(base, link[3]))
    return f"{link[1]}[{link[2]}]({target.removeprefix('../docs/')}{link[4] or ''})"


def _link(link: re.Match[str], folder: str) -> str:
    picture, text, target, anchor = link[1], link[2], link[3], link[4] or ""
    path = posixpath.normpath(posixpath.join("docs", folder, target))
    if "://" in target or path.startswith("docs/"):
        return link[0]
    up = posixpath.relpath(".", folder or ".")
    if picture and path.startswith("benchmarks/results/"):
        return f"![{text}]({posixpath.join(up, 'images', posixpath.basename(path))})"
    if path in PAGES:
        return f"[{text}]({posixpath.join(up, PAGES[path])}{anchor})"
    if not (ROOT / path).exists():
        raise PluginError(f"a link leads to {target}, which is not in the repository")
    return text
