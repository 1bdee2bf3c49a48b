"""Opening labelled data by path, whatever their layout."""

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
    """The labelled data under ``path``: ISPRS Vaihingen or Potsdam, LoveDA, or a folder of images and masks.

    ``val``, ``test``: names of scenes; ``val=("none",)`` trains without validation. ``classes``: a TOML
    table of label colours or indices; None takes ``classes.toml`` in the folder, else what the masks show.
    ``bands``: 1-based, with ``band_names`` where they are not red, green, blue. ``scale``: raster values
    mapped to 0 and 255, needed where images are not 8-bit. ``masking``: nodata values and alpha, where the
    images' own are not right. ``eroded``: score with ISPRS's eroded labels.
    ``path`` None draws sample scenes into ``sample_folder``; ``progress`` is of their drawing.

    Raises InputError when the data cannot be used; ``rsedge data check`` lists everything that is wrong.
    """
    if path is None:
        if val or test or classes or bands or band_names or scale or masking != AS_TAGGED or eroded:
            raise InputError(
                "split, classes, bands, scale, nodata, alpha and --eroded belong to your own data; sample scenes have "
                "theirs"
            )
        return samples.sample_dataset(sample_folder, sample_count, sample_side, progress)
    found = find_layout(
        path, val, test, bands=bands, band_names=band_names, scale=scale, masking=masking, eroded=eroded
    )
    if found.problems:
        more = f" ({len(found.problems) - 1} problems more)" if len(found.problems) > 1 else ""
        raise InputError(f"{found.problems[0]}{more}; `rsedge data check {path}` lists all that is wrong")
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
    """The labelled rasters under ``path``, split, without reading any pixel; see ``open_dataset``.

    Raises InputError when nothing is there or the split is impossible.
    """
    if not path.is_dir():
        what = "is a file; give the folder that holds it" if path.exists() else "does not exist"
        raise InputError(f"data {path} {what}")
    if bands is not None and len(bands) != 3:
        raise InputError(f"--bands {','.join(map(str, bands))}: a network here reads three bands; give three")
    asked = Asked(band_names, bands, scale, masking)
    found = find_isprs(path, val, test, asked, eroded=eroded)
    if found is None:
        if eroded:
            raise InputError(f"--eroded is for ISPRS's *_noBoundary labels, and {path} is no ISPRS data set")
        found = find_folder(path, val, test, asked.plain())
    return found


def choose_table(path: Path, classes: Path | None, found: Found) -> tuple[ClassTable, bool, tuple[str, ...]]:
    """Classes from ``classes``, ``classes.toml`` in the folder, the layout, or what the masks show.

    Also whether a file says them, and notes. Raises InputError when it cannot be read, found, or used.
    """
    own = path / CLASSES_FILE
    labels = [f.label for f in found.files]
    told = classes is not None or own.is_file()
    if not told:
        table, notes = (found.table, ()) if found.table else detect_table(labels)
    else:
        table, notes = ClassTable.read(classes or own), (f"classes as in {classes or own}",)
    if not 2 <= len(table.classes) <= NODATA:
        raise InputError(f"{classes or own} has {len(table.classes)} classes; training needs 2 to {NODATA}")
    colors, more = settle(table.colors, labels, len(table.classes))
    if more:
        table = replace(table, values=tuple((colors.values or {}).items()))
    return table, told, (*notes, *more)


def as_dataset(path: Path, found: Found, table: ClassTable, notes: Sequence[str] = ()) -> Dataset:
    """The data set of what was found. Raises InputError when a scene stands on two sides."""
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
