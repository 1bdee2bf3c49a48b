"""Ground truth: which label belongs to which image, and label colours to class indices."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsedge.errors import InputError
from rsedge.manifest import NODATA, ClassInfo

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RASTER_SUFFIXES = frozenset({".tif", ".tiff", ".vrt"})
IMAGE_SUFFIXES = RASTER_SUFFIXES | {".jpg", ".jpeg", ".png"}
MASK_FOLDERS = ("masks", "labels")
LABEL_SUFFIX = "_labels"


@dataclass(frozen=True)
class LabelColors:
    """Colours of a label image: packed RGB (0xRRGGBB) to class index, or NODATA for unlabelled."""

    index: Mapping[int, int]

    @classmethod
    def of_classes(cls, classes: tuple[ClassInfo, ...]) -> LabelColors:
        """The colours a model itself paints with; black is unlabelled unless a class has it."""
        own = {(c.color[0] << 16) | (c.color[1] << 8) | c.color[2]: i for i, c in enumerate(classes)}
        return cls({0: NODATA, **own})

    @classmethod
    def read(cls, path: Path, class_names: tuple[str, ...]) -> LabelColors:
        """Read ``classes.toml``: a table ``[classes]`` of name = "#RRGGBB" and a list ``ignore``.

        Raises InputError when it cannot be read or its classes are not the model's.
        """
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
            colors = {str(k): _packed(str(v)) for k, v in table["classes"].items()}
            ignored = [_packed(str(v)) for v in table.get("ignore", [])]
        except OSError as error:
            raise InputError(f"no class table can be read at {path}: {error.strerror}") from error
        except (KeyError, AttributeError, ValueError) as error:
            raise InputError(
                f'{path}: not a class table ({error}); it needs [classes] with name = "#RRGGBB"'
            ) from error
        if unknown := sorted(set(colors) - set(class_names)):
            raise InputError(
                f"{path} has classes {', '.join(unknown)}, which are not among {', '.join(class_names)}"
            )
        return cls({**dict.fromkeys(ignored, NODATA), **{c: class_names.index(n) for n, c in colors.items()}})

    def encode(self, rgb: NDArray[np.uint8], source: str) -> NDArray[np.uint8]:
        """Class indices (h, w) of a label image (3, h, w); NODATA where unlabelled.

        Raises InputError with counts when it holds a colour that stands for nothing.
        """
        packed = rgb[0].astype(np.uint32) << 16 | rgb[1].astype(np.uint32) << 8 | rgb[2]
        colors, place = np.unique(packed, return_inverse=True)
        unknown = np.array([int(c) not in self.index for c in colors])
        if unknown.any():
            counts = np.bincount(place.ravel(), minlength=len(colors))
            worst = sorted(((int(n), int(c)) for n, c in zip(counts[unknown], colors[unknown], strict=True)))[
                ::-1
            ]
            listed = ", ".join(f"#{color:06X} ({count} px)" for count, color in worst[:5])
            raise InputError(
                f"{source}: {len(worst)} colours belong to no class: {listed}; name them in a class table "
                "(--classes FILE), under [classes] or ignore"
            )
        table = np.array([self.index[int(c)] for c in colors], np.uint8)
        return table[place].reshape(packed.shape)


def find_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """(image, label) files under ``folder``, sorted.

    Either ``images/X.*`` with ``masks/X.*`` (or ``labels/X.*``), at any depth, or ``X.tif`` beside
    ``X_labels.tif``.

    Raises InputError when the folder is missing, holds no pair, or an image lacks its label.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder of labelled images")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    by_place = {(p.parent, p.stem): p for p in files}
    rasters = {(p.parent, p.stem): p for p in files if p.suffix.lower() in RASTER_SUFFIXES}
    pairs, lonely = [], []
    for image in files:
        if image.parent.name == "images":
            places = [(image.parent.parent / name, image.stem) for name in MASK_FOLDERS]
            labels = [by_place[place] for place in places if place in by_place]
            (pairs.append((image, labels[0])) if labels else lonely.append(image))
        elif image.stem.endswith(LABEL_SUFFIX):
            stem = image.stem.removesuffix(LABEL_SUFFIX)
            if (image.parent, stem) in rasters:
                pairs.append((rasters[image.parent, stem], image))
    if lonely:
        raise InputError(
            f"{len(lonely)} images have no mask, first {lonely[0]}; expected the same name in masks/"
        )
    if not pairs:
        raise InputError(
            f"{folder} holds no labelled image; expected images/X.* with masks/X.*, or X.tif with X_labels.tif"
        )
    return pairs


def _packed(color: str) -> int:
    digits = color.removeprefix("#")
    if len(digits) != 6:
        raise ValueError(f"colour {color!r} is not #RRGGBB")
    return int(digits, 16)
