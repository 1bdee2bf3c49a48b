"""Options of ``rsedge export``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rsedge.cli import common, flags
from rsedge.cli.flags import option

RUN = Path("runs/student")
ALL = "fp32,fp16,int8"
CALIBRATION, GATE, ENGINE, FOREIGN = (
    "Calibration", "Limits for reduced precisions", "TensorRT engine", "ONNX from another tool"
)  # fmt: skip


@dataclass(frozen=True)
class ExportOptions:
    """Options as typed on the command line."""

    run: Annotated[
        Path | None, option(help="Run folder of distill or train-teacher.", show_default=str(RUN))
    ] = None
    out: Annotated[Path, option("--out", "-o", help="Bundle to write.")] = common.OWN_MODEL
    weights: Annotated[str, option(help="Best by validation mIoU, or last.", metavar="best|last")] = "best"
    name: Annotated[str | None, option(help="Name of the model.", show_default="that of --out")] = None
    precision: Annotated[
        str | None,
        option(
            help="Precisions to make; for an engine of this machine, one.",
            metavar="P,P",
            show_default=f"{ALL}; engine fp16",
        ),
    ] = None

    calibration: Annotated[
        list[str] | None,
        option(
            help='Raster or folder like what the model will meet, or "samples". May be repeated.',
            panel=CALIBRATION,
            metavar="PATH",
            show_default="the training data",
        ),
    ] = None
    calibration_tiles: Annotated[int, option(help="Tiles to calibrate on.", panel=CALIBRATION)] = 64
    bands: flags.Bands = None
    scale: flags.Scale = None
    nodata: flags.Nodata = None
    alpha: flags.Alpha = None

    gate: Annotated[
        Path | None,
        option(
            help="Labelled folder to judge on, as for eval.",
            panel=GATE,
            show_default="agreement on held calibration tiles",
        ),
    ] = None
    gate_tiles: Annotated[int, option(help="Tiles to judge on.", panel=GATE)] = 32
    max_miou_drop: Annotated[float, option(help="Points of mIoU that a precision may cost.", panel=GATE)] = (
        0.5
    )
    max_class_drop: Annotated[float, option(help="Points of IoU that it may cost a class.", panel=GATE)] = 1.5
    force: Annotated[
        bool, option("--force", help="Keep failing precisions, too; report and infer say so.", panel=GATE)
    ] = False

    trt: Annotated[
        bool, option("--trt", help="Build a TensorRT engine, for this machine only.", panel=ENGINE)
    ] = False
    targets: Annotated[
        str | None,
        option(
            "--for",
            help="With --trt: build with TensorRT for RTX instead, for GPUs of these kinds; no GPU needed.",
            panel=ENGINE,
            metavar="sm86,sm89",
        ),
    ] = None
    bundle: Annotated[
        Path | None,
        option(
            help="With --trt: the bundle to build from; no torch needed.",
            panel=ENGINE,
            show_default=f"the exported bundle, or ./{common.OWN_MODEL} if there is no run",
        ),
    ] = None

    onnx: Annotated[
        Path | None,
        option(help="An ONNX file in place of a run; needs --classes, --mean and --std.", panel=FOREIGN),
    ] = None
    classes: Annotated[
        Path | None,
        option(
            help="TOML table of classes and label colours, also for --gate.",
            panel=FOREIGN,
            show_default="the model's own",
        ),
    ] = None
    mean: Annotated[
        str | None, option(help="Mean per band, of values / --max-value.", panel=FOREIGN, metavar="M,M,M")
    ] = None
    std: Annotated[
        str | None, option(help="Standard deviation, likewise.", panel=FOREIGN, metavar="S,S,S")
    ] = None
    max_value: Annotated[float, option(help="Divisor of the values, applied first.", panel=FOREIGN)] = 255.0
    band_names: Annotated[str, option(help="Bands of its input, in order.", panel=FOREIGN)] = "red,green,blue"
    gsd: Annotated[
        str | None, option(help="Range of its training GSD, metres.", panel=FOREIGN, metavar="FINE,COARSE")
    ] = None
    tile: Annotated[int | None, option(help="Pixels, if the file leaves its input free.", panel=FOREIGN)] = (
        None
    )
    output: Annotated[
        str | None,
        option(
            help="Output that holds the scores.",
            panel=FOREIGN,
            show_default="the only possible one",
        ),
    ] = None

    as_json: flags.Json = False
    quiet: flags.Quiet = False
