"""Preview of a result: the image beside its mask, with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from rsedge.files import whole_or_nothing, writing
from rsedge.model.manifest import NODATA, ClassInfo
from rsedge.text import printable
from rsedge.version import __version__

GAP, SWATCH, FONT_PX = 8, 18, 15
PAPER, INK = (255, 255, 255), (30, 30, 30)
MIN_WIDTH = 240  # fits the longest legend entry


@dataclass(frozen=True)
class Picture:
    """A thinned raster: ``image`` (bands, h, w) and ``mask`` (h, w) of classes and NODATA."""

    image: NDArray[Any]
    mask: NDArray[np.uint8]


def draw(path: Path, picture: Picture, classes: Sequence[ClassInfo], shares: Sequence[float]) -> None:
    """Write a PNG: image left, mask right, below them each class with its share of the valid pixels.

    Raises OutputError if the file cannot be written.
    """
    left, right = displayable(picture.image, picture.mask != NODATA), _painted(picture.mask, classes)
    height, width = picture.mask.shape
    columns = max(1, (2 * width + GAP) // MIN_WIDTH)
    lines = -(-len(classes) // columns)
    size = (max(2 * width + 3 * GAP, MIN_WIDTH), height + 3 * GAP + lines * (SWATCH + GAP))
    sheet = Image.new("RGB", size, PAPER)
    sheet.paste(Image.fromarray(left), (GAP, GAP))
    sheet.paste(Image.fromarray(right), (2 * GAP + width, GAP))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PX)
    for i, (entry, share) in enumerate(zip(classes, shares, strict=True)):
        x = GAP + (i % columns) * MIN_WIDTH
        y = height + 3 * GAP + (i // columns) * (SWATCH + GAP)
        pen.rectangle((x, y, x + SWATCH, y + SWATCH), fill=entry.color, outline=INK)
        pen.text((x + SWATCH + GAP, y), f"{printable(entry.name)}  {share:.1%}", fill=INK, font=font)
    about = PngInfo()
    about.add_text("Software", f"rsedge {__version__}")
    with writing(f"preview {path}"), whole_or_nothing(path) as partial:
        sheet.save(partial, format="PNG", optimize=False, pnginfo=about)


def displayable(image: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the first three bands (or the first, grey) as uint8 RGB (h, w, 3), other dtypes stretched 2-98 %."""
    bands = image[:3] if len(image) >= 3 else image[[0, 0, 0]]
    if bands.dtype != np.uint8:
        seen = bands[:, valid]
        low, high = np.percentile(seen, (2, 98)) if seen.size else (0, 1)
        bands = np.clip((bands - low) / max(high - low, 1e-9) * 255, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.where(valid, bands, 255).transpose(1, 2, 0).astype(np.uint8))


def _painted(mask: NDArray[np.uint8], classes: Sequence[ClassInfo]) -> NDArray[np.uint8]:
    palette = np.full((NODATA + 1, 3), PAPER, np.uint8)
    palette[: len(classes)] = [c.color for c in classes]
    return palette[mask]
