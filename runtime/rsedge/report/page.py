"""The report page: one template rendered into one file that needs no network access."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from rsedge.bench.facts import EndToEnd
from rsedge.engine.stages import ALL_STAGES
from rsedge.errors import BackendError
from rsedge.report import figures, plots, summary, tables
from rsedge.report.accuracy import Scores
from rsedge.report.inputs import Inputs
from rsedge.report.pictures import Preview, fallback_color
from rsedge.report.repeat import commands
from rsedge.text import xml_text
from rsedge.version import __version__

if TYPE_CHECKING:
    from jinja2 import Template

GENERATOR = "rsedge report"
TEMPLATE, STYLE, SCRIPT = (Path(__file__).with_name(n) for n in ("page.html", "style.css", "script.js"))
FILTERS = ("number", "whole", "score", "percent", "seconds", "plural")


@cache
def template() -> Template:
    """Return the page's template, which escapes all text. Raises BackendError if Jinja2 is not installed."""
    try:
        from jinja2 import Environment, StrictUndefined  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise BackendError(
            'a report needs jinja2, which is not installed; run `pip install "rsedge[report]"`'
        ) from error
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, auto_reload=False
    )
    environment.filters |= {name: getattr(figures, name) for name in FILTERS}
    environment.globals |= {
        "NONE": figures.NONE,
        "against_accuracy": plots.against_accuracy,
        "bars": plots.bars,
        "combinations": combinations,
        "details": tables.details,
        "fallback_color": fallback_color,
        "gates": tables.gates,
        "results": tables.results,
        "stages_of": stages_of,
        "zip": zip,
    }
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def page(
    inputs: Inputs, preview: Preview | None = None, heading: str | None = None, command: str | None = None
) -> str:
    """Render the HTML. ``heading`` None: the models' names; ``command``: the command that makes this page.

    Raises BackendError if Jinja2 is not installed.
    """
    benches = [(bench, Scores.of(bench, inputs.evals)) for bench in inputs.benches]
    said = [summary.of_bench(*found) for found in benches] + [summary.of_eval(e) for e in inputs.evals]
    html = template().render(
        generator=GENERATOR,
        version=__version__,
        policy=_policy(preview is not None),
        style=STYLE.read_text(encoding="utf-8"),
        script=SCRIPT.read_text(encoding="utf-8"),
        heading=heading or summary.title(inputs.benches, inputs.evals),
        summary=said,
        spread=summary.spread_said(inputs.benches),
        preview=preview,
        colors={c.name: c.color for c in preview.classes} if preview else {},
        benches=benches,
        evals=inputs.evals,
        commands=[*commands(inputs), *([command] if command else [])],
    )
    return xml_text(html)


def _policy(scripted: bool) -> str:
    """Return the content security policy: only the page's own style, pictures and (if ``scripted``) script."""
    allowed = ["default-src 'none'", "img-src data:", "style-src 'unsafe-inline'"]
    if scripted:
        digest = hashlib.sha256(SCRIPT.read_bytes()).digest()
        allowed.append(f"script-src 'sha256-{base64.b64encode(digest).decode()}'")
    return "; ".join([*allowed, "base-uri 'none'", "form-action 'none'"])


def stages_of(run: EndToEnd | None) -> Mapping[str, float]:
    """Return the seconds of each stage that took time, in the order of ``ALL_STAGES``."""
    known = run.stages_s if run else {}
    return {name: known[name] for name in ALL_STAGES if known.get(name, 0) > 0}
