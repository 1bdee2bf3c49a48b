"""Sheet of crops: image, truth and predictions side by side, as in the papers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rsedge.errors import InputError
from rsedge.files import whole_or_nothing, writing
from rsedge.model.manifest import NODATA, ClassInfo
from rsedge.score.metrics import Confusion
from rsedge_train.look.crops import choose_crops

__all__ = ["SheetRow", "choose_crops", "draw_sheet"]

CELL, GAP, MARGIN, SWATCH, LINE = 256, 8, 12, 14, 22  # pixels
PAPER, INK, QUIET, FRAME = (255, 255, 255), (30, 30, 30), (95, 95, 95), (205, 205, 205)
UNLABELLED = "not labelled"


@dataclass(frozen=True)
class SheetRow:
    """One crop: ``image`` (3, h, w), ``masks`` (h, w), all uint8; the first mask is the truth.

    A mask of None leaves its cell out.
    """

    title: str
    image: NDArray[np.uint8] = field(repr=False)
    masks: tuple[NDArray[np.uint8] | None, ...] = field(repr=False)


def draw_sheet(
    out: Path,
    rows: Sequence[SheetRow],
    classes: Sequence[ClassInfo],
    columns: Sequence[str],
    uncounted: Sequence[str] = (),
) -> None:
    """Write a PNG: a row for each crop, ``columns`` as titles (of the image, the truth, each prediction).

    Under each prediction is its mean IoU over the crop, without the classes ``uncounted``. Raises
    InputError if rows and columns do not match, OutputError if the PNG cannot be written.
    """
    _check(rows, columns)
    counted = [i for i, entry in enumerate(classes) if entry.name not in uncounted]
    parts = [_titles(columns), *(_strip(row, classes, counted, len(columns)) for row in rows)]
    width = parts[0].width
    truths = [row.masks[0] for row in rows if row.masks and row.masks[0] is not None]
    parts.append(_legend(classes, any((t == NODATA).any() for t in truths), width))
    sheet = Image.new("RGB", (width, sum(p.height for p in parts) + 2 * MARGIN), PAPER)
    top = MARGIN
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    with writing(f"sheet {out}"), whole_or_nothing(out) as partial:
        sheet.save(partial, format="PNG", optimize=True)


def _check(rows: Sequence[SheetRow], columns: Sequence[str]) -> None:
    if not rows:
        raise InputError("the sheet has no crops. Give at least one")
    for row in rows:
        if len(row.masks) != len(columns) - 1:
            raise InputError(
                f"crop {row.title!r} has an image and {len(row.masks)} masks for {len(columns)} columns. "
                "Give a mask or None for each column after the first"
            )
        if any(m is not None and m.shape != row.image.shape[1:] for m in row.masks):
            raise InputError(
                f"crop {row.title!r}: a mask and the image ({row.image.shape[1:]} pixels) differ in size"
            )


def _titles(columns: Sequence[str]) -> Image.Image:
    part, pen = _blank(_left(len(columns)) - GAP + MARGIN, LINE)
    font = _font(14, bold=True)
    for i, title in enumerate(columns):
        middle = _left(i) + CELL // 2
        pen.text((middle, LINE // 2), _fitted(title, font, CELL), fill=INK, font=font, anchor="mm")
    return part


def _strip(row: SheetRow, classes: Sequence[ClassInfo], counted: list[int], columns: int) -> Image.Image:
    """Draw the cells of a crop, with its title (left, under image and truth) and the scores below."""
    height, width = row.image.shape[1:]
    size = (max(1, width * CELL // max(height, width)), max(1, height * CELL // max(height, width)))
    part, pen = _blank(_left(columns) - GAP + MARGIN, size[1] + LINE + GAP)
    font = _font(12)
    for i, mask in enumerate((None, *row.masks)):
        if i and mask is None:
            continue
        pixels = row.image.transpose(1, 2, 0) if mask is None else _painted(mask, classes)
        x, y = _left(i) + (CELL - size[0]) // 2, 1
        part.paste(_resized(pixels, size, smooth=mask is None), (x, y))
        pen.rectangle((x - 1, y - 1, x + size[0], y + size[1]), outline=FRAME)
        if i > 1 and mask is not None and row.masks[0] is not None:
            text, below = (
                _score(row.masks[0], mask, len(classes), counted),
                (_left(i) + CELL // 2, size[1] + 5),
            )
            pen.text(below, text, fill=INK, font=font, anchor="ma")
    room = CELL + (CELL + GAP) * (columns > 1)
    pen.text((_left(0), size[1] + 5), _fitted(row.title, font, room), fill=QUIET, font=font, anchor="la")
    return part


def _legend(classes: Sequence[ClassInfo], unlabelled: bool, width: int) -> Image.Image:
    """Draw swatches and names on as many lines as needed."""
    entries = [(c.name, c.color) for c in classes] + [(UNLABELLED, PAPER)] * unlabelled
    font = _font(13)
    entries = [(_fitted(n, font, width - 2 * MARGIN - SWATCH - GAP), color) for n, color in entries]
    x, y, places = MARGIN, GAP, []
    for name, _ in entries:
        room = SWATCH + GAP + int(font.getlength(name))
        if x > MARGIN and x + room > width - MARGIN:
            x, y = MARGIN, y + LINE
        places.append((x, y))
        x += room + 3 * GAP
    part, pen = _blank(width, y + LINE)
    for (name, color), (x, y) in zip(entries, places, strict=True):
        pen.rectangle((x, y, x + SWATCH, y + SWATCH), fill=color, outline=QUIET)
        pen.text((x + SWATCH + GAP, y + SWATCH // 2), name, fill=INK, font=font, anchor="lm")
    return part


def _score(truth: NDArray[np.uint8], mask: NDArray[np.uint8], classes: int, counted: list[int]) -> str:
    iou = Confusion.of(truth, mask, classes).iou[counted]
    iou = iou[~np.isnan(iou)]
    return f"mIoU {100 * iou.mean():.1f} %" if iou.size else "nothing to score"


def _painted(mask: NDArray[np.uint8], classes: Sequence[ClassInfo]) -> NDArray[np.uint8]:
    palette = np.full((NODATA + 1, 3), PAPER, np.uint8)
    palette[: len(classes)] = [entry.color for entry in classes]
    return palette[mask]


def _resized(pixels: NDArray[np.uint8], size: tuple[int, int], smooth: bool) -> Image.Image:
    """Resize to (width, height). Masks keep hard edges when enlarged; shrinking must not break up thin roads."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    shrunk = picture.width > size[0]
    how = Image.Resampling.LANCZOS if smooth else Image.Resampling.BOX if shrunk else Image.Resampling.NEAREST
    return picture if picture.size == size else picture.resize(size, how)


def _left(column: int) -> int:
    return MARGIN + column * (CELL + GAP)


def _blank(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    part = Image.new("RGB", (width, height), PAPER)
    return part, ImageDraw.Draw(part)


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with matplotlib; Pillow's own font lacks accents, Greek and Cyrillic."""
    from matplotlib import get_data_path  # noqa: PLC0415

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(get_data_path()) / "fonts/ttf" / name, size)


def _fitted(text: str, font: ImageFont.FreeTypeFont, room: int) -> str:
    """Shorten the middle of ``text`` to fit ``room`` pixels, because names differ at their ends."""
    fitted = text
    for kept in range(len(text) - 1, 0, -1):
        if font.getlength(fitted) <= room:
            break
        tail = kept // 2
        fitted = f"{text[: kept - tail]}…{text[len(text) - tail :]}"
    return fitted
