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
    def of_classes(
        cls, classes: tuple[ClassInfo, ...], unlabelled: tuple[tuple[int, int, int], ...] = ()
    ) -> LabelColors:
        """The colours a model itself paints with; black is unlabelled too unless a class has it."""
        own = {pack_color(c.color): i for i, c in enumerate(classes)}
        return cls({0: NODATA, **dict.fromkeys(map(pack_color, unlabelled), NODATA), **own})

    @classmethod
    def read(cls, path: Path, class_names: tuple[str, ...]) -> LabelColors:
        """Read a ``classes.toml`` (see ``ClassTable``) for a model that knows ``class_names``.

        Raises InputError when it cannot be read or its classes are not the model's.
        """
        table = ClassTable.read(path)
        if unknown := sorted(set(table.names) - set(class_names)):
            raise InputError(
                f"{path} has classes {', '.join(unknown)}, which are not among {', '.join(class_names)}"
            )
        places = {pack_color(c.color): class_names.index(c.name) for c in table.classes}
        return cls({**dict.fromkeys(table.ignore, NODATA), **places})

    def encode(
        self, rgb: NDArray[np.uint8], source: str, origin: tuple[int, int] = (0, 0)
    ) -> NDArray[np.uint8]:
        """Class indices (h, w) of a label image (3, h, w); NODATA where unlabelled.

        ``origin``: row and column of its first pixel. Raises InputError with counts and first places when
        it holds a colour that stands for nothing.
        """
        packed = pack(rgb)
        indices, unknown = self.lookup(packed)
        if unknown.any():
            raise InputError(
                f"{source}: {describe_colors(packed, unknown, origin)}; name them in a class table "
                "(--classes FILE), under [classes] or ignore"
            )
        return indices

    def lookup(self, packed: NDArray[np.uint32]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Class indices of packed colours, and which colours stand for nothing: there the index is NODATA."""
        known = np.array(sorted(self.index), np.uint32)
        place = np.searchsorted(known, packed).clip(max=len(known) - 1)
        unknown = known[place] != packed
        indices: NDArray[np.uint8] = np.array([self.index[int(c)] for c in known], np.uint8)[place]
        indices[unknown] = NODATA
        return indices, unknown


@dataclass(frozen=True)
class ClassTable:
    """The classes of a data set with their label colours, in the order of their indices.

    ``ignore`` holds packed colours of unlabelled pixels.
    """

    classes: tuple[ClassInfo, ...]
    ignore: tuple[int, ...] = ()

    @classmethod
    def read(cls, path: Path) -> ClassTable:
        """Read ``classes.toml``: a table ``[classes]`` of name = "#RRGGBB" and a list ``ignore``.

        Raises InputError when it cannot be read.
        """
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
            classes = tuple(ClassInfo(str(k), _rgb(str(v))) for k, v in table["classes"].items())
            return cls(classes, tuple(pack_color(_rgb(str(v))) for v in table.get("ignore", [])))
        except OSError as error:
            raise InputError(f"no class table can be read at {path}: {error.strerror}") from error
        except (KeyError, AttributeError, ValueError) as error:
            raise InputError(
                f'{path}: not a class table ({error}); it needs [classes] with name = "#RRGGBB"'
            ) from error

    def to_toml(self) -> str:
        """The text that ``read`` reads."""
        ignored = ", ".join(f'"#{c:06X}"' for c in self.ignore)
        lines = [f'"{c.name}" = "#{pack_color(c.color):06X}"' for c in self.classes]
        return "\n".join([f"ignore = [{ignored}]", "", "[classes]", *lines]) + "\n"

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by index."""
        return tuple(c.name for c in self.classes)

    @property
    def colors(self) -> LabelColors:
        """What each colour stands for."""
        places = {pack_color(c.color): i for i, c in enumerate(self.classes)}
        return LabelColors({**dict.fromkeys(self.ignore, NODATA), **places})


def pack(rgb: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Colours (3, h, w) as 0xRRGGBB, (h, w)."""
    packed: NDArray[np.uint32] = rgb[0].astype(np.uint32) << 16 | rgb[1].astype(np.uint32) << 8 | rgb[2]
    return packed


def pack_color(color: tuple[int, int, int]) -> int:
    """One colour as 0xRRGGBB."""
    return color[0] << 16 | color[1] << 8 | color[2]


def unpack_color(packed: int) -> tuple[int, int, int]:
    """0xRRGGBB as red, green, blue."""
    return packed >> 16, packed >> 8 & 255, packed & 255


def describe_colors(
    packed: NDArray[np.uint32], wrong: NDArray[np.bool_], origin: tuple[int, int] = (0, 0)
) -> str:
    """The colours under ``wrong``, most frequent first, with pixel counts and first places."""
    colors, first, counts = np.unique(packed[wrong], return_index=True, return_counts=True)
    rows, cols = np.nonzero(wrong)
    worst = np.argsort(-counts, kind="stable")[:5]
    listed = ", ".join(
        f"#{colors[i]:06X} ({counts[i]} px, first at row {origin[0] + rows[first[i]]}, "
        f"column {origin[1] + cols[first[i]]})"
        for i in worst
    )
    return f"{len(colors)} colours belong to no class: {listed}"


@dataclass(frozen=True)
class Pairs:
    """The images and labels under a folder, each sorted."""

    pairs: tuple[tuple[Path, Path], ...]  # (image, label)
    images: tuple[Path, ...] = ()  # in images/ and without a mask
    labels: tuple[Path, ...] = ()  # without an image
    loose: tuple[Path, ...] = ()  # rasters outside these folders and without X_labels


def match_pairs(folder: Path) -> Pairs:
    """What lies under ``folder``: ``images/X.*`` with ``masks/X.*`` (or ``labels/X.*``), at any depth and
    with folders below them too, or ``X.tif`` beside ``X_labels.tif``. Hidden files are passed over.

    Raises InputError when the folder is missing.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder of labelled images")
    files = sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")
    )
    places = {path: _place(folder, path) for path in files}
    label_of = _flat_pairs(places)
    taken = {*label_of, *label_of.values()}
    label_of |= _folder_pairs({path: place for path, place in places.items() if path not in taken})
    taken = {*label_of, *label_of.values()}
    rest = {path: place for path, place in places.items() if path not in taken}
    images = tuple(path for path, place in rest.items() if "images" in place[0])
    labels = tuple(path for path, place in rest.items() if _is_label(place))
    known = {*images, *labels}
    loose = tuple(p for p in rest if p.suffix.lower() in RASTER_SUFFIXES and p not in known)
    return Pairs(tuple(sorted(label_of.items())), images, labels, loose)


def find_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """(image, label) files under ``folder``, sorted; see ``match_pairs``.

    Raises InputError when the folder is missing, holds no pair, or an image in ``images`` lacks its mask.
    """
    found = match_pairs(folder)
    if found.images:
        raise InputError(
            f"{len(found.images)} images have no mask, first {found.images[0]}; expected the same name in masks/"
        )
    if not found.pairs:
        raise InputError(
            f"{folder} holds no labelled image; expected images/X.* with masks/X.*, or X.tif with X_labels.tif"
        )
    return list(found.pairs)


Place = tuple[tuple[str, ...], str]


def _place(folder: Path, path: Path) -> Place:
    """Names of the folders between ``folder`` and a file, and the file's stem."""
    return path.relative_to(folder).parent.parts, path.stem


def _is_label(place: Place) -> bool:
    parents, stem = place
    in_masks = not set(MASK_FOLDERS).isdisjoint(parents)
    return "images" not in parents and (in_masks or stem.endswith(LABEL_SUFFIX))


def _flat_pairs(places: Mapping[Path, Place]) -> dict[Path, Path]:
    """``X.tif`` beside ``X_labels.*``."""
    rasters = {place: path for path, place in places.items() if path.suffix.lower() in RASTER_SUFFIXES}
    pairs = {}
    for path, (parents, stem) in places.items():
        partner = rasters.get((parents, stem.removesuffix(LABEL_SUFFIX)))
        if stem.endswith(LABEL_SUFFIX) and partner:
            pairs[partner] = path
    return pairs


def _folder_pairs(places: Mapping[Path, Place]) -> dict[Path, Path]:
    """The same path below ``images`` and below ``masks`` (first) or ``labels``."""
    by_place = {place: path for path, place in places.items()}
    pairs = {}
    for path, (parents, stem) in places.items():
        if "images" in parents:
            last = len(parents) - 1 - parents[::-1].index("images")
            wanted = [((*parents[:last], name, *parents[last + 1 :]), stem) for name in MASK_FOLDERS]
            masks = [by_place[place] for place in wanted if place in by_place]
            if masks:
                pairs[path] = masks[0]
    return pairs


def _rgb(color: str) -> tuple[int, int, int]:
    digits = color.removeprefix("#")
    if len(digits) != 6:
        raise ValueError(f"colour {color!r} is not #RRGGBB")
    return unpack_color(int(digits, 16))
