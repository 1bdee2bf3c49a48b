"""The page: head, summary, sections, in one file that asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from rsedge.report.accuracy import Scores
from rsedge.report.compare import compare
from rsedge.report.inputs import Inputs
from rsedge.report.markup import el, to_html
from rsedge.report.pictures import Preview
from rsedge.report.repeat import commands
from rsedge.report.scores import scores
from rsedge.report.sections import bench_section
from rsedge.report.summary import of_bench, of_eval, spread_said, title
from rsedge.version import __version__

GENERATOR = "rsedge report"
STYLE, SCRIPT = (Path(__file__).with_name(name) for name in ("style.css", "script.js"))


def page(
    inputs: Inputs, preview: Preview | None = None, heading: str | None = None, command: str | None = None
) -> str:
    """The HTML. ``heading`` None: the models' names; ``command``: the one that makes this page."""
    named = heading or title(inputs.benches, inputs.evals)
    found = [Scores.of(bench, inputs.evals) for bench in inputs.benches]
    said = [of_bench(b, s) for b, s in zip(inputs.benches, found, strict=True)]
    said += [of_eval(e) for e in inputs.evals]
    spread = spread_said(inputs.benches)
    colors = {c.name: c.color for c in preview.classes} if preview else {}
    body = el(
        "body",
        el(
            "header",
            el("p", "rsedge report", class_="kind"),
            el("h1", named),
            *(el("p", text, class_="summary") for text in said),
            el("p", spread, class_="note") if spread else None,
        ),
        el(
            "main",
            compare(preview) if preview else None,
            *(
                bench_section(b, s, f"bench{i}")
                for i, (b, s) in enumerate(zip(inputs.benches, found, strict=True))
            ),
            *(scores(e, colors, f"eval{i}") for i, e in enumerate(inputs.evals)),
            _repeat([*commands(inputs), *([command] if command else [])]),
        ),
        el(
            "footer", f"Made by rsedge {__version__}. This page is one file and asks the network for nothing."
        ),
        el("script", SCRIPT.read_text(encoding="utf-8")) if preview else None,
    )
    return to_html(el("html", _head(named, preview is not None), body, lang="en"))


def _head(named: str, scripted: bool) -> Element:
    allowed = ["default-src 'none'", "img-src data:", "style-src 'unsafe-inline'"]
    if scripted:
        digest = hashlib.sha256(SCRIPT.read_bytes()).digest()
        allowed.append(f"script-src 'sha256-{base64.b64encode(digest).decode()}'")
    policy = "; ".join([*allowed, "base-uri 'none'", "form-action 'none'"])
    return el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="generator", content=f"{GENERATOR} {__version__}"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"{named}: rsedge report"),
        el("link", rel="icon", href="data:,"),
        el("style", STYLE.read_text(encoding="utf-8")),
    )


def _repeat(lines: Sequence[str]) -> Element:
    return el(
        "section",
        el("h2", "How to repeat this", id="repeat"),
        el(
            "p",
            "What the files do not tell, such as where an eval’s data lie, is to be added.",
            class_="note",
        ),
        el("pre", el("code", "\n".join(lines)), tabindex=0),
        aria_labelledby="repeat",
    )
