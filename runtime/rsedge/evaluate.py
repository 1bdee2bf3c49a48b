"""Scoring a model on labelled rasters, through the very engine that ``segment`` uses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge import engine
from rsedge.backends import Backend
from rsedge.errors import InputError
from rsedge.labels import LabelColors, find_pairs
from rsedge.manifest import NODATA
from rsedge.metrics import Confusion
from rsedge.raster import RasterReader, bounded_cache
from rsedge.segment import Options, plan_run, run_notes
from rsedge.sinks import ScoreSink
from rsedge.window import Window


@dataclass(frozen=True)
class Evaluation:
    """Scores over all labelled pixels of all rasters together."""

    model: str
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
    folder: Path | str,
    options: Options | None = None,
    colors: LabelColors | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score ``model`` on every labelled raster under ``folder`` (see ``labels.find_pairs``).

    One-band labels hold class indices, 255 or their own nodata value where unlabelled; three-band
    labels hold colours, looked up in ``colors`` (None: the model's own). ``progress`` is called with
    (rasters done, rasters in all).

    Raises InputError when labels and images do not fit each other or the model.
    """
    options = options or Options()
    manifest = model.bundle.manifest
    colors = colors or LabelColors.of_classes(manifest.classes)
    pairs, notes = find_pairs(Path(folder)), list[str]()
    total = Confusion(np.zeros((len(manifest.classes), len(manifest.classes)), np.int64))
    for done, (image, label) in enumerate(pairs, 1):
        with (
            RasterReader(image) as reader,
            RasterReader(label) as truth,
            bounded_cache(reader.row_of_blocks_bytes + truth.row_of_blocks_bytes),
        ):
            _check_grids(reader, truth)
            plan, tiling = plan_run(reader, manifest, options)
            sink = ScoreSink(_truth_rows(truth, colors, len(manifest.classes)), len(manifest.classes))
            stats = engine.run(model, reader, plan, tiling, [sink])
            notes += [f"{image.name}: {n}" for n in run_notes(reader, plan, model, stats.valid_pixels)]
        total += sink.confusion
        if progress:
            progress(done, len(pairs))
    if not total.counts.sum():
        raise InputError(f"{folder} holds no labelled pixel that the model could be scored on")
    names = tuple(c.name for c in manifest.classes)
    return Evaluation(manifest.name, model.provider, len(pairs), names, total, tuple(notes))


def _check_grids(image: RasterReader, label: RasterReader) -> None:
    a, b = image.grid, label.grid
    if (a.height, a.width) != (b.height, b.width):
        raise InputError(
            f"{label.path} is {b.width} x {b.height} pixels, its image {a.width} x {a.height}; they must match"
        )
    if a.crs and b.crs and not (a.crs == b.crs and a.transform.almost_equals(b.transform, 1e-6)):
        raise InputError(f"{label.path} lies elsewhere than its image: {b.facts()} against {a.facts()}")


def _truth_rows(
    reader: RasterReader, colors: LabelColors, classes: int
) -> Callable[[int, int], NDArray[np.uint8]]:
    def rows(row: int, height: int) -> NDArray[np.uint8]:
        pixels = reader.read_raw(Window(row, 0, height, reader.grid.width))
        if len(pixels) >= 3:
            return colors.encode(pixels[:3], reader.path)
        return _indices(pixels[0], reader, classes)

    return rows


def _indices(labels: NDArray[Any], reader: RasterReader, classes: int) -> NDArray[np.uint8]:
    ignored = labels == NODATA
    if reader.nodata is not None:
        ignored |= labels == reader.nodata
    outside = ~ignored & ((labels < 0) | (labels >= classes))
    if outside.any():
        values = ", ".join(f"{v:g}" for v in np.unique(labels[outside])[:5])
        raise InputError(
            f"{reader.path} holds label values {values}; the model's classes are 0 to {classes - 1}, "
            f"{NODATA} is unlabelled"
        )
    return np.where(ignored, NODATA, labels).astype(np.uint8)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
