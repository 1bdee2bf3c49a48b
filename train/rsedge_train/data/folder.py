"""Discovery of a folder of images and masks, or of GeoTIFFs beside their labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rsedge.errors import InputError
from rsedge.raster import RasterReader
from rsedge.score.labels import LOVEDA, is_loveda
from rsedge.score.pairs import LABEL_SUFFIX, Pairs, image_folder, match_pairs
from rsedge_train.data.base import BandChoice, SceneFiles
from rsedge_train.data.found import NO_VAL, Found, choose_sides, listed

SIDE_OF = {
    "train": "train",
    "training": "train",
    "val": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
Split = tuple[tuple[SceneFiles, ...], tuple[SceneFiles, ...], tuple[SceneFiles, ...]]  # train, val, test
FILES_OPENED = 50  # to determine the ground sampling distance


def find_folder(root: Path, val: Sequence[str], test: Sequence[str], bands: BandChoice) -> Found:
    """Pair images with masks and split the pairs by scene.

    A scene is the folder that holds ``images/``, or the file if that folder is ``root`` itself. Folders named
    train, val and test define the split; else ``val`` and ``test`` do; else the last scenes are for validation.

    Raises InputError if no pair is found or the split is impossible.
    """
    found = match_pairs(root)
    if not found.pairs:
        raise InputError(_nothing(root, found))
    sides: dict[str, list[SceneFiles]] = defaultdict(list)
    for image, label in found.pairs:
        side, files = _scene(root, image, label)
        sides[side].append(files)
    split, notes = _split(sides, val, test)
    every = [files for part in split for files in part]
    known = is_loveda(label for _, label in found.pairs)
    return Found(
        "LoveDA" if known else "images and masks",
        *split,
        bands=bands,
        table=LOVEDA if known else None,
        gsd_m=gsd_range([f.image for f in every]),
        notes=(*notes, *_leftovers(found)),
        problems=tuple(_problems(found, every)),
    )


def gsd_range(images: Sequence[Path]) -> tuple[float, float] | None:
    """Return the finest and coarsest metres per pixel of at most 50 files, or None if unknown."""
    step = max(1, -(-len(images) // FILES_OPENED))
    known = list[float]()
    for path in images[::step]:
        try:
            with RasterReader(path) as reader:
                gsd = reader.grid.gsd_m
        except InputError:
            continue  # the later reading reports the error
        if gsd is not None:
            known.append(round(gsd, 6))
    return (min(known), max(known)) if known else None


def _scene(root: Path, image: Path, label: Path) -> tuple[str, SceneFiles]:
    """Return the split named by the folders ("" if none) and the scene of a pair."""
    parents = image.relative_to(root).parent.parts
    side = next((SIDE_OF[p.lower()] for p in parents if p.lower() in SIDE_OF), "")
    flat = label.stem == image.stem + LABEL_SUFFIX and label.parent == image.parent
    last = image_folder(parents)
    if flat or last is None:
        holder: tuple[str, ...] = ()
        name = "/".join((*parents, image.stem))
    else:
        whole = is_loveda([label])  # each of LoveDA's train and val has an Urban folder, of different cities
        holder = tuple(p for p in parents[:last] if whole or p.lower() not in SIDE_OF)
        name = "/".join((*parents[:last], *parents[last + 1 :], image.stem))
    return side, SceneFiles(name, "/".join(holder) or name, image, label)


def _split(
    sides: dict[str, list[SceneFiles]], val: Sequence[str], test: Sequence[str]
) -> tuple[Split, list[str]]:
    """Return the rasters of train, val and test, and notes."""
    for side, names in (("val", val), ("test", test)):
        if names and side in sides and tuple(names) != (NO_VAL,):
            raise InputError(f"a folder named {side} already defines the {side} split. Leave out --{side}")
    if not set(sides) - {""}:
        pool, notes = sides[""], list[str]()
    else:
        pool = sides.get("train") or sides.get("", [])
        notes = ["split by the folders named train, val and test"]
        if "train" in sides and (stray := sides.get("", [])):
            notes.append(
                f"{len(stray)} images are in no split folder and are skipped, first {stray[0].image}"
            )
    scenes = sorted({f.scene for f in pool})
    if "val" in sides:
        chosen = replace(choose_sides(scenes, (NO_VAL,), test), notes=())
    else:
        chosen = choose_sides(scenes, val, test)
    train, held, tested = (
        tuple(f for f in pool if f.scene in names) for names in (chosen.train, chosen.val, chosen.test)
    )
    if tuple(val) != (NO_VAL,):
        held += tuple(sides.get("val", []))
    return (train, held, (*tested, *sides.get("test", []))), [*notes, *chosen.notes]


def _problems(found: Pairs, files: Sequence[SceneFiles]) -> list[str]:
    problems = list[str]()
    if found.images:
        problems.append(
            f"{len(found.images)} images have no mask, first {found.images[0]}. Add masks with the same names in masks/"
        )
    twice = sorted(name for name, count in Counter(f.name for f in files).items() if count > 1)
    if twice:
        problems.append(
            f"{len(twice)} names belong to two images each, first {twice[0]}. Keep one file per name"
        )
    return problems


def _leftovers(found: Pairs) -> list[str]:
    notes = list[str]()
    if found.labels:
        notes.append(f"{len(found.labels)} masks have no image and are skipped, first {found.labels[0]}")
    if found.tests:
        notes.append(f"{len(found.tests)} test images have no masks and are skipped, first {found.tests[0]}")
    if found.loose:
        notes.append(
            f"{len(found.loose)} rasters have no X{LABEL_SUFFIX} beside them and are skipped, first "
            f"{found.loose[0]}"
        )
    return notes


def _nothing(root: Path, found: Pairs) -> str:
    expected = (
        "expected images/X.* with masks/X.* (or labels/X.*), images_png/X.* with masks_png/X.*, X.tif with "
        "X_labels.tif, or the files of ISPRS"
    )
    if found.images:
        return (
            f"none of {len(found.images)} images under {root} has a mask, first {found.images[0]}; {expected}"
        )
    names = listed(sorted(p.name for p in root.iterdir()))
    return f"{root} contains no labelled image; {expected}; found {names or 'nothing'}"
