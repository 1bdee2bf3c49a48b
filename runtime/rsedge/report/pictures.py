"""Pictures of a report: image, mask and truth, thinned by the same factor and encoded as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rsedge.documents import parse_json
from rsedge.errors import InputError
from rsedge.infer.preview import PAPER, displayable
from rsedge.model.manifest import NODATA, ClassInfo
from rsedge.raster import RasterReader, thinned, thinned_rgb
from rsedge.raster.writer import CLASSES_TAG, tag_of
from rsedge.score.evaluation import check_grids, check_labels
from rsedge.score.labels import LabelColors
from rsedge.score.truth import LabelReader, settle

LONGEST = 900  # px a side
MOST_CHARS = 2_400_000  # for all pictures together, so that the page stays under 3 MB
QUALITY = 84  # of the JPEG
# Colours for classes that have none.
PALETTE = ("3b78c2", "d9822b", "3f9c4f", "c23b4b", "8564b8", "8c6d46", "d46fae", "6b7280", "b3a51d", "2aa6b3")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Sources:
    """The rasters to show. ``classes``: TOML table of the truth's colours; None: the mask's own colours."""

    raster: Path
    mask: Path
    truth: Path | None = None
    classes: Path | None = None


@dataclass(frozen=True)
class Pane:
    """One picture; ``uri`` holds its data."""

    name: str
    uri: str


@dataclass(frozen=True)
class Preview:
    """Pictures of the same size, and their classes, each with its share of the mask's pixels."""

    panes: tuple[Pane, ...]
    width: int
    height: int
    classes: tuple[ClassInfo, ...]
    shares: tuple[float, ...]
    said: str


def read_preview(
    sources: Sources, names: Sequence[tuple[str, ...]] = (), progress: Progress | None = None
) -> Preview:
    """Read and encode the pictures. ``names``: the classes of each eval; the mask's must equal one of them.

    ``progress`` is called with (rows read, rows in all). Raises InputError if a raster cannot be read, or if the
    rasters differ in size, position or classes.
    """
    with RasterReader(sources.raster) as image, RasterReader(sources.mask) as mask:
        check_grids(image, mask)
        rows, rasters = image.grid.height, 2 + (sources.truth is not None)

        def report(before: int, done: int) -> None:
            if progress:
                progress(before * rows + done, rasters * rows)

        pixels, valid = thinned_rgb(image, LONGEST, partial(report, 0))
        values, holds = thinned(mask, LONGEST, progress=partial(report, 1))
        classes = _classes(mask, values, names)
        labels = {"mask": np.where(holds, values[0], NODATA).astype(np.uint8)}
        if sources.truth is not None:
            labels["truth"] = _truth(sources, image, classes, partial(report, 2))
    counts = np.bincount(labels["mask"].ravel(), minlength=NODATA + 1)[: len(classes)]
    shares = tuple((counts / max(1, counts.sum())).tolist())
    said = f"{image.grid.width} × {image.grid.height} px, from {Path(image.path).name}"
    panes, height, width = _encoded(displayable(pixels, valid), labels, classes)
    if width < image.grid.width:
        said += f"; shown at {width} × {height}"
    return Preview(panes, width, height, classes, shares, said)


def fallback_color(place: int) -> tuple[int, int, int]:
    """Return the colour (red, green, blue) of a class without one; ``place`` is the index of the class."""
    red, green, blue = bytes.fromhex(PALETTE[place % len(PALETTE)])
    return red, green, blue


def _classes(
    mask: RasterReader, values: NDArray[Any], names: Sequence[tuple[str, ...]]
) -> tuple[ClassInfo, ...]:
    """Return the mask's classes: names from its tag, else the eval, else numbers; colours from its palette."""
    if mask.dtypes != ("uint8",):
        raise InputError(
            f"{mask.path} is not a mask: it has {len(mask.dtypes)} bands of {mask.dtypes[0]}; give one band of "
            "uint8, as `rsedge infer` writes it"
        )
    highest = int(values[values != NODATA].max(initial=0))
    known = _names_of_tag(tag_of(Path(mask.path), CLASSES_TAG))
    if known and names and known not in names:
        raise InputError(
            f"{mask.path} has the classes {', '.join(known)}, the eval has {', '.join(names[0])}; give the mask of the "
            "model that was scored"
        )
    known = known or next(iter(names), ()) or tuple(f"class {i}" for i in range(highest + 1))
    if highest >= len(known):
        raise InputError(f"{mask.path} holds the value {highest}; its classes are 0 to {len(known) - 1}")
    palette = mask.colormap() or {}
    colors = [palette[i][:3] if i in palette else fallback_color(i) for i in range(len(known))]
    return tuple(
        ClassInfo(n or f"class {i}", (c[0], c[1], c[2]))
        for i, (n, c) in enumerate(zip(known, colors, strict=True))
    )


def _names_of_tag(tag: str | None) -> tuple[str, ...]:
    """Parse the class names that ``rsedge infer`` writes, by value; () if there is no valid tag."""
    try:
        names = parse_json(tag or "{}")
        return tuple(str(names[str(i)]) for i in range(len(names)))
    except (ValueError, KeyError, TypeError):
        return ()


def _truth(
    sources: Sources, image: RasterReader, classes: tuple[ClassInfo, ...], progress: Callable[[int], None]
) -> NDArray[np.uint8]:
    names = tuple(c.name for c in classes)
    own = LabelColors.of_classes(classes)
    colors = LabelColors.read(sources.classes, names) if sources.classes else own
    assert sources.truth is not None
    colors, _ = settle(colors, [sources.truth], len(classes))
    with LabelReader(sources.truth, colors, len(classes)) as truth:
        check_labels(image, truth.raster)
        decoded = truth.interpret(*thinned(truth.raster, LONGEST, progress=progress))
        if decoded.unknown.any():
            odd = np.unique(decoded.stored[decoded.unknown])[:5]
            said = ", ".join(f"#{int(v):06X}" if truth.holds_colors else f"{v:g}" for v in odd)
            raise InputError(
                f"{sources.truth} holds {said}, which {'are' if len(odd) > 1 else 'is'} none of the classes "
                f"{', '.join(names)}; {truth.remedy}"
            )
    return decoded.labels


def _encoded(
    image: NDArray[np.uint8], labels: dict[str, NDArray[np.uint8]], classes: Sequence[ClassInfo]
) -> tuple[tuple[Pane, ...], int, int]:
    """Return the panes, their height and width; halved until small enough (noise does not compress)."""
    while True:
        panes = (
            Pane("image", _uri("jpeg", Image.fromarray(image), quality=QUALITY, optimize=True)),
            *(Pane(n, _uri("png", _painted(v, classes), optimize=True)) for n, v in labels.items()),
        )
        height, width = image.shape[:2]
        if sum(len(pane.uri) for pane in panes) <= MOST_CHARS or max(height, width) < 2:
            return panes, height, width
        image = np.ascontiguousarray(image[::2, ::2])
        labels = {name: np.ascontiguousarray(values[::2, ::2]) for name, values in labels.items()}


def _painted(labels: NDArray[np.uint8], classes: Sequence[ClassInfo]) -> Image.Image:
    """Return a palette image: classes in their colours, nodata in the colour of paper."""
    picture = Image.fromarray(labels)
    picture.putpalette(
        bytes(v for c in classes for v in c.color) + bytes(PAPER) * (NODATA + 1 - len(classes))
    )
    return picture


def _uri(kind: str, picture: Image.Image, **options: Any) -> str:
    held = io.BytesIO()
    picture.save(held, kind.upper(), **options)
    return f"data:image/{kind};base64,{base64.b64encode(held.getvalue()).decode()}"
