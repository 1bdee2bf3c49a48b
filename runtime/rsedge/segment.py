"""The Python API: open a model, segment a raster, score it. The command line stands on this."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from rsedge import engine
from rsedge.backends import Backend, open_backend
from rsedge.bundle import Bundle
from rsedge.engine import Timed
from rsedge.errors import InputError
from rsedge.manifest import NODATA, ClassInfo, Manifest
from rsedge.preview import draw
from rsedge.raster import (
    BandPlan,
    Format,
    Grid,
    RasterReader,
    RasterWriter,
    bounded_cache,
    check_target,
    plan_bands,
)
from rsedge.sinks import AreaSink, MaskSink, PreviewSink
from rsedge.tiling import Seam, Tiling
from rsedge.version import __version__


@dataclass(frozen=True)
class Options:
    """How to segment. ``bands`` are 1-based; ``scale`` maps raster values to the model's range."""

    overlap: float = 0.25  # least share of a tile common to neighbours, 0..0.75
    seam: Seam = "blend"
    bands: tuple[int, ...] | None = None
    scale: tuple[float, float] | None = None
    format: Format = "cog"
    preview: Path | str | None = None  # PNG of image and mask
    overwrite: bool = False  # also a raster that rsedge did not write

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise InputError(
                f"format {self.format!r} is unknown; choose one of {', '.join(get_args(Format))}"
            )
        if self.bands is not None and not all(isinstance(b, int) for b in self.bands):
            raise InputError(f"bands {self.bands!r} are not 1-based integers such as (4, 3, 2)")
        if self.scale is not None and not (
            len(self.scale) == 2 and all(isinstance(v, float | int) for v in self.scale)
        ):
            raise InputError(f"scale {self.scale!r} is not two numbers such as (0, 3000)")


@dataclass(frozen=True)
class ClassArea:
    """One class of a result: its mask value and how much of the raster it covers."""

    value: int
    name: str
    pixels: int
    share: float  # of the valid pixels, 0..1
    area_m2: float | None  # None where the grid has no known area


@dataclass(frozen=True)
class Result:
    """What ``segment`` did. ``seconds`` are busy seconds by stage (stages overlap) and the ``total``."""

    raster: str
    out: str
    preview: str | None
    grid: dict[str, Any]
    nodata_value: int
    nodata_pixels: int
    classes: tuple[ClassArea, ...]
    windows: int
    windows_skipped: int
    tile: int
    overlap: float
    seam: str
    bands: tuple[int, ...]
    seconds: dict[str, float]
    mpx_per_s: float  # raster pixels over total seconds, reading and writing included
    peak_rss_bytes: int
    model: str
    model_sha256: str
    precision: str
    backend: str
    provider: str
    rsedge_version: str
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return asdict(self)


def open_model(
    path: Path | str | None = None,
    device: str = "auto",
    threads: int | None = None,
    precision: str | None = None,
) -> Backend:
    """Open a bundle folder or an rsedge ``.onnx`` (None: the default model) on a device.

    ``precision`` None: a bundle's fp32, never quietly less; a lone file's own; on "tensorrt" that of the
    engine that is there. Use it as a context manager; ``backend.bundle.manifest`` says what it expects.

    Raises ModelError, BackendError or InputError.
    """
    # An engine need not have an ONNX file of its precision beside it.
    bundle = Bundle.open(path, None if device == "tensorrt" else precision)
    bundle.record()  # an edited report is an error now rather than after hours of work
    return open_backend(bundle, device, threads, precision)


def segment(
    model: Backend,
    raster: Path | str,
    out: Path | str,
    options: Options | None = None,
    progress: engine.Progress | None = None,
) -> Result:
    """Segment ``raster`` into a class mask ``out`` on the same grid.

    The mask is uint8: a class's place in the manifest, 255 where the raster holds no data. It appears
    under its name only when whole. ``progress`` is called with (windows done, windows in all).

    Raises InputError, BackendError or OutputError; whatever stood at ``out`` is then untouched.
    """
    options = options or Options()
    out = Path(out)
    begin = time.perf_counter()
    manifest = model.bundle.manifest
    with ExitStack() as stack:
        reader = stack.enter_context(RasterReader(raster))
        check_outputs(reader, out, options)
        grid = reader.grid
        plan, tiling = plan_run(reader, manifest, options)
        stack.enter_context(
            bounded_cache(reader.row_of_blocks_bytes + RasterWriter.row_of_blocks_bytes(grid))
        )
        writer = stack.enter_context(
            RasterWriter(
                out, grid, 1, manifest.classes, _provenance(model), options.format, options.overwrite
            )
        )
        area = AreaSink(grid, len(manifest.classes))
        sinks: list[engine.Sink] = [MaskSink(writer), area]
        preview = PreviewSink(grid, len(manifest.bands), manifest.dtype) if options.preview else None
        if preview:
            sinks.append(preview)
        stats = engine.run(model, reader, plan, tiling, sinks, progress)
        notes = run_notes(reader, plan, model, stats.valid_pixels)
        if not grid.is_referenced:
            notes = (*notes, "the raster has no CRS: the mask has none either, and areas are unknown")
        classes = _class_areas(manifest.classes, area)
        with Timed(stats, "write"):
            writer.finish()
            if preview and options.preview:
                draw(Path(options.preview), preview.picture(), manifest.classes, [c.share for c in classes])
    total_s = time.perf_counter() - begin
    return Result(
        raster=str(raster),
        out=str(out),
        preview=str(options.preview) if options.preview else None,
        nodata_pixels=grid.height * grid.width - stats.valid_pixels,
        classes=classes,
        windows=stats.windows,
        windows_skipped=stats.windows_skipped,
        seconds={**stats.seconds, "total": total_s},
        mpx_per_s=grid.height * grid.width / 1e6 / total_s,
        peak_rss_bytes=peak_rss_bytes(),
        notes=notes,
        **_conditions(model, grid, plan, options),
    )


def _conditions(model: Backend, grid: Grid, plan: BandPlan, options: Options) -> dict[str, Any]:
    """What a run was asked for, as far as its result repeats it."""
    manifest = model.bundle.manifest
    return {
        "grid": grid.facts(),
        "nodata_value": NODATA,
        "tile": manifest.tile,
        "overlap": options.overlap,
        "seam": options.seam,
        "bands": plan.indexes,
        "model": manifest.name,
        "model_sha256": model.bundle.sha256,
        "precision": model.bundle.precision,
        "backend": model.name,
        "provider": model.provider,
        "rsedge_version": __version__,
    }


def peak_rss_bytes() -> int:
    """Highest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _class_areas(classes: Sequence[ClassInfo], area: AreaSink) -> tuple[ClassArea, ...]:
    total = max(1, int(area.pixels.sum()))
    area_m2 = [None] * len(classes) if area.area_m2 is None else area.area_m2.tolist()
    return tuple(
        ClassArea(i, c.name, int(area.pixels[i]), int(area.pixels[i]) / total, area_m2[i])
        for i, c in enumerate(classes)
    )


def check_outputs(reader: RasterReader, out: Path, options: Options) -> None:
    """Raise InputError where a result would take the place of the raster itself or of one of its parts."""
    preview = [Path(options.preview)] if options.preview else []
    for target in (out, *preview):
        if target.exists() and any(f.exists() and f.samefile(target) for f in reader.files):
            raise InputError(
                f"{target} is the input raster or a part of it; choose another name for the result"
            )
    for target in preview:  # the writer checks ``out``
        check_target(target, suffixes=(".png",))


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


def plan_run(reader: RasterReader, manifest: Manifest, options: Options) -> tuple[BandPlan, Tiling]:
    """Which bands feed the model and which windows cover the raster. Raises InputError where that cannot be."""
    plan = plan_bands(reader, manifest, options.bands, options.scale)
    grid = reader.grid
    return plan, Tiling.of(grid.height, grid.width, manifest.tile, options.overlap, options.seam)


def run_notes(reader: RasterReader, plan: BandPlan, model: Backend, valid_pixels: int) -> tuple[str, ...]:
    """What the user should know of a run. Raises InputError where the declared scale cannot be right."""
    grid, notes = reader.grid, list(plan.notes)
    if plan.scale is not None and (note := reader.check_scale(plan.scale)):
        notes.append(note)
    if valid_pixels == 0:
        notes.append("the raster holds no valid pixel: the mask is all nodata")
    training = model.bundle.manifest.provenance.get("training")
    if isinstance(training, dict) and training.get("rehearsal"):
        notes.append("the model comes from a rehearsal (--quick): its weights are not meant for use")
    notes += artifact_notes(model)
    gsd_m, trained = grid.gsd_m, model.bundle.manifest.gsd_m
    if gsd_m and trained and not trained[0] * 0.8 <= gsd_m <= trained[1] * 1.25:
        notes.append(
            f"the raster's GSD is {gsd_m:.2f} m, the model was trained at {trained[0]:g} to {trained[1]:g} m: "
            "expect a worse mask; resample the raster first"
        )
    return tuple(notes)


def artifact_notes(model: Backend) -> tuple[str, ...]:
    """What the user should know of the artifact that runs, and of where it runs."""
    precision, record, notes = model.bundle.precision, model.record, list[str]()
    if record.get("forced") is True or record.get("passed") is False:
        notes.append(
            f"this {precision} artifact did not pass its exporter's check and was kept by force: expect a worse "
            "mask; compare with `rsedge verify`"
        )
    if model.trouble:
        notes.append(f"this {precision} engine was kept by force: {model.trouble}")
    if model.provider == "CPUExecutionProvider" and precision.startswith("int8"):
        notes.append(
            f"{precision} in onnxruntime on a CPU is slower than fp32; where it should be faster, "
            "take --device openvino"
        )
    elif model.provider == "CPUExecutionProvider" and precision == "fp16":
        notes.append(
            "fp16 in onnxruntime on a CPU is computed in fp32 and gains nothing; it is meant for GPUs"
        )
    return tuple(notes)
