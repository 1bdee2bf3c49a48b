"""The before/after slider: pictures side by side, laid over one another where scripts run."""

from __future__ import annotations

from itertools import combinations
from xml.etree.ElementTree import Element

from rsedge.report.figures import percent
from rsedge.report.markup import el
from rsedge.report.pictures import Preview

SAID = {
    "image": "The image",
    "mask": "The mask that the model made of it, a colour a class",
    "truth": "The truth, a colour a class",
}
COARSE = 480  # px: smaller pictures are shown with their pixels


def compare(preview: Preview) -> Element:
    """Pictures with a legend. Without scripts they stay side by side, and the controls hidden."""
    panes = [
        el(
            "figure",
            el("figcaption", pane.name),
            el("img", src=pane.uri, alt=SAID[pane.name], width=preview.width, height=preview.height),
            data_pane=pane.name,
        )
        for pane in preview.panes
    ]
    return el(
        "section",
        el("h2", "Before and after", id="compare"),
        el("p", preview.said, class_="note"),
        el(
            "div",
            _choices([pane.name for pane in preview.panes]),
            _legend(preview),
            el(
                "div",
                *panes,
                el("div", class_="line", hidden=True),
                el("input", type="range", min=0, max=100, step=1, value=50, hidden=True),
                class_="panes",
            ),
            class_=f"compare{' coarse' * (max(preview.width, preview.height) < COARSE)}",
            style=f"--ratio:{preview.width / preview.height:.4f}",
        ),
        aria_labelledby="compare",
    )


def _choices(names: list[str]) -> Element:
    pairs = list(combinations(names, 2))
    chosen = [
        el(
            "label",
            el("input", type="radio", name="pair", value=f"{a} {b}", checked=i == 0),
            el("span", f"{a} | {b}"),
        )
        for i, (a, b) in enumerate(pairs)
    ]
    return el("fieldset", el("legend", "Compare"), *chosen, class_="choices", hidden=True)


def _legend(preview: Preview) -> Element:
    entries = [
        el(
            "li",
            el("span", class_="swatch", style=f"background:rgb({','.join(map(str, c.color))})"),
            f"{c.name} ",
            el("small", percent(share)),
        )
        for c, share in zip(preview.classes, preview.shares, strict=True)
    ]
    return el("ul", *entries, class_="legend", aria_label="Classes, with their shares of the mask")
