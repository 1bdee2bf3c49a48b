"""Scores of a model on labelled rasters, computed by the engine that ``segment`` uses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rsedge.backends import Backend
from rsedge.documents import to_dict
from rsedge.engine import sliding_window as engine
from rsedge.engine.sliding_window import Strip
from rsedge.errors import InputError
from rsedge.infer.inputs import plan_run, run_notes
from rsedge.infer.options import Options
from rsedge.model.manifest import NODATA, Manifest
from rsedge.raster import RasterReader, bounded_cache, describe_orientation, pixels_apart
from rsedge.raster.look import look
from rsedge.raster.scaling import check_scale
from rsedge.score.boundaries import TOLERANCE_PX, BoundaryCounter, BoundaryCounts
from rsedge.score.labels import LabelColors, choose_colors
from rsedge.score.metrics import Confusion
from rsedge.score.pairs import find_pairs
from rsedge.score.results import ClassScores, EvalResult, Majority, Uncounted
from rsedge.score.truth import LabelReader, describe_missing, doubts, find_missing, named_classes, settle
from rsedge.tiling.window import Window

MOST_APART_PX = 0.05  # of a label's corner from its image's; writing and rounding geotransforms leave as much


@dataclass(frozen=True)
class Evaluation:
    """Scores over the labelled pixels of all rasters."""

    model: str
    precision: str
    sha256: str  # of the artifact that ran
    provider: str
    rasters: int
    class_names: tuple[str, ...]
    confusion: Confusion
    boundaries: BoundaryCounts
    notes: tuple[str, ...] = ()  # each begins with the raster's name
    no_data: int = 0  # pixels of images without data, which are not counted
    unlabelled: Mapping[str, int] = field(
        default_factory=dict
    )  # value or colour in labels -> uncounted pixels

    @property
    def uncounted(self) -> int:
        """Number of pixels that are not scored."""
        return self.no_data + sum(self.unlabelled.values())

    @property
    def uncounted_share(self) -> float:
        """Share of all pixels that are not scored."""
        return self.uncounted / max(1, self.uncounted + int(self.confusion.counts.sum()))

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as plain JSON values; None for a class that does not occur."""
        c, baseline = self.confusion, self.confusion.majority
        support = c.counts.sum(1)
        scores = zip(self.class_names, c.iou, c.f1, self.boundaries.f, support, strict=True)
        return to_dict(
            EvalResult(
                model=self.model,
                precision=self.precision,
                sha256=self.sha256,
                provider=self.provider,
                rasters=self.rasters,
                pixels=int(support.sum()),
                uncounted=Uncounted(
                    self.uncounted, self.uncounted_share, self.no_data, dict(self.unlabelled)
                ),
                miou=_number(c.miou),
                mean_f1=_number(c.mean_f1),
                oa=_number(c.oa),
                mean_boundary_f=_number(self.boundaries.mean_f),
                boundary_tolerance_px=TOLERANCE_PX,
                majority_baseline=Majority(
                    self.class_names[int(support.argmax())], _number(baseline.miou), _number(baseline.oa)
                ),
                classes=tuple(
                    ClassScores(n, _number(i), _number(f), _number(b), int(p)) for n, i, f, b, p in scores
                ),
                confusion_truth_by_row=c.counts.tolist(),
                notes=self.notes,
            )
        )


@dataclass(frozen=True)
class Labelled:
    """Matching (image, label) files, the meaning of the labels, and notes on its source."""

    pairs: Sequence[tuple[Path, Path]]
    colors: LabelColors
    notes: tuple[str, ...] = ()


def find_labelled(
    manifest: Manifest,
    data: Path | str | Sequence[tuple[Path, Path]],
    colors: LabelColors | None = None,
    classes: Path | None = None,
    allow_missing: bool = False,
) -> Labelled:
    """Find the labelled rasters to score a model on; see ``evaluate``. ``classes``: a class table's file.

    Raises InputError if images and labels do not match, and, unless ``allow_missing``, if a class has no label
    pixel in any of them.
    """
    folder = Path(data) if isinstance(data, str | Path) else None
    pairs = find_pairs(folder) if folder else data
    assert not isinstance(pairs, str | Path)
    labels, count = [label for _, label in pairs], len(manifest.classes)
    source = None
    if colors is None:
        colors, source = choose_colors(manifest, labels, folder, classes)
    colors, notes = settle(colors, labels, count)
    for image, label in pairs:
        with RasterReader(image) as reader, RasterReader(label) as truth:
            check_labels(reader, truth)
    if not allow_missing:
        missing, unlabelled = find_missing(labels, colors, count)
        if missing == named_classes(colors, count):
            raise InputError(f"the data hold no labelled pixel to score the model on{_held(unlabelled)}")
        if missing:
            names = [manifest.classes[i].name for i in sorted(missing)]
            raise InputError(f"{len(labels)} rasters hold {describe_missing(names, unlabelled)}")
    return Labelled(pairs, colors, (*([source] if source else []), *notes))


def evaluate(
    model: Backend,
    data: Path | str | Sequence[tuple[Path, Path]],
    options: Options | None = None,
    colors: LabelColors | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    allow_missing: bool = False,
) -> Evaluation:
    """Score ``model`` on (image, label) pairs, or on those in a folder (see ``pairs.find_pairs``).

    Three-band labels hold colours, looked up in ``colors`` (None: a ``classes.toml`` in the folder, else the model's
    own). One-band labels hold the values or greys named by ``colors``, else class indices with 255 or the file's
    nodata value for unlabelled. ``progress`` is called with (rasters done, rasters in total).

    Raises InputError if labels do not match their images or the model, and, unless ``allow_missing``, if a class
    has no label pixel in any of them.
    """
    options = options or Options()
    manifest = model.bundle.manifest
    found = find_labelled(manifest, data, colors, allow_missing=allow_missing)
    notes, no_data, unlabelled = list(found.notes), 0, Counter[str]()
    total = Confusion(np.zeros((len(manifest.classes), len(manifest.classes)), np.int64))
    boundaries = BoundaryCounts.none(len(manifest.classes))
    for done, (image, label) in enumerate(found.pairs, 1):
        with (
            RasterReader(image) as reader,
            LabelReader(label, found.colors, len(manifest.classes)) as truth,
            bounded_cache(reader.row_of_blocks_bytes + truth.raster.row_of_blocks_bytes),
        ):
            plan, tiling = plan_run(reader, manifest, options)
            scale_note, seen = check_scale(reader, plan), look(reader, plan)
            sink = ScoreSink(truth, reader.grid.width, len(manifest.classes))
            stats = engine.run(model, engine.Source(reader, plan, tiling), [sink])
            said = run_notes(reader, plan, model, stats.valid_pixels)
            notes += [f"{image.name}: {n}" for n in (*said, *seen, scale_note) if n]
        total += sink.confusion
        boundaries += sink.boundaries.finish()
        no_data += sink.no_data
        unlabelled.update(sink.unlabelled)
        if progress:
            progress(done, len(found.pairs))
    if not total.counts.sum():
        raise InputError(f"the data hold no labelled pixel to score the model on{_held(unlabelled)}")
    names = tuple(c.name for c in manifest.classes)
    notes += doubts(found.colors, names, unlabelled, total.counts.sum(1).tolist())
    bundle = model.bundle
    return Evaluation(
        manifest.name,
        bundle.precision,
        bundle.sha256,
        model.provider,
        len(found.pairs),
        names,
        total,
        boundaries,
        tuple(notes),
        no_data,
        unlabelled,
    )


def _held(unlabelled: Mapping[str, int]) -> str:
    listed = ", ".join(f"{value} ({pixels} px)" for value, pixels in Counter(unlabelled).most_common(5))
    return f"; taken for unlabelled: {listed}" if listed else ""


def check_labels(image: RasterReader, label: RasterReader) -> None:
    """Raise InputError unless a label matches its image in size, place and orientation."""
    if image.orientation != label.orientation and pixels_apart(image.grid, label.grid) is None:
        turned, other = (image, label) if image.orientation != 1 else (label, image)
        tag = "none" if other.orientation == 1 else str(other.orientation)
        raise InputError(
            f"{turned.path} has EXIF orientation {turned.orientation} (viewers show it "
            f"{describe_orientation(turned.orientation)}), {other.path} has {tag}, so a mask drawn in a viewer does "
            "not match the stored pixels. Rotate the pixels and drop the tag (`mogrify -auto-orient`), or drop only "
            "the tag if the mask was drawn on the stored pixels."
        )
    check_grids(image, label)


def check_grids(image: RasterReader, label: RasterReader) -> None:
    """Raise InputError unless image and label have one size and, if both are georeferenced, one place (to 0.05 px)."""
    a, b = image.grid, label.grid
    if (a.height, a.width) != (b.height, b.width):
        raise InputError(
            f"{label.path} is {b.width} x {b.height} pixels, its image {a.width} x {a.height}; they must match"
        )
    apart = pixels_apart(a, b)
    if apart is not None and not max(map(abs, apart)) < MOST_APART_PX:
        across, down = apart
        bare = [raster.path for raster in (image, label) if raster.grid.crs is None]
        guess = (
            f" ({bare[0]} has no CRS; its pixels match those of the other raster)" if len(bare) == 1 else ""
        )
        raise InputError(
            f"{label.path} does not lie on its image: a corner is {_pixels(across, 'right', 'left')} and "
            f"{_pixels(down, 'below', 'above')} where it should be{guess}. Warp the label onto the image's grid, or "
            "copy the image's georeference if only that is wrong."
        )


def _pixels(distance: float, further: str, before: str) -> str:
    if not math.isfinite(distance):
        return "an unknown distance off"
    return f"{abs(distance):.{1 if abs(distance) >= 10 else 2}f} px {further if distance >= 0 else before}"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


class ScoreSink:
    """Consumer that compares mask strips with the truth; ``boundaries`` must be finished afterwards.

    Uncounted pixels: ``no_data``, where the image has none, and other ``unlabelled`` ones by stored value.
    """

    def __init__(self, truth: LabelReader, width: int, classes: int) -> None:
        self._truth, self._width, self._classes = truth, width, classes
        self.confusion = Confusion(np.zeros((classes, classes), np.int64))
        self.boundaries = BoundaryCounter(width, classes)
        self.no_data, self.unlabelled = 0, Counter[str]()

    def take(self, strip: Strip) -> None:
        """Add the strip's counts."""
        window = Window(strip.row, 0, len(strip.mask), self._width)
        scored = strip.mask != NODATA
        self.no_data += scored.size - int(np.count_nonzero(scored))
        truth = self._truth.read(window, self.unlabelled, scored)
        self.confusion += Confusion.of(truth, strip.mask, self._classes)
        self.boundaries.add(truth, strip.mask)
