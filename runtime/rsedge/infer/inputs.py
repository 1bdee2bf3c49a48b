"""What comes before a run: the raster opened as it is to be read, and what can be said of it and of the model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rsedge.backends import Backend
from rsedge.errors import InputError
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
PNG_HEAD_BYTES = 1024  # in which a preview says who drew it
SAME_GSD = 0.01  # share by which ground sampling distances may differ and no model sees it
LEAST_SIDE = 512  # pixels: a model sees at least a tile, however narrow the raster
MOST_PIXELS, MOST_WINDOWS = 4 * 10**12, 10**8  # of a run that ends some day
MOST_READ_THREADS = 4  # decode a strip's blocks; more would be ahead of any model


def open_reader(raster: Path | str, manifest: Manifest, options: Options) -> RasterReader:
    """The raster, resampled to the model's GSD where that was asked for and is known to differ."""
    reader = RasterReader(raster, read_threads(), options.trust)
    if not options.resample:
        return reader
    with reader:
        gsd_m, trained = reader.grid.gsd_m, manifest.gsd_m
    if gsd_m is None or trained is None:
        which = "raster" if gsd_m is None else "model"
        raise InputError(f"resample was asked for, but the GSD of the {which} is unknown; leave it out")
    factor = resample_by(gsd_m, trained)
    if factor == 1:
        return RasterReader(raster, read_threads(), options.trust)
    from rsedge.raster.resample import Resampled  # noqa: PLC0415 - wanted seldom

    return Resampled(raster, factor, read_threads(), options.trust)


def resample_by(gsd_m: float, trained: tuple[float, float]) -> float:
    """How many times as long pixels must become for their GSD to be among those trained at.

    A whole number or one over it where that is within SAME_GSD: half-metre pixels of a UTM grid are 0.5 m on the
    ground only in two places, and all between would be blurred for nothing.
    """
    factor = min(max(gsd_m, trained[0]), trained[1]) / gsd_m
    whole = max(1, round(max(factor, 1 / factor)))
    handy = float(whole) if factor >= 1 else 1 / whole
    return handy if abs(factor / handy - 1) <= SAME_GSD else factor


def check_whole(raster: Path | str, trust: Trust = NAMED, most_pixels: float = math.inf) -> None:
    """Raise InputError where the raster cannot be opened, or its last pixel not read: the end may be missing.

    Also where it has more pixels than ``most_pixels``, each side counted as long as LEAST_SIDE at least.
    """
    with RasterReader(raster, trust=trust) as reader:
        height, width = reader.stored_size
        if (pixels := max(height, LEAST_SIDE) * max(width, LEAST_SIDE)) > most_pixels:
            raise InputError(
                f"{height} rows and {width} columns take as long as {pixels / 1e6:.0f} Mpx; allowed are "
                f"{most_pixels / 1e6:g} (`rsedge watch --max-pixels`)"
            )
        last = Window(reader.grid.height - 1, reader.grid.width - 1, 1, 1)
        # Tens of thousands of bands would be read one block each; the last one's stands at the end.
        reader.read_bands(last, (len(reader.dtypes),))


def read_threads() -> int:
    """Threads that decode; on two cores the reader's own does as much, and holds less of the file in memory."""
    return max(1, min(usable_cores() // 2, MOST_READ_THREADS))


def area_of_interest(grid: Grid, options: Options) -> Any:
    """The part of a raster that is wanted, an `aoi.Aoi`; None: all of it."""
    if options.bbox is None and options.aoi is None:
        return None
    from rsedge.vector.aoi import Aoi  # noqa: PLC0415 - wanted seldom

    if options.aoi is not None:
        return Aoi.from_file(Path(options.aoi), grid, options.aoi_layer)
    assert options.bbox is not None
    return Aoi.from_bbox(options.bbox, grid, options.bbox_crs)


def check_outputs(reader: RasterReader, out: Path, options: Options) -> None:
    """Raise InputError where a result cannot be written, or would replace the raster itself or a part of it."""
    rasters = [out, *options.beside(out).values()]
    pictures = [Path(options.preview)] if options.preview else []
    read = [*reader.files, *([Path(options.aoi)] if options.aoi else [])]
    for target in (*rasters, *pictures, *([Path(options.polygons)] if options.polygons else [])):
        if target.exists() and any(f.exists() and f.samefile(target) for f in read):
            raise InputError(
                f"{target} is the input raster or a part of it, or the area of interest; choose another name for "
                "the result"
            )
    for target in rasters:
        check_target(target, options.overwrite, ours="RSEDGE_MODEL")  # not the image of a sample scene
    for target in pictures:
        check_target(target, suffixes=(".png",))
        check_replaceable(target, options.overwrite, is_preview)


def is_preview(path: Path) -> bool:
    """Whether a PNG is a preview that rsedge drew."""
    with path.open("rb") as file:
        head = file.read(PNG_HEAD_BYTES)
    return head.startswith(b"\x89PNG") and b"tEXtSoftware\0rsedge " in head


def plan_run(reader: RasterReader, manifest: Manifest, options: Options) -> tuple[BandPlan, Tiling]:
    """Which bands feed the model and which windows cover the raster. Raises InputError where that cannot be."""
    plan = plan_bands(reader, manifest, options.bands, options.scale, options.masking)
    grid = reader.grid
    tiling = Tiling.of(grid.height, grid.width, manifest.tile, options.overlap, options.seam)
    if grid.height * grid.width > MOST_PIXELS or tiling.windows > MOST_WINDOWS:
        raise InputError(
            f"{reader.path} has {grid.height} rows and {grid.width} columns, {tiling.windows} windows: no raster is "
            f"that large ({MOST_PIXELS / 1e12:g} Tpx and {MOST_WINDOWS} windows are allowed); cut it"
        )
    return plan, tiling


def run_notes(
    reader: RasterReader, plan: BandPlan, model: Backend, valid_pixels: int, may_resample: bool = False
) -> tuple[str, ...]:
    """What the user should know of a run; ``may_resample``: whether it could have been told to resample."""
    grid, notes = reader.grid, list(plan.notes)
    if valid_pixels == 0:
        notes.append("the raster holds no valid pixel: the mask is all nodata")
    if reader.orientation != 1:
        notes.append(
            f"viewers show the picture {describe_orientation(reader.orientation)} (EXIF orientation "
            f"{reader.orientation}); the mask lies on its pixels as they are stored"
        )
    training = model.bundle.manifest.provenance.get("training")
    if isinstance(training, dict) and training.get("rehearsal"):
        notes.append("the model comes from a rehearsal (--quick): its weights are not meant for use")
    notes += artifact_notes(model)
    gsd_m, trained = grid.gsd_m, model.bundle.manifest.gsd_m
    if gsd_m and trained and not trained[0] * 0.8 <= gsd_m <= trained[1] * 1.25:
        notes.append(
            f"the raster's GSD is {gsd_m:.2f} m, the model was trained at {trained[0]:g} to {trained[1]:g} m: "
            f"expect a worse mask{RESAMPLE if may_resample else ''}"
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
