"""The options of ``rsedge train-teacher`` and ``rsedge distill``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from rsedge.cli.flags import tell_settings

TEACHER_RUN, STUDENT_RUN = Path("runs/teacher"), Path("runs/student")

DATA, SCHEDULE, MACHINE, RUN = "Data", "Training", "Machine", "Run"


def _option(*names: str, help: str, panel: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


@dataclass(frozen=True)
class TrainOptions:
    """What both commands understand."""

    data: Annotated[
        Path | None,
        _option(help="Folder of labelled imagery; `rsedge data check` tells what is there.", panel=DATA,
                show_default="sample scenes"),
    ] = None  # fmt: skip
    val: Annotated[
        str | None, _option(help="Scenes to validate on, e.g. tile7,tile9; or none.", panel=DATA)
    ] = None
    test: Annotated[str | None, _option(help="Scenes to leave out.", panel=DATA)] = None
    classes: Annotated[Path | None, _option(help="TOML table of label colours or indices.", panel=DATA)] = (
        None
    )
    bands: Annotated[
        str | None, _option(help="1-based bands that feed the network, e.g. 4,3,2.", panel=DATA)
    ] = None
    band_names: Annotated[str | None, _option(help="Their names, e.g. nir,red,green.", panel=DATA)] = None
    scale: Annotated[
        str | None, _option(help="Raster values mapped to 0 and 255, where not 8-bit.", panel=DATA)
    ] = None
    nodata: Annotated[
        str | None, _option(help="Stored value that is no data, or one a band.", panel=DATA)
    ] = None
    alpha: Annotated[
        str | None, _option(help="Band that is 0 where there is no data, or none.", panel=DATA)
    ] = None
    eroded: Annotated[
        bool, _option("--eroded", help="Score with ISPRS's boundary-eroded labels.", panel=DATA)
    ] = False
    damaged: Annotated[
        str, _option(help="A file that cannot be read: stop, or skip it and say so.", panel=DATA,
                     metavar="stop|skip"),
    ] = "stop"  # fmt: skip
    allow_missing: Annotated[
        bool, _option("--allow-missing-classes", help="Go on where labels lack a class of the table.", panel=DATA)
    ] = False  # fmt: skip
    sample_share: Annotated[
        float | None, _option(help="Mix in sample scenes: their share of the crops, 0 to 1.", panel=DATA)
    ] = None

    epochs: Annotated[int, _option(help="Passes over the training area.", panel=SCHEDULE)] = 200
    steps: Annotated[int | None, _option(help="So many steps instead of epochs.", panel=SCHEDULE)] = None
    batch: Annotated[
        int | None, _option(help="Crops a step, all processes together.", panel=SCHEDULE,
                            show_default="8; 4 for MAFLNet"),
    ] = None  # fmt: skip
    crop: Annotated[int, _option(help="Pixels, a multiple of 32.", panel=SCHEDULE)] = 512
    lr: Annotated[float, _option(help="Learning rate of new modules.", panel=SCHEDULE)] = 6e-4
    lr_encoder: Annotated[float, _option(help="Learning rate of a pretrained encoder.", panel=SCHEDULE)] = (
        6e-5
    )
    weight_decay: Annotated[float, _option(help="AdamW's.", panel=SCHEDULE)] = 0.01
    mosaic: Annotated[
        float | None, _option(help="Share of crops put together from four.", panel=SCHEDULE,
                              show_default="0; 0.25 for MAFLNet"),
    ] = None  # fmt: skip
    augment: Annotated[
        str, _option(help="How far the look of crops changes: light alone, or other places and sensors too.",
                     panel=SCHEDULE, metavar="none|mild|broad"),
    ] = "broad"  # fmt: skip
    class_weights: Annotated[
        bool, _option("--class-weights", help="Weigh classes by median frequency.", panel=SCHEDULE)
    ] = False
    accumulate: Annotated[
        int, _option(help="Parts of a batch that go through one after another: less memory.", panel=SCHEDULE)
    ] = 1
    validate_every: Annotated[
        int, _option(help="Epochs between validations; 0: only at the end.", panel=SCHEDULE)
    ] = 1
    seed: Annotated[int, _option(help="Of weights, crops and augmentation.", panel=SCHEDULE)] = 42
    encoder_weights: Annotated[
        str,
        _option(
            help="What the encoder begins with: a .pth or .safetensors file, an installed package, hub, none "
            "(random), or auto: the package of the extra `lite` that fits, else the hub.",
            panel=SCHEDULE, metavar="auto|hub|FILE|PACKAGE|none"),
    ] = "auto"  # fmt: skip
    start: Annotated[
        Path | None, _option(help="Weights (.safetensors) of an earlier run to begin with.", panel=SCHEDULE)
    ] = None

    device: Annotated[str, _option(help="Where to train.", panel=MACHINE, metavar="auto|cpu|cuda")] = "auto"
    precision: Annotated[
        str, _option(help="Of the network's arithmetic.", panel=MACHINE, metavar="auto|fp32|bf16|fp16")
    ] = "auto"
    compile: Annotated[bool, _option("--compile", help="Use torch.compile.", panel=MACHINE)] = False
    workers: Annotated[int, _option(help="Processes that prepare crops.", panel=MACHINE)] = 2
    ram_gib: Annotated[
        float, _option(help="Keep the scenes in memory if all fit; else read windows.", panel=MACHINE)
    ] = 4.0

    resume: Annotated[bool, _option("--resume", help="Go on where the run stopped.", panel=RUN)] = False
    overwrite: Annotated[bool, _option("--overwrite", help="Replace a run that is there.", panel=RUN)] = False
    quick: Annotated[
        bool, _option("--quick", help="A rehearsal: a small network, small crops, few steps.", panel=RUN)
    ] = False
    as_json: Annotated[
        bool, _option("--json", help="Print what run.json says as one JSON object.", panel=RUN)
    ] = False
    quiet: Annotated[
        bool,
        _option("--quiet", "-q", help="Print errors only.", panel=RUN, callback=tell_settings, is_eager=True),
    ] = False


@dataclass(frozen=True)
class TeacherOptions(TrainOptions):
    """``rsedge train-teacher``."""

    arch: Annotated[str, typer.Option(help="Decoder.", metavar="arafnet|maflnet")] = "arafnet"
    encoder: Annotated[
        str | None,
        typer.Option(
            help="A network of `rsedge models` that teaches in place of SAM2's trunk.", metavar="NAME"
        ),
    ] = None
    sam2: Annotated[str, typer.Option(help="SAM2.1's Hiera trunk.", metavar="large|base-plus|small|tiny")] = (
        "large"
    )
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder.")] = TEACHER_RUN


@dataclass(frozen=True)
class DistillOptions(TrainOptions):
    """``rsedge distill``."""

    student: Annotated[str, typer.Option(help="Network; `rsedge models` lists them.", metavar="NAME")] = (
        "efficientnet_b0"
    )
    teacher: Annotated[
        list[Path] | None,
        typer.Option(help="Run folder of a teacher; of several the mean probability is learnt from.",
                     show_default=str(TEACHER_RUN)),
    ] = None  # fmt: skip
    teacher_views: Annotated[
        int, typer.Option(help="Turned and mirrored views of a crop that the teacher is asked for.",
                          metavar="1|2|4|8"),
    ] = 1  # fmt: skip
    teacher_weights: Annotated[str, typer.Option(help="Which of its weights.", metavar="best|last")] = "best"
    alone: Annotated[bool, typer.Option("--alone", help="Train without a teacher, to compare.")] = False
    temperature: Annotated[float, typer.Option(help="Of DIST's softmax.")] = 0.5
    relation_weight: Annotated[float, typer.Option(help="Of DIST's two relations in the loss.")] = 1.0
    compare: Annotated[
        Path | None, typer.Option(help="Run folder of the student alone, to show beside it on the sheet.")
    ] = None
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder.")] = STUDENT_RUN
