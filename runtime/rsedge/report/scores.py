"""What an eval found: each class, and which is taken for which."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree.ElementTree import Element

from rsedge.report.evals import ClassScore, Eval
from rsedge.report.figures import NONE, percent, plural, score
from rsedge.report.markup import el
from rsedge.report.pictures import fallback_color

MOST_CLASSES = 40  # in a confusion matrix: more cannot be read
Colors = Mapping[str, tuple[int, int, int]]


def scores(found: Eval, colors: Colors, ident: str) -> Element:
    """A section on one eval. ``colors``: of classes by name, as far as they are known."""
    known = {c.name: colors.get(c.name, fallback_color(i)) for i, c in enumerate(found.classes)}
    named = " ".join(t for t in (found.model, found.precision) if t)
    ran = f", run by {found.provider}" if found.provider else ""
    rasters = "" if found.rasters is None else f"{plural(found.rasters, 'raster')}, "
    said = f"From {found.source}: {rasters}{found.pixels / 1e6:,.2f} Mpx labelled{ran}. Counted once, so no spread."
    return el(
        "section",
        el("h2", f"Scores of {named}", id=ident),
        el("p", said, class_="note"),
        _means(found),
        el("div", _classes(found, known), _confusion(found, known), class_="pair"),
        el("ul", *(el("li", note) for note in found.notes), class_="notes") if found.notes else None,
        aria_labelledby=ident,
    )


def _means(found: Eval) -> Element:
    always = ""
    if found.majority is not None:
        miou, oa = found.majority.number("miou"), found.majority.number("oa")
        always = (
            f"Always “{found.majority.text('class')}” would score mIoU {score(miou)}, accuracy {score(oa)}."
        )
    figures = (("mIoU", found.miou), ("mean F1", found.mean_f1), ("overall accuracy", found.oa))
    cards = [el("div", el("dt", name), el("dd", score(value))) for name, value in figures]
    return el("div", el("dl", *cards, class_="means"), el("p", always, class_="note") if always else None)


def _classes(found: Eval, colors: Colors) -> Element:
    total = max(1, sum(c.pixels for c in found.classes))
    rows = [
        el(
            "tr",
            el("th", _swatch(colors[c.name]), c.name, scope="row"),
            _bar(c.iou, "iou"),
            _bar(c.f1, "f1"),
            el("td", percent(c.pixels / total), class_="share"),
        )
        for c in found.classes
    ]
    heads = [el("th", head, scope="col") for head in ("class", "IoU", "F1", "share")]
    return el(
        "div",
        el(
            "table",
            el("caption", "Each class: IoU, F1, and its share of the true pixels"),
            el("thead", el("tr", *heads)),
            el("tbody", *rows),
            class_="classes",
        ),
        class_="scroll",
        tabindex=0,
        role="region",
        aria_label="Each class",
    )


def _bar(value: float | None, kind: str) -> Element:
    if value is None:
        return el("td", NONE, class_="bar")
    rect = el("rect", width=f"{100 * min(1, max(0, value)):.1f}%", height="100%", class_=kind)
    ground = el("rect", width="100%", height="100%", class_="ground")
    bar = el("svg", ground, rect, width="100%", height=8, aria_hidden="true")
    return el("td", el("span", score(value)), bar, class_="bar")


def _swatch(color: tuple[int, int, int]) -> Element:
    return el("span", class_="swatch", style=f"background:rgb({','.join(map(str, color))})")


def _confusion(found: Eval, colors: Colors) -> Element:
    if len(found.classes) > MOST_CLASSES:
        return el(
            "p",
            f"The confusion matrix of {len(found.classes)} classes is too large to read here; it is in {found.source}.",
            class_="note",
        )
    heads = [
        el("th", el("span", _swatch(colors[c.name]), c.name), scope="col", class_="turned")
        for c in found.classes
    ]
    body = [
        el("tr", el("th", c.name, scope="row"), *_confused(c, counts, i, found.classes))
        for i, (c, counts) in enumerate(zip(found.classes, found.confusion, strict=True))
    ]
    caption = "% of each class’s true pixels, by what the mask says"
    return el(
        "div",
        el(
            "table",
            el("caption", caption),
            el("thead", el("tr", el("th", "truth \\ mask", scope="col", class_="corner"), *heads)),
            el("tbody", *body),
            class_="confusion",
        ),
        class_="scroll",
        tabindex=0,
        role="region",
        aria_label="Confusion matrix",
    )


def _confused(
    true: ClassScore, counts: tuple[int, ...], place: int, classes: tuple[ClassScore, ...]
) -> list[Element]:
    total = sum(counts)
    cells = []
    for column, (mask, count) in enumerate(zip(classes, counts, strict=True)):
        share = count / total if total else 0
        said = f"{true.name} taken for {mask.name}: {count:,} of {total:,} px"
        shown = (
            NONE if not total else "0" if not count else "<0.1" if share < 0.0005 else f"{share * 100:.1f}"
        )
        cells.append(
            el(
                "td",
                shown,
                title=said,
                class_="hit" if column == place else None,
                style=f"--share:{share:.3f}",
            )
        )
    return cells
