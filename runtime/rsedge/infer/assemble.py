"""Assembly of a result's files from the parts of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsedge.backends import Backend
from rsedge.infer.job import RUN_TAG, Job
from rsedge.infer.journal import Journal, Part
from rsedge.infer.memory_plan import Plan
from rsedge.infer.options import ClassArea
from rsedge.infer.part_sink import CONFIDENCE, MASK, PREVIEW, count_classes
from rsedge.raster.parts import Finish, assemble, strips_of_file
from rsedge.raster.writer import failure, publish
from rsedge.version import __version__


@dataclass(frozen=True)
class Finished:
    """Class areas, polygon count and notes of an assembled result."""

    classes: tuple[ClassArea, ...]
    polygon_count: int | None
    notes: tuple[str, ...]


def finish(job: Job, plan: Plan, journal: Journal) -> Finished:
    """Assemble the result's files from the parts and publish them, the mask last."""
    o = job.options
    parts = [journal.parts[area] for block in plan.parts for area in block]
    targets = {MASK: job.out, **o.beside(job.out)}
    whole: dict[str, Path] = {}
    tags = {**_provenance(job.model), RUN_TAG: job.digest()}
    how = Finish(o.format, o.compress, tags, job.fine, job.fine_inside())
    for layer in job.layers():
        whole[layer.name] = journal.folder / f"whole.{layer.name}.tif"
        placed = [(job.moved(p.area), journal.path(p.area, layer.name), _file(p, layer.name)) for p in parts]
        grid = job.out_grid if how.fine is None else job.reader.grid
        assemble(whole[layer.name], grid, layer, placed, how)
    classes = class_areas(job, parts, whole[MASK])
    notes, count = _polygons(job, whole[MASK])
    if o.preview:
        _draw(job, journal, classes)
    if o.summary:
        from rsedge.infer.summary import write_summary  # noqa: PLC0415 - seldom needed

        write_summary(job, classes, whole[MASK], whole.get(CONFIDENCE))
    for name in reversed(whole):
        try:
            publish(whole[name], Path(os.path.realpath(targets[name])))
        except OSError as error:
            raise failure(targets[name], error) from error
    return Finished(classes, count, notes)


def class_areas(job: Job, parts: Sequence[Part], mask: Path) -> tuple[ClassArea, ...]:
    """Return pixels, shares and areas of the classes, counted in the mask if the run was resampled."""
    fine, infos = job.fine, job.model.bundle.manifest.classes
    if fine is None:
        counts = [
            (part.pixels, part.area_m2) for part in sorted(parts, key=lambda p: (p.area.col, p.area.row))
        ]
    else:
        ground = fine.pixel_areas()
        counts = [count_classes(rows[0], window, len(infos), ground) for window, rows in strips_of_file(mask)]
    pixels = [sum(p[k] for p, _ in counts) for k in range(len(infos))]
    return tuple(
        ClassArea(
            k,
            info.name,
            pixels[k],
            pixels[k] / max(1, sum(pixels)),
            None if counts[0][1] is None else sum(m2[k] for _, m2 in counts if m2),
        )
        for k, info in enumerate(infos)
    )


def _draw(job: Job, journal: Journal, classes: Sequence[ClassArea]) -> None:
    from rsedge.infer.preview import draw  # noqa: PLC0415 - Pillow is seldom needed

    thumbnail = job.thumbnail()
    if thumbnail is None or job.options.preview is None:
        return
    for area in journal.parts:
        thumbnail.load(journal.path(area, PREVIEW), area)
    infos = job.model.bundle.manifest.classes
    draw(Path(job.options.preview), thumbnail.picture(), infos, [c.share for c in classes])


def _polygons(job: Job, mask: Path) -> tuple[tuple[str, ...], int | None]:
    o = job.options
    if o.polygons is None:
        return (), None
    from rsedge.vector.polygons import write_polygons  # noqa: PLC0415

    summary = write_polygons(
        mask,
        Path(o.polygons),
        job.model.bundle.manifest.classes,
        min_area_m2=o.min_area_m2,
        min_pixels=o.min_pixels,
        overwrite=o.overwrite,
    )
    return summary.notes, summary.polygons


def _file(part: Part, layer: str) -> Any:
    return next(f for f in part.files if f.layer == layer)


def _provenance(model: Backend) -> dict[str, str]:
    bundle = model.bundle
    return {
        "RSEDGE_VERSION": __version__,
        "RSEDGE_MODEL": bundle.manifest.name,
        "RSEDGE_MODEL_SHA256": bundle.sha256,
        "RSEDGE_PRECISION": bundle.precision,
        "RSEDGE_BACKEND": f"{model.name} {model.provider}",
        "TIFFTAG_SOFTWARE": f"rsedge {__version__}",
    }
