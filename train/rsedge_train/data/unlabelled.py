"""Imagery without labels as further training data, on which only a teacher's answer is learned."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rsedge.errors import InputError
from rsedge.raster import BandPlan, RasterReader, plan_bands
from rsedge.raster.band_plan import Masking
from rsedge.raster.scaling import check_scale
from rsedge.score.pairs import FOLDERS, IMAGE_SUFFIXES
from rsedge_train.data.base import TAUGHT, BandChoice, Dataset, SceneFiles
from rsedge_train.data.isprs import LABEL_FOLDER
from rsedge_train.data.scan import Scan, SceneScan, scan

log = logging.getLogger(__name__)

COLORS = {
    "red",
    "green",
    "blue",
    "nir",
    "rededge",
    "coastal",
    "swir",
    "pan",
}  # tags that say what a band shows
OPTION = re.compile(r"(?<=--)(?=(?:bands|scale|nodata|alpha)\b)")


def of_unlabelled(text: str) -> str:
    """Return a message with the options of the labelled data replaced by those of unlabelled imagery."""
    return OPTION.sub("unlabelled-", text)


def with_unlabelled(
    dataset: Dataset,
    folders: Sequence[Path],
    *,
    bands: tuple[int, ...] | None = None,
    scale: tuple[float, float] | None = None,
    masking: Masking | None = None,
) -> Dataset:
    """Return the data set with all images in ``folders``, at any depth, added as unlabelled imagery.

    Files that are labels by their folder's or their own name are left out. ``bands``, ``scale`` and ``masking``
    are the images' own; None: those of the labelled data. Pixels are not read.

    Raises InputError if a folder holds no image, or if the data set has a class whose index marks unlabelled pixels.
    """
    if dataset.num_classes > TAUGHT:
        raise InputError(
            f"data {dataset.name} has {dataset.num_classes} classes. With unlabelled imagery use at most {TAUGHT}"
        )
    own = dataset.bands
    choice = BandChoice(own.names, bands or own.indexes, scale or own.scale, masking or own.masking)
    found: dict[Path, SceneFiles] = {}
    notes = list[str]()
    for folder in folders:
        images, labels = _images_in(folder)
        root = folder.resolve()
        above = root.parent.parent if root.name in FOLDERS else root.parent
        for path in images:
            name = path.relative_to(above).as_posix()
            found.setdefault(path, SceneFiles(name, name, path, None, bands=choice))
        if labels:
            notes.append(
                f"{len(labels)} files in {folder} are labels by their names and are skipped, first {labels[0]}"
            )
    return replace(dataset, unlabelled=tuple(found.values()), notes=(*dataset.notes, *notes))


def _images_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the images in a folder, and the files left out as labels, as resolved sorted paths."""
    if not folder.is_dir():
        what = (
            "is a file. Give the folder that holds it"
            if folder.exists()
            else "does not exist. Check the path"
        )
        raise InputError(f"unlabelled imagery {folder} {what}")
    root = folder.resolve()
    files = [
        p
        for p in sorted(root.rglob("*"))
        if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")
    ]
    labels = [p for p in files if _is_label(root, p)]
    images = [p for p in files if p not in set(labels)]
    if not images:
        held = f"{len(labels)} files that are labels by their names" if labels else "no image"
        raise InputError(
            f"unlabelled imagery {folder} holds {held}. Give a folder of GeoTIFF, VRT, JPEG or PNG images"
        )
    return images, labels


def _is_label(root: Path, path: Path) -> bool:
    """Return True if the file or a folder below ``root`` is named as labels are, or ``root`` is just named so."""
    named = (*path.relative_to(root).parent.parts, path.stem)
    return bool(LABEL_FOLDER.fullmatch(root.name)) or any(LABEL_FOLDER.search(name) for name in named)


def scan_unlabelled(dataset: Dataset, *, skip_damaged: bool = False) -> Scan:
    """Check bands and values of the unlabelled imagery and return the rasters with data, and where their data are.

    With ``skip_damaged``, rasters that cannot be used are skipped and reported. Raises InputError if a raster cannot
    be used, or if none has data.
    """
    like = _first_labelled(dataset)
    fit, skipped = list[SceneFiles](), list[tuple[str, str]]()
    for files in dataset.unlabelled:
        try:
            _check_bands(dataset, files, like)
        except InputError as error:
            text = of_unlabelled(str(error))
            if not skip_damaged:
                raise InputError(text) from error
            skipped.append((files.name, text))
        else:
            fit.append(files)
    if not fit:
        raise InputError(f"no unlabelled raster can be used. First error: {skipped[0][1]}")
    found = scan(dataset, tuple(fit), skip_damaged=skip_damaged)
    empty = [s for s in found.scenes if not s.counts.sum()]
    kept = tuple(_renamed(s) for s in found.scenes if s.counts.sum())
    if not kept:
        raise InputError(
            f"unlabelled imagery: {len(empty)} of {len(empty)} rasters hold nothing but nodata, first "
            f"{empty[0].files.image}. Give imagery with data, or the right value with --unlabelled-nodata"
        )
    out = [*skipped, *found.skipped, *((s.files.name, "all pixels are nodata") for s in empty)]
    return replace(found, scenes=kept, skipped=tuple(out))


def _renamed(scene: SceneScan) -> SceneScan:
    """Return the scan with the options in its notes named as those of unlabelled imagery."""
    return replace(scene, notes=tuple(of_unlabelled(note) for note in scene.notes))


class _Fed:
    """Dtypes and colour tags of the bands of one raster that feed the network."""

    def __init__(self, reader: RasterReader, plan: BandPlan) -> None:
        self.dtypes = {reader.dtypes[i - 1] for i in plan.indexes}
        self.tags = tuple(reader.color_interp[i - 1].name.lower() for i in plan.indexes)


def _first_labelled(dataset: Dataset) -> _Fed | None:
    """Return what the first labelled raster feeds; None if it cannot be read."""
    bands = dataset.bands
    try:
        with RasterReader(dataset.train[0].image) as reader:
            manifest = dataset.manifest(dataset.name, tile=1)
            return _Fed(reader, plan_bands(reader, manifest, bands.indexes, bands.scale, bands.masking))
    except InputError:
        return None  # the scan of labelled data reports or skips it


def _check_bands(dataset: Dataset, files: SceneFiles, like: _Fed | None) -> None:
    """Raise InputError if a raster's bands or values are not those of the labelled data."""
    bands, names = dataset.bands_of(files), ", ".join(dataset.bands.names)
    with RasterReader(files.image) as reader:
        try:
            plan = plan_bands(
                reader, dataset.manifest(dataset.name, tile=1), bands.indexes, bands.scale, bands.masking
            )
        except InputError as error:
            if len(reader.dtypes) >= max(bands.indexes or (3,)):
                raise
            raise InputError(
                f"{error}. Unlabelled imagery must hold the bands that the data gives"
            ) from error
        fed = _Fed(reader, plan)
        if bands.indexes == dataset.bands.indexes and like is not None and fed.tags != like.tags:
            for name, tag in zip(dataset.bands.names, fed.tags, strict=False):
                if tag in COLORS and tag != name:
                    raise InputError(
                        f"{files.image} is tagged {', '.join(fed.tags)}, but the data gives {names}. Choose its bands "
                        "with --bands, or leave it out"
                    )
        if (
            bands.scale
            and bands.scale == dataset.bands.scale
            and like is not None
            and fed.dtypes != like.dtypes
        ):
            raise InputError(
                f"{files.image} is stored as {', '.join(sorted(fed.dtypes))}, but the data, for which the scale "
                f"{bands.scale[0]:g},{bands.scale[1]:g} was given, as {', '.join(sorted(like.dtypes))}. Give the "
                "values that map to 0 and 255 with --scale LOW,HIGH (0,255 for 8 bits)"
            )
        try:
            note = check_scale(reader, plan)
        except InputError as error:
            raise InputError(f"{files.image}: {error}") from error
        if note:
            log.warning("%s: %s", files.image, of_unlabelled(note))
