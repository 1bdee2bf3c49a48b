"""Complete check of labelled data that collects all problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rsedge.errors import InputError
from rsedge.raster.band_plan import AS_TAGGED, Masking
from rsedge.score.labels import ClassTable
from rsedge.score.truth import describe_missing, doubts
from rsedge_train.data.base import SPLITS
from rsedge_train.data.examine import Facts, examine
from rsedge_train.data.found import NO_VAL, Found
from rsedge_train.data.layouts import choose_table, find_layout
from rsedge_train.data.leaks import identical_images, overlapping, shared_scenes
from rsedge_train.data.report import Report, SideReport, Size
from rsedge_train.data.scan import missing_classes


def check(
    path: Path,
    *,
    val: Sequence[str] = (),
    test: Sequence[str] = (),
    classes: Path | None = None,
    bands: tuple[int, ...] | None = None,
    band_names: tuple[str, str, str] | None = None,
    scale: tuple[float, float] | None = None,
    masking: Masking = AS_TAGGED,
    eroded: bool = False,
    images: bool = True,
    allow_missing: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check all labels under ``path``, and all images if ``images`` is set, and return all problems.

    The options are those of ``open_dataset``. With ``allow_missing``, classes of a table may lack label pixels
    in the train and val splits. ``progress`` is called with (rasters done, rasters in all).

    Raises InputError if no labelled data is found.
    """
    problems = list[str]()

    def find(val: Sequence[str], test: Sequence[str]) -> Found:
        return find_layout(
            path, val, test, bands=bands, band_names=band_names, scale=scale, masking=masking, eroded=eroded
        )

    try:
        found = find(val, test)
    except InputError as error:
        found = find((NO_VAL,), ())  # the files can be read even if no split is possible
        problems.append(str(error))
    problems += found.problems
    table, told, notes = _table(path, classes, found, problems)
    sides = _examine_all(found, table, images, progress)
    every = [f for facts in sides.values() for f in facts]
    problems += [f"{f.files.name}: {problem}" for f in every for problem in f.problems]
    doubled, twice = identical_images(sides)
    problems += [*shared_scenes(sides), *overlapping(sides), *doubled]
    reports = {side: _side(facts) for side, facts in sides.items()}
    names = table.names if table else ()
    seen = [f for side in ("train", "val") for f in sides[side]]
    if not allow_missing and all(f.counted for f in seen):  # an unread label may hold the missing classes
        problems += _missing(names, seen, told)
    return Report(
        str(path),
        found.layout,
        names,
        reports,
        dict(Counter(f"{f.stored}, {f.fed or 'unusable'}" for f in every if f.height)),
        _gsd(every) or found.gsd_m,
        images,
        (*found.notes, *notes, *_doubts(table, every), *_repeated(every)),
        (*_absent(names, reports), *twice),
        tuple(problems),
    )


def _table(
    path: Path, classes: Path | None, found: Found, problems: list[str]
) -> tuple[ClassTable | None, bool, tuple[str, ...]]:
    try:
        return choose_table(path, classes, found)
    except InputError as error:
        problems.append(str(error))
        return None, False, ()


def _examine_all(
    found: Found, table: ClassTable | None, images: bool, progress: Callable[[int, int], None] | None
) -> dict[str, Sequence[Facts]]:
    sides: dict[str, Sequence[Facts]] = {}
    done, total = 0, len(found.files)
    for side, files in zip(SPLITS, (found.train, found.val, found.test), strict=True):
        facts = list[Facts]()
        for entry in files:
            facts.append(examine(entry, table, found.bands, images=images))
            done += 1
            if progress:
                progress(done, total)
        sides[side] = facts
    return sides


def _side(facts: Sequence[Facts]) -> SideReport:
    sizes: list[Size] = sorted(
        ((f.width, f.height) for f in facts if f.height), key=lambda size: size[0] * size[1]
    )
    counts = np.sum([f.counts for f in facts], axis=0) if facts else np.zeros(255, np.int64)
    return SideReport(
        len({f.files.scene for f in facts}),
        len(facts),
        sum(width * height for width, height in sizes),
        sizes[0] if sizes else None,
        sizes[len(sizes) // 2] if sizes else None,
        sizes[-1] if sizes else None,
        tuple(int(n) for n in counts),
        sum(f.unlabelled for f in facts),
        sum(f.unknown for f in facts),
        sum(f.empty for f in facts),
        dict(sum((Counter(f.unlabelled_by) for f in facts), Counter[str]())),
    )


def _missing(names: Sequence[str], facts: Sequence[Facts], told: bool) -> list[str]:
    """Return problems for classes without a label pixel in train or val."""
    missing = missing_classes(names, np.sum([f.counts for f in facts], axis=0), told=told)
    unlabelled = sum((f.unlabelled_by for f in facts), Counter[str]())
    unknown = sum(f.unknown for f in facts)
    return [describe_missing(missing, unlabelled, unknown)] if missing else []


def _doubts(table: ClassTable | None, facts: Sequence[Facts]) -> tuple[str, ...]:
    unlabelled = sum((f.unlabelled_by for f in facts), Counter[str]())
    if table is None or not facts:
        return ()
    return doubts(table.colors, table.names, unlabelled, np.sum([f.counts for f in facts], axis=0).tolist())


def _gsd(facts: Sequence[Facts]) -> tuple[float, float] | None:
    known = [round(f.gsd_m, 6) for f in facts if f.gsd_m is not None]
    return (min(known), max(known)) if known else None


def _repeated(facts: Sequence[Facts]) -> list[str]:
    """Return each note on single rasters once, with the number of rasters."""
    counts = Counter(note for f in facts for note in f.notes)
    first = {note: f.files.name for f in reversed(facts) for note in f.notes}
    return [f"{n} rasters, first {first[note]}: {note}" for note, n in counts.items()]


def _absent(names: Sequence[str], sides: dict[str, SideReport]) -> list[str]:
    return [
        f"class {name} does not occur in {side}"
        for side in ("train", "val")
        if sides[side].rasters
        for index, name in enumerate(names)
        if not sides[side].class_pixels[index]
    ]
