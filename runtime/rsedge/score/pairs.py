"""Ground truth: matching of labels with images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rsedge.errors import InputError

RASTER_SUFFIXES = frozenset({".tif", ".tiff", ".vrt"})
IMAGE_SUFFIXES = RASTER_SUFFIXES | {".jpg", ".jpeg", ".png"}
FOLDERS = {"images": ("masks", "labels"), "images_png": ("masks_png",)}  # image folder: mask folders
TEST_FOLDERS = frozenset({"test", "testing"})
LABEL_SUFFIX = "_labels"


@dataclass(frozen=True)
class Pairs:
    """Images and labels in a folder, each sorted."""

    pairs: tuple[tuple[Path, Path], ...]  # (image, label)
    images: tuple[Path, ...] = ()  # in images/ without a mask
    labels: tuple[Path, ...] = ()  # without an image
    loose: tuple[Path, ...] = ()  # rasters outside these folders and without X_labels
    tests: tuple[Path, ...] = ()  # images in a folder named test, if none of them has a mask


def match_pairs(folder: Path) -> Pairs:
    """Match ``images/X.*`` with ``masks/X.*`` (or ``labels/X.*``; ``images_png`` with ``masks_png``), at any depth.

    Also matches ``X.tif`` with ``X_labels.tif`` beside it. Hidden files are skipped.

    Raises InputError if the folder is missing.
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
    bare = tuple(path for path, place in rest.items() if image_folder(place[0]) is not None)
    tests = (
        {p for p in bare if _in_test(places[p])} if not any(_in_test(places[p]) for p in label_of) else set()
    )
    labels = tuple(path for path, place in rest.items() if _is_label(place))
    known = {*bare, *labels}
    loose = tuple(p for p in rest if p.suffix.lower() in RASTER_SUFFIXES and p not in known)
    images = tuple(p for p in bare if p not in tests)
    return Pairs(tuple(sorted(label_of.items())), images, labels, loose, tuple(sorted(tests)))


def find_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Return the sorted (image, label) files in ``folder``; see ``match_pairs``.

    Raises InputError if the folder is missing or has no pair, or if an image in ``images`` lacks its mask.
    """
    found = match_pairs(folder)
    if found.images:
        raise InputError(
            f"{len(found.images)} images have no mask, first {found.images[0]}; expected the same name in masks/"
        )
    if not found.pairs:
        raise InputError(
            f"{folder} holds no labelled image; expected images/X.* with masks/X.* (or labels/X.*), images_png/X.* "
            "with masks_png/X.*, or X.tif with X_labels.tif"
        )
    return list(found.pairs)


Place = tuple[tuple[str, ...], str]


def _place(folder: Path, path: Path) -> Place:
    """Return the names of the folders between ``folder`` and a file, and the file's stem."""
    return path.relative_to(folder).parent.parts, path.stem


def image_folder(parents: tuple[str, ...]) -> int | None:
    """Return the position of a file's innermost image folder, counted from the outermost; None if none."""
    found = [i for i, name in enumerate(parents) if name in FOLDERS]
    return found[-1] if found else None


def _in_test(place: Place) -> bool:
    return any(name.lower() in TEST_FOLDERS for name in place[0])


def _is_label(place: Place) -> bool:
    parents, stem = place
    masks = {name for names in FOLDERS.values() for name in names}
    return image_folder(parents) is None and (not masks.isdisjoint(parents) or stem.endswith(LABEL_SUFFIX))


def _flat_pairs(places: Mapping[Path, Place]) -> dict[Path, Path]:
    """Match ``X.tif`` with ``X_labels.*`` beside it."""
    rasters = {place: path for path, place in places.items() if path.suffix.lower() in RASTER_SUFFIXES}
    pairs = {}
    for path, (parents, stem) in places.items():
        partner = rasters.get((parents, stem.removesuffix(LABEL_SUFFIX)))
        if stem.endswith(LABEL_SUFFIX) and partner:
            pairs[partner] = path
    return pairs


def _folder_pairs(places: Mapping[Path, Place]) -> dict[Path, Path]:
    """Match paths below ``images`` with equal paths below ``masks`` (first) or ``labels``."""
    by_place = {place: path for path, place in places.items()}
    pairs = {}
    for path, (parents, stem) in places.items():
        last = image_folder(parents)
        if last is not None:
            names = FOLDERS[parents[last]]
            wanted = [((*parents[:last], name, *parents[last + 1 :]), stem) for name in names]
            masks = [by_place[place] for place in wanted if place in by_place]
            if masks:
                pairs[path] = masks[0]
    return pairs
