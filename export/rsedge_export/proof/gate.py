"""The gate: the loss of a reduced precision against fp32, and the limits on that loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.backends import Backend, open_backend
from rsedge.engine import sliding_window as engine
from rsedge.errors import BackendError, InputError, ModelError
from rsedge.model.bundle import Bundle
from rsedge.model.manifest import NODATA, Manifest
from rsedge.raster import BandPlan, RasterReader, bounded_cache, plan_bands
from rsedge.raster.band_plan import AS_TAGGED, Masking
from rsedge.score.evaluation import check_labels
from rsedge.score.labels import LabelColors
from rsedge.score.metrics import Confusion
from rsedge.score.truth import LabelReader
from rsedge.tiling.axes import Tiling
from rsedge.tiling.window import Window
from rsedge.verify.agreement import AgreementMeter
from rsedge.verify.tiles import spread

CALIBRATION = "held calibration tiles"


@dataclass(frozen=True)
class Limits:
    """Largest allowed loss of a reduced precision: IoU drops in points (hundredths), agreements as shares."""

    miou_drop: float = 0.5
    class_drop: float = 1.5
    fp16_agreement: float = 0.999
    int8_agreement: float = 0.98

    def __post_init__(self) -> None:
        if not all(d >= 0 for d in (self.miou_drop, self.class_drop)):  # written so that NaN fails
            raise InputError("allowed IoU drops must be points of 0 or more. Correct the limits")
        if not all(0 <= a <= 1 for a in (self.fp16_agreement, self.int8_agreement)):
            raise InputError("required agreements must be shares from 0 to 1. Correct the limits")

    def agreement(self, precision: str) -> float:
        """Return the least share of pixels with fp32's class."""
        return self.int8_agreement if precision.startswith("int8") else self.fp16_agreement


@dataclass(frozen=True)
class Judged:
    """A tile (bands, tile, tile), a mask of its pixels with data, and their classes if known."""

    pixels: NDArray[Any]
    valid: NDArray[np.bool_]
    truth: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Verdict:
    """Comparison of one artifact with fp32 on the same tiles.

    IoUs are shares, drops points, means over the classes that the truth holds.
    """

    precision: str
    backend: str
    tiles: int
    tiles_from: str
    agreement: float
    clear_agreement: float | None
    worst_tile: float
    worst_error: float  # of a score, as a share of fp32's range
    miou_fp32: float | None
    miou: float | None
    miou_drop: float | None
    class_drops: dict[str, float] | None
    reasons: tuple[str, ...]  # why the artifact fails
    runs: bool = True  # False: the artifact does not load, or answers NaN; such a file is never kept
    parser: str | None = None  # what NVIDIA's parser said; None if it is not installed or not asked

    @property
    def passed(self) -> bool:
        """Return True if the artifact is within the limits."""
        return not self.reasons


def judge(folder: Path, precision: str, tiles: Iterable[Judged], tiles_from: str, limits: Limits) -> Verdict:
    """Run ``model.<precision>.onnx`` of the bundle ``folder`` and its fp32 on ``tiles`` and compare both.

    INT8 for CPUs is judged by OpenVINO, its target runtime, if installed, because the same file gives other
    answers in ONNX Runtime. All others use ONNX Runtime's CPU provider.
    """
    meter, names = AgreementMeter(), Bundle.open(folder).manifest.classes
    counts = [Confusion(np.zeros((len(names), len(names)), np.int64)) for _ in range(2)]
    device = "openvino" if precision == "int8" and find_spec("openvino") else "cpu"
    with open_backend(Bundle.open(folder), "cpu") as reference:
        try:
            candidate = open_backend(Bundle.open(folder, precision), device)
        except (BackendError, ModelError) as error:
            return _broken(precision, device, tiles_from, error)
        with candidate:
            for tile in tiles:
                exact = reference.infer(tile.pixels[None])[0]
                try:
                    found = candidate.infer(tile.pixels[None])[0]
                except BackendError as error:
                    return _broken(precision, _name(candidate), tiles_from, error)
                meter.add(exact, found, tile.valid)
                if tile.truth is not None:
                    answers = exact, found
                    counts = [_count(c, tile.truth, a) for c, a in zip(counts, answers, strict=True)]
            backend_name = _name(candidate)
    return _verdict(precision, backend_name, tiles_from, meter, counts, [c.name for c in names], limits)


def _broken(precision: str, backend: str, tiles_from: str, error: Exception) -> Verdict:
    """Return the verdict on a file that does not load or answers NaN."""
    return Verdict(
        precision=precision,
        backend=backend,
        tiles=0,
        tiles_from=tiles_from,
        agreement=0.0,
        clear_agreement=None,
        worst_tile=0.0,
        worst_error=1.0,
        miou_fp32=None,
        miou=None,
        miou_drop=None,
        class_drops=None,
        reasons=(str(error),),
        runs=False,
    )


def unlabelled(tiles: Iterable[NDArray[Any]]) -> Iterator[Judged]:
    """Yield tiles without labels, all their pixels counted."""
    for pixels in tiles:
        yield Judged(pixels, np.ones(pixels.shape[1:], np.bool_))


def labelled(
    pairs: Sequence[tuple[Path, Path]],
    manifest: Manifest,
    colors: LabelColors,
    count: int,
    bands: tuple[int, ...] | None = None,
    scale: tuple[float, float] | None = None,
    masking: Masking = AS_TAGGED,
) -> Iterator[Judged]:
    """Yield at most ``count`` tiles spread over the (image, label) ``pairs``, read one at a time.

    Raises InputError if the pairs cannot be used for the model.
    """
    found = 0
    for i, (image, label) in enumerate(pairs):
        share = count * (i + 1) // len(pairs) - count * i // len(pairs)
        with (
            RasterReader(image) as reader,
            LabelReader(label, colors, len(manifest.classes)) as truth,
            bounded_cache(reader.row_of_blocks_bytes + truth.raster.row_of_blocks_bytes),
        ):
            check_labels(reader, truth.raster)
            plan = plan_bands(reader, manifest, bands, scale, masking)
            windows = list(Tiling.of(reader.grid.height, reader.grid.width, manifest.tile, 0.0, "crop"))
            tiles = (_judged(reader, truth, window, plan, manifest) for window in spread(windows))
            for tile in islice((t for t in tiles if t is not None), share):
                found += 1
                yield tile
    if not found:
        raise InputError("the labelled images to judge on hold no labelled pixel with data. Give others")


def _judged(
    reader: RasterReader, truth: LabelReader, window: Window, plan: BandPlan, manifest: Manifest
) -> Judged | None:
    """Return one window as a tile, or None if no pixel with data has a class."""
    side = manifest.tile
    pixels, known = reader.read(window, plan)
    labels = np.where(known, truth.read(window), NODATA)
    if not (labels != NODATA).any():
        return None
    height, width = known.shape
    classes, valid = np.full((side, side), NODATA, np.uint8), np.zeros((side, side), np.bool_)
    valid[:height, :width], classes[:height, :width] = known, labels
    fill = np.array(manifest.fill, manifest.dtype)[:, None, None]
    return Judged(engine.reflect(np.where(known, pixels, fill), side), valid, classes)


def _count(total: Confusion, truth: NDArray[np.uint8], scores: NDArray[np.float32]) -> Confusion:
    found = scores.argmax(0).astype(np.uint8)
    return total + Confusion.of(truth, found, len(total.counts))


def _verdict(
    precision: str,
    backend: str,
    tiles_from: str,
    meter: AgreementMeter,
    counts: Sequence[Confusion],
    names: Sequence[str],
    limits: Limits,
) -> Verdict:
    found, reasons = meter.result, []
    least = limits.agreement(precision)
    if not found.agreement >= least:
        reasons.append(f"{found.agreement:.2%} of the pixels have fp32's class, but {least:.2%} are required")
    exact, reduced = counts
    drops: dict[str, float] | None = None
    means: list[float] = []
    miou_drop: float | None = None
    if exact.counts.sum():
        # Count only classes in the truth; a wrong pixel of another class must not add a class with IoU 0.
        present = exact.counts.sum(1) > 0
        lost = 100 * (exact.iou - reduced.iou)
        drops = {name: float(lost[i]) for i, name in enumerate(names) if present[i]}
        means = [float(c.iou[present].mean()) for c in (exact, reduced)]
        miou_drop = 100 * (means[0] - means[1])
        if not miou_drop <= limits.miou_drop:
            reasons.append(f"mIoU drops by {miou_drop:.2f} points, but only {limits.miou_drop:g} are allowed")
        reasons += [
            f"{name} loses {drop:.2f} points of IoU, but only {limits.class_drop:g} are allowed"
            for name, drop in drops.items()
            if not drop <= limits.class_drop
        ]
    return Verdict(
        precision=precision,
        backend=backend,
        tiles=found.tiles,
        tiles_from=tiles_from,
        agreement=found.agreement,
        clear_agreement=found.clear_agreement,
        worst_tile=found.worst_tile,
        worst_error=found.worst_error,
        miou_fp32=means[0] if means else None,
        miou=means[1] if means else None,
        miou_drop=miou_drop,
        class_drops=drops,
        reasons=tuple(reasons),
    )


def _name(backend: Backend) -> str:
    return f"{backend.name} {backend.version}"
