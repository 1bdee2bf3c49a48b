"""Report of a check of labelled data, as text and as JSON values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rsedge.text import block, columns, printable

Size = tuple[int, int]  # width, height in pixels


@dataclass(frozen=True)
class SideReport:
    """Statistics of one split."""

    scenes: int
    rasters: int
    pixels: int
    smallest: Size | None  # by area, of the images that could be opened
    median: Size | None
    largest: Size | None
    class_pixels: tuple[int, ...]  # by class index, from the labels alone
    unlabelled: int  # pixels
    unknown: int  # pixels whose colour or value belongs to no class
    empty: int  # pixels of images without data; 0 if images were not read
    unlabelled_by: Mapping[str, int] = field(default_factory=dict)  # value or colour -> unlabelled pixels

    def share(self, index: int) -> float:
        """Return the share of a class among the labelled pixels."""
        return self.class_pixels[index] / max(1, sum(self.class_pixels))


@dataclass(frozen=True)
class Report:
    """Results of a check."""

    path: str
    layout: str
    classes: tuple[str, ...]  # () if unknown
    sides: Mapping[str, SideReport]  # train, val, test
    bands: Mapping[str, int]  # "3 x uint8, 1,2,3 as red, green, blue" -> rasters
    gsd_m: tuple[float, float] | None
    images_read: bool
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Return True if nothing prevents training."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {**asdict(self), "ok": self.ok}

    def to_text(self) -> str:
        """Return the report as text whose last line is ``ok`` or the number of problems."""
        lines = [
            f"data      {self.path} ({self.layout})",
            f"classes   {len(self.classes)}: {', '.join(self.classes)}"
            if self.classes
            else "classes   unknown",
            *_sides_table(self.sides),
            *(f"bands     {what} ({count} rasters)" for what, count in self.bands.items()),
            f"gsd       {_gsd(self.gsd_m)}",
            f"images    {'all read' if self.images_read else 'not read (labels only)'}",
            *_class_table(self.classes, self.sides),
            *(line for note in self.notes for line in block(f"note: {note}")),
            *(f"warning: {warning}" for warning in self.warnings),
            *(line for problem in self.problems for line in block(f"problem: {problem}")),
        ]
        count = len(self.problems)
        lines.append("ok" if self.ok else f"{count} problem{'s' * (count != 1)}")
        return "\n".join(map(printable, lines))


def _sides_table(sides: Mapping[str, SideReport]) -> list[str]:
    rows = [["split", "scenes", "rasters", "Mpx", "smallest", "median", "largest"]]
    rows += [
        [
            name,
            str(side.scenes),
            str(side.rasters),
            f"{side.pixels / 1e6:.2f}",
            *(
                f"{size[0]} x {size[1]}" if size else "-"
                for size in (side.smallest, side.median, side.largest)
            ),
        ]
        for name, side in sides.items()
        if side.rasters
    ]
    return columns(rows, right=True, least=8)


def _class_table(classes: Sequence[str], sides: Mapping[str, SideReport]) -> list[str]:
    shown = {name: side for name, side in sides.items() if side.rasters}
    if not classes or not shown:
        return []
    rows = [["class", *(text for name in shown for text in (f"{name} px", "share"))]]
    for index, name in enumerate(classes):
        cells = [(f"{s.class_pixels[index]:,}", f"{s.share(index):.1%}") for s in shown.values()]
        rows.append([name, *(text for pair in cells for text in pair)])
    for title, kind in (("unlabelled", "unlabelled"), ("no class", "unknown"), ("no data", "empty")):
        counts = [int(getattr(s, kind)) for s in shown.values()]
        if any(counts) or kind == "unlabelled":
            cells = [
                (f"{n:,}", f"{n / max(1, s.pixels):.1%}") for n, s in zip(counts, shown.values(), strict=True)
            ]
            rows.append([f"({title})", *(text for pair in cells for text in pair)])
    return [*columns(rows, right=True, least=8), *_unlabelled(shown.values())]


def _unlabelled(sides: Iterable[SideReport]) -> list[str]:
    """Return a line listing the values or colours treated as unlabelled."""
    found = sum((Counter(side.unlabelled_by) for side in sides), Counter[str]())
    listed = ", ".join(f"{value} ({pixels:,} px)" for value, pixels in found.most_common(5))
    return [f"treated as unlabelled: {listed}"] if listed else []


def _gsd(gsd_m: tuple[float, float] | None) -> str:
    if gsd_m is None:
        return "unknown: the images are not georeferenced"
    low, high = gsd_m
    return f"{low:.3g} m/pixel" if high - low < 0.01 * low else f"{low:.3g} to {high:.3g} m/pixel"
