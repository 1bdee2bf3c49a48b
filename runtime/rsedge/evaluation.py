"""Scoring a model on labelled rasters, through the very engine that ``segment`` uses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsedge import engine
from rsedge.backends import Backend
from rsedge.errors import InputError
from rsedge.labels import LabelColors, find_pairs
from rsedge.metrics import Confusion
from rsedge.options import Options
from rsedge.prepare import plan_run, run_notes
from rsedge.raster import RasterReader, bounded_cache
from rsedge.raster.look import look
from rsedge.raster.scaling import check_scale
from rsedge.sinks import ScoreSink
from rsedge.truth import LabelReader


@dataclass(frozen=True)
class Evaluation:
    """Scores over all labelled pixels of all rasters together."""

    model: str
    precision: str
    sha256: str  # of the artifact that ran
    provider: str
    rasters: int
    class_names: tuple[str, ...]
    confusion: Confusion
    notes: tuple[str, ...] = ()  # each with the raster it is about

    def to_dict(self) -> dict[str, Any]:
        """The scores as plain JSON values; None for a class that does not occur."""
        c = self.confusion
        baseline = c.majority
        support = c.counts.sum(1)
        return {
            "model": self.model,
            "precision": self.precision,
            "sha256": self.sha256,
            "provider": self.provider,
            "rasters": self.rasters,
            "pixels": int(c.counts.sum()),
            "miou": _number(c.miou),
            "mean_f1": _number(c.mean_f1),
            "oa": _number(c.oa),
            "majority_baseline": {
                "class": self.class_names[int(support.argmax())],
                "miou": _number(baseline.miou),
                "oa": _number(baseline.oa),
            },
            "classes": [
                {"name": n, "iou": _number(i), "f1": _number(f), "pixels": int(p)}
                for n, i, f, p in zip(self.class_names, c.iou, c.f1, support, strict=True)
            ],
            "confusion_truth_by_row": c.counts.tolist(),
            "notes": list(self.notes),
        }


def evaluate(
    model: Backend,
    data: Path | str | Sequence[tuple[Path, Path]],
    options: Options | None = None,
    colors: LabelColors | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score ``model`` on (image, label) pairs, or on those under a folder (see ``labels.find_pairs``).

    One-band labels hold class indices, 255 or their own nodata value where unlabelled; three-band
    labels hold colours, looked up in ``colors`` (None: the model's own). ``progress`` is called with
    (rasters done, rasters in all).

    Raises InputError when labels and images do not fit each other or the model.
    """
    options = options or Options()
    manifest = model.bundle.manifest
    colors = colors or LabelColors.of_classes(manifest.classes, manifest.unlabelled)
    pairs = find_pairs(Path(data)) if isinstance(data, str | Path) else data
    notes = list[str]()
    total = Confusion(np.zeros((len(manifest.classes), len(manifest.classes)), np.int64))
    for done, (image, label) in enumerate(pairs, 1):
        with (
            RasterReader(image) as reader,
            LabelReader(label, colors, len(manifest.classes)) as truth,
            bounded_cache(reader.row_of_blocks_bytes + truth.raster.row_of_blocks_bytes),
        ):
            check_grids(reader, truth.raster)
            plan, tiling = plan_run(reader, manifest, options)
            scale_note, seen = check_scale(reader, plan), look(reader, plan)
            sink = ScoreSink(truth, reader.grid.width, len(manifest.classes))
            stats = engine.run(model, engine.Source(reader, plan, tiling), [sink])
            said = run_notes(reader, plan, model, stats.valid_pixels)
            notes += [f"{image.name}: {n}" for n in (*said, *seen, scale_note) if n]
        total += sink.confusion
        if progress:
            progress(done, len(pairs))
    if not total.counts.sum():
        raise InputError("the data hold no labelled pixel that the model could be scored on")
    names = tuple(c.name for c in manifest.classes)
    bundle = model.bundle
    return Evaluation(
        manifest.name,
        bundle.precision,
        bundle.sha256,
        model.provider,
        len(pairs),
        names,
        total,
        tuple(notes),
    )


def check_grids(image: RasterReader, label: RasterReader) -> None:
    """Raise InputError unless image and label have one size and, where both are referenced, one place."""
    a, b = image.grid, label.grid
    if (a.height, a.width) != (b.height, b.width):
        raise InputError(
            f"{label.path} is {b.width} x {b.height} pixels, its image {a.width} x {a.height}; they must match"
        )
    if a.crs and b.crs and not (a.crs == b.crs and a.transform.almost_equals(b.transform, 1e-6)):
        raise InputError(f"{label.path} lies elsewhere than its image: {b.facts()} against {a.facts()}")


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
