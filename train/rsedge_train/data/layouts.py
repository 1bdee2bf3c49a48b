"""Opening labelled data of any supported layout by path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rsedge.errors import InputError
from rsedge.model.manifest import NODATA
from rsedge.raster.band_plan import AS_TAGGED, Masking
from rsedge.score.labels import CLASSES_FILE, ClassTable
from rsedge.score.truth import settle
from rsedge_train.data import isprs, samples
from rsedge_train.data.base import Dataset
from rsedge_train.data.detect import detect_table
from rsedge_train.data.folder import find_folder
from rsedge_train.data.found import Asked, Found
from rsedge_train.data.isprs import find_isprs


def open_dataset(
    path: Path | None,
    *,
    val: Sequence[str] = (),
    test: Sequence[str] = (),
    classes: Path | None = None,
    bands: tuple[int, ...] | None = None,
    band_names: tuple[str, str, str] | None = None,
    scale: tuple[float, float] | None = None,
    masking: Masking = AS_TAGGED,
    eroded: bool = False,
    sample_folder: Path = samples.FOLDER,
    sample_count: int = samples.COUNT,
    sample_side: int = samples.SIDE,
    progress: samples.Progress | None = None,
) -> Dataset:
    """Open the labelled data under ``path``: ISPRS Vaihingen or Potsdam, LoveDA, or a folder of images and masks.

    ``val``, ``test``: scene names; ``val=("none",)`` trains without validation. ``classes``: a TOML
    table of label colours or indices; None uses ``classes.toml`` in the folder, else the masks' contents.
    ``bands``: 1-based, with ``band_names`` if they are not red, green, blue. ``scale``: raster values
    mapped to 0 and 255, required if images are not 8-bit. ``masking``: nodata values and alpha that
    override the images' own. ``eroded``: score with ISPRS's eroded labels.
    ``path`` None draws sample scenes into ``sample_folder``; ``progress`` reports the drawing.

    Raises InputError if the data cannot be used; ``rsedge data check`` lists all problems.
    """
    if path is None:
        if val or test or classes or bands or band_names or scale or masking != AS_TAGGED or eroded:
            raise InputError(
                "split, classes, bands, scale, nodata, alpha and --eroded need data of your own; sample scenes have "
                "theirs"
            )
        return samples.sample_dataset(sample_folder, sample_count, sample_side, progress)
    found = find_layout(
        path, val, test, bands=bands, band_names=band_names, scale=scale, masking=masking, eroded=eroded
    )
    if found.problems:
        more = f" (and {len(found.problems) - 1} more problems)" if len(found.problems) > 1 else ""
        raise InputError(f"{found.problems[0]}{more}. List all with `rsedge data check {path}`")
    table, told, notes = choose_table(path, classes, found)
    return replace(as_dataset(path, found, table, notes), told=told)


def find_layout(
    path: Path,
    val: Sequence[str] = (),
    test: Sequence[str] = (),
    *,
    bands: tuple[int, ...] | None = None,
    band_names: tuple[str, str, str] | None = None,
    scale: tuple[float, float] | None = None,
    masking: Masking = AS_TAGGED,
    eroded: bool = False,
) -> Found:
    """Find and split the labelled rasters under ``path`` without reading pixels; see ``open_dataset``.

    Raises InputError if no labelled raster is found or the split is impossible.
    """
    if not path.is_dir():
        what = "is a file. Give the folder that holds it" if path.exists() else "does not exist"
        raise InputError(f"data {path} {what}")
    if bands is not None and len(bands) != 3:
        raise InputError(f"--bands {','.join(map(str, bands))}: networks read three bands. Give three")
    asked = Asked(band_names, bands, scale, masking)
    found = find_isprs(path, val, test, asked, eroded=eroded)
    if found is None:
        if eroded:
            raise InputError(f"--eroded needs ISPRS's *_noBoundary labels: {path} is not an ISPRS data set")
        found = find_folder(path, val, test, asked.plain())
    return found


def choose_table(path: Path, classes: Path | None, found: Found) -> tuple[ClassTable, bool, tuple[str, ...]]:
    """Return the class table from ``classes``, ``classes.toml`` in the folder, the layout, or the masks.

    Also returns whether a file defines the classes, and notes. Raises InputError if the table is not found,
    cannot be read, or cannot be used.
    """
    own = path / CLASSES_FILE
    labels = [f.label for f in found.files if f.label]
    told = classes is not None or own.is_file()
    if not told:
        table, notes = (found.table, ()) if found.table else detect_table(labels)
    else:
        table, notes = ClassTable.read(classes or own), (f"classes as in {classes or own}",)
    if not 2 <= len(table.classes) <= NODATA:
        raise InputError(f"{classes or own}: {len(table.classes)} classes. Training needs 2 to {NODATA}")
    colors, more = settle(table.colors, labels, len(table.classes))
    if more:
        table = replace(table, values=tuple((colors.values or {}).items()))
    return table, told, (*notes, *more)


def as_dataset(path: Path, found: Found, table: ClassTable, notes: Sequence[str] = ()) -> Dataset:
    """Return the data set of the rasters found. Raises InputError if a scene is in two splits."""
    uncounted = isprs.UNCOUNTED if table == isprs.TABLE else found.uncounted
    return Dataset(
        path.resolve().name,
        table,
        found.train,
        found.val,
        found.test,
        found.bands,
        tuple(name for name in uncounted if name in table.names),
        found.gsd_m,
        (*found.notes, *notes),
    )
