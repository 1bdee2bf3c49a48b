"""Preparation of a run: open the raster, check the outputs, plan bands and windows, collect notes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rsedge.backends import Backend
from rsedge.errors import InputError
from rsedge.files import check_utf8
from rsedge.infer.options import Options
from rsedge.machine import usable_cores
from rsedge.model.manifest import Manifest
from rsedge.raster import (
    BandPlan,
    Grid,
    RasterReader,
    check_replaceable,
    check_target,
    describe_orientation,
    plan_bands,
)
from rsedge.raster.trust import NAMED, Trust
from rsedge.tiling.axes import Tiling
from rsedge.tiling.window import Window

RESAMPLE = "; --resample reads it at the model's GSD"
PNG_HEAD_BYTES = 1024  # a preview's Software tag lies within these
SAME_GSD = 0.01  # relative difference in ground sampling distance that no model notices
LEAST_SIDE = 512  # pixels: a model sees at least a tile, however narrow the raster
MOST_PIXELS, MOST_WINDOWS = 4 * 10**12, 10**8  # a larger run would never finish
MOST_READ_THREADS = 4  # decoding a strip's blocks; more threads would only outrun the model


def open_reader(raster: Path | str, manifest: Manifest, options: Options) -> RasterReader:
    """Open the raster, resampled to the model's GSD if requested and if the two differ.

    Raises InputError if resampling was requested but a GSD is unknown.
    """
    reader = RasterReader(raster, read_threads(), options.trust)
    if not options.resample:
        return reader
    with reader:
        gsd_m, trained = reader.grid.gsd_m, manifest.gsd_m
    if gsd_m is None or trained is None:
        which = "raster" if gsd_m is None else "model"
        raise InputError(f"cannot resample: the GSD of the {which} is unknown. Leave out --resample.")
    factor = resample_by(gsd_m, trained)
    if factor == 1:
        return RasterReader(raster, read_threads(), options.trust)
    from rsedge.raster.resample import Resampled  # noqa: PLC0415 - seldom needed

    return Resampled(raster, factor, read_threads(), options.trust)


def resample_by(gsd_m: float, trained: tuple[float, float]) -> float:
    """Return the factor on the pixel size that brings the GSD into the trained range.

    The factor is rounded to a whole number or its reciprocal if that changes it by at most SAME_GSD: half-metre
    pixels of a UTM grid measure exactly 0.5 m on the ground in two places only, and would be blurred for nothing.
    """
    factor = min(max(gsd_m, trained[0]), trained[1]) / gsd_m
    whole = max(1, round(max(factor, 1 / factor)))
    handy = float(whole) if factor >= 1 else 1 / whole
    return handy if abs(factor / handy - 1) <= SAME_GSD else factor


def check_whole(raster: Path | str, trust: Trust = NAMED, most_pixels: float = math.inf) -> None:
    """Raise InputError if the raster cannot be opened or its last pixel cannot be read (a truncated file).

    Raises it too if the raster has more than ``most_pixels``, counting each side as at least LEAST_SIDE.
    """
    with RasterReader(raster, trust=trust) as reader:
        height, width = reader.stored_size
        if (pixels := max(height, LEAST_SIDE) * max(width, LEAST_SIDE)) > most_pixels:
            raise InputError(
                f"{height} x {width} pixels take as long as {pixels / 1e6:.0f} Mpx, above the limit of "
                f"{most_pixels / 1e6:g} Mpx. Raise it with `rsedge watch --max-pixels`."
            )
        last = Window(reader.grid.height - 1, reader.grid.width - 1, 1, 1)
        # Reading tens of thousands of bands would touch one block each; the last band's block ends the file.
        reader.read_bands(last, (len(reader.dtypes),))


def read_threads() -> int:
    """Return the number of decoding threads; on two cores more than the reader's own only take memory."""
    return max(1, min(usable_cores() // 2, MOST_READ_THREADS))


def area_of_interest(grid: Grid, options: Options) -> Any:
    """Return the requested area of the raster as an `aoi.Aoi`, or None for all of it."""
    if options.bbox is None and options.aoi is None:
        return None
    from rsedge.vector.aoi import Aoi  # noqa: PLC0415 - seldom needed

    if options.aoi is not None:
        return Aoi.from_file(Path(options.aoi), grid, options.aoi_layer)
    assert options.bbox is not None
    return Aoi.from_bbox(options.bbox, grid, options.bbox_crs)


def check_outputs(reader: RasterReader, out: Path, options: Options) -> None:
    """Raise InputError if a result cannot be written or would replace an input file."""
    rasters = [out, *options.beside(out).values()]
    pictures = [Path(options.preview)] if options.preview else []
    read = [*reader.files, *([Path(options.aoi)] if options.aoi else [])]
    for target in options.outputs(out).values():
        check_utf8(target)
        if target.exists() and any(f.exists() and f.samefile(target) for f in read):
            raise InputError(
                f"{target} is an input: the raster, one of its files, or the area of interest. "
                "Choose another name for the result."
            )
    for target in rasters:
        check_target(target, options.overwrite, ours="RSEDGE_MODEL")  # unlike the image of a sample scene
    for target in pictures:
        check_target(target, suffixes=(".png",))
        check_replaceable(target, options.overwrite, is_preview)
    if options.summary:
        from rsedge.infer.summary import is_summary  # noqa: PLC0415 - seldom needed

        check_target(Path(options.summary), suffixes=(".json",))
        check_replaceable(Path(options.summary), options.overwrite, is_summary)


def is_preview(path: Path) -> bool:
    """Return True if ``path`` is a PNG preview drawn by rsedge."""
    with path.open("rb") as file:
        head = file.read(PNG_HEAD_BYTES)
    return head.startswith(b"\x89PNG") and b"tEXtSoftware\0rsedge " in head


def plan_run(reader: RasterReader, manifest: Manifest, options: Options) -> tuple[BandPlan, Tiling]:
    """Plan the model's bands and the windows over the raster. Raises InputError if that is impossible."""
    plan = plan_bands(reader, manifest, options.bands, options.scale, options.masking)
    grid = reader.grid
    tiling = Tiling.of(grid.height, grid.width, manifest.tile, options.overlap, options.seam)
    if grid.height * grid.width > MOST_PIXELS or tiling.windows > MOST_WINDOWS:
        raise InputError(
            f"{reader.path} has {grid.height} rows and {grid.width} columns, {tiling.windows} windows; the limits are "
            f"{MOST_PIXELS / 1e12:g} Tpx and {MOST_WINDOWS} windows. Split the raster."
        )
    return plan, tiling


def run_notes(
    reader: RasterReader, plan: BandPlan, model: Backend, valid_pixels: int, may_resample: bool = False
) -> tuple[str, ...]:
    """Return notes on the raster and the model; ``may_resample`` adds a hint at --resample."""
    grid, notes = reader.grid, list(plan.notes)
    if valid_pixels == 0:
        notes.append("the raster has no valid pixel, so the mask is all nodata")
    if reader.orientation != 1:
        notes.append(
            f"viewers show the image {describe_orientation(reader.orientation)} (EXIF orientation "
            f"{reader.orientation}); the mask follows the pixels as stored"
        )
    training = model.bundle.manifest.provenance.get("training")
    if isinstance(training, dict) and training.get("rehearsal"):
        notes.append("the model comes from a rehearsal (--quick), so its weights are not meant for use")
    notes += artifact_notes(model)
    gsd_m, trained = grid.gsd_m, model.bundle.manifest.gsd_m
    if gsd_m and trained and not trained[0] * 0.8 <= gsd_m <= trained[1] * 1.25:
        notes.append(
            f"the raster's GSD is {gsd_m:.2f} m, the model was trained at {trained[0]:g} to {trained[1]:g} m: "
            f"expect a worse mask{RESAMPLE if may_resample else ''}"
        )
    return tuple(notes)


def artifact_notes(model: Backend) -> tuple[str, ...]:
    """Return notes on the model's artifact and on the device that runs it."""
    precision, record, notes = model.bundle.precision, model.record, list[str]()
    if record.get("forced") is True or record.get("passed") is False:
        notes.append(
            f"this {precision} artifact failed its exporter's check and was kept by force: expect a worse "
            "mask, and compare with `rsedge verify`"
        )
    if model.trouble:
        notes.append(f"this {precision} engine was kept by force: {model.trouble}")
    if model.provider == "CPUExecutionProvider" and precision.startswith("int8"):
        notes.append(
            f"{precision} in onnxruntime is slower than fp32 on a CPU; use --device openvino for a faster "
            "int8"
        )
    elif model.provider == "CPUExecutionProvider" and precision == "fp16":
        notes.append("fp16 in onnxruntime runs as fp32 on a CPU and gains nothing; use it on GPUs")
    return tuple(notes)
