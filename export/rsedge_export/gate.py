"""The gate: what a reduced precision costs against fp32, and whether that is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge import engine
from rsedge.agreement import AgreementMeter
from rsedge.backends import Backend, open_backend
from rsedge.bundle import Bundle
from rsedge.check_tiles import spread
from rsedge.errors import InputError
from rsedge.evaluate import check_grids
from rsedge.labels import LabelColors
from rsedge.manifest import NODATA, Manifest
from rsedge.metrics import Confusion
from rsedge.raster import RasterReader, plan_bands
from rsedge.tiling import Tiling
from rsedge.truth import LabelReader

CALIBRATION = "held calibration tiles"


@dataclass(frozen=True)
class Limits:
    """What a reduced precision may cost. IoU drops are in points (hundredths), agreements are shares."""

    miou_drop: float = 0.5
    class_drop: float = 1.5
    fp16_agreement: float = 0.999
    int8_agreement: float = 0.98

    def __post_init__(self) -> None:
        if min(self.miou_drop, self.class_drop) < 0:
            raise InputError("allowed drops of IoU are points of 0 or more")
        if not all(0 <= a <= 1 for a in (self.fp16_agreement, self.int8_agreement)):
            raise InputError("allowed agreements are shares from 0 to 1")

    def agreement(self, precision: str) -> float:
        """Least share of the pixels with fp32's class."""
        return self.int8_agreement if precision.startswith("int8") else self.fp16_agreement


@dataclass(frozen=True)
class Judged:
    """A tile, (bands, tile, tile), which of its pixels hold data, and their classes where they are known."""

    pixels: NDArray[Any]
    valid: NDArray[np.bool_]
    truth: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Verdict:
    """What one artifact answered beside fp32 on the same tiles. IoUs are shares, drops points."""

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
    reasons: tuple[str, ...]  # why it does not pass

    @property
    def passed(self) -> bool:
        """Whether it keeps within the limits."""
        return not self.reasons


def judge(folder: Path, precision: str, tiles: Iterable[Judged], tiles_from: str, limits: Limits) -> Verdict:
    """Run ``model.<precision>.onnx`` of the bundle ``folder`` beside its fp32 on ``tiles``.

    INT8 for CPUs is judged by OpenVINO, which is to run it, where that is installed: the same file gives other
    answers in ONNX Runtime. Everything else by ONNX Runtime's CPU provider.
    """
    meter, names = AgreementMeter(), Bundle.open(folder).manifest.classes
    counts = [Confusion(np.zeros((len(names), len(names)), np.int64)) for _ in range(2)]
    device = "openvino" if precision == "int8" and _has_openvino() else "cpu"
    with (
        open_backend(Bundle.open(folder), "cpu") as reference,
        open_backend(Bundle.open(folder, precision), device) as candidate,
    ):
        for tile in tiles:
            answers = [backend.infer(tile.pixels[None])[0] for backend in (reference, candidate)]
            meter.add(answers[0], answers[1], tile.valid)
            if tile.truth is not None:
                counts = [_count(c, tile.truth, a) for c, a in zip(counts, answers, strict=True)]
        backend_name = _name(candidate)
    return _verdict(precision, backend_name, tiles_from, meter, counts, [c.name for c in names], limits)


def unlabelled(tiles: Iterable[NDArray[Any]]) -> Iterator[Judged]:
    """Tiles without labels, all their pixels counted."""
    for pixels in tiles:
        yield Judged(pixels, np.ones(pixels.shape[1:], np.bool_))


def labelled(
    pairs: Sequence[tuple[Path, Path]],
    manifest: Manifest,
    colors: LabelColors,
    count: int,
    bands: tuple[int, ...] | None = None,
    scale: tuple[float, float] | None = None,
) -> Iterator[Judged]:
    """At most ``count`` tiles spread over the (image, label) ``pairs``, read one at a time.

    Raises InputError when they cannot be used for the model.
    """
    side = manifest.tile
    fill = np.array(manifest.fill, manifest.dtype)[:, None, None]
    for i, (image, label) in enumerate(pairs):
        share = count * (i + 1) // len(pairs) - count * i // len(pairs)
        with (
            RasterReader(image) as reader,
            LabelReader(label, colors, len(manifest.classes)) as truth,
        ):
            check_grids(reader, truth.raster)
            plan = plan_bands(reader, manifest, bands, scale)
            windows = list(Tiling.of(reader.grid.height, reader.grid.width, side, 0.0, "crop"))
            for window in list(spread(windows))[:share]:
                pixels, known = reader.read(window, plan)
                classes = np.full((side, side), NODATA, np.uint8)
                valid = np.zeros((side, side), np.bool_)
                height, width = known.shape
                valid[:height, :width] = known
                classes[:height, :width] = np.where(known, truth.read(window), NODATA)
                yield Judged(engine.reflect(np.where(known, pixels, fill), side), valid, classes)


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
        reasons.append(f"{found.agreement:.2%} of the pixels have fp32's class, needed are {least:.2%}")
    exact, reduced = counts
    drops: dict[str, float] | None = None
    miou_drop: float | None = None
    if exact.counts.sum():
        present = exact.counts.sum(1) > 0
        lost = 100 * (exact.iou - reduced.iou)
        drops = {name: float(lost[i]) for i, name in enumerate(names) if present[i]}
        miou_drop = 100 * (exact.miou - reduced.miou)
        if not miou_drop <= limits.miou_drop:
            reasons.append(f"mIoU drops by {miou_drop:.2f} points, allowed are {limits.miou_drop:g}")
        reasons += [
            f"{name} loses {drop:.2f} points of IoU, allowed are {limits.class_drop:g}"
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
        miou_fp32=exact.miou if drops else None,
        miou=reduced.miou if drops else None,
        miou_drop=miou_drop,
        class_drops=drops,
        reasons=tuple(reasons),
    )


def _name(backend: Backend) -> str:
    return f"{backend.name} {backend.version}"


def _has_openvino() -> bool:
    try:
        import openvino  # noqa: F401, PLC0415 - an extra
    except ImportError:
        return False
    return True
