"""The options of ``rsedge train-teacher`` and ``rsedge distill``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from rsedge.cli.flags import option, tell_settings

TEACHER_RUN, STUDENT_RUN = Path("runs/teacher"), Path("runs/student")

DATA, SCHEDULE, MACHINE, RUN = "Data", "Training", "Machine", "Run"
UNLABELLED = "Unlabelled imagery"


@dataclass(frozen=True)
class TrainOptions:
    """Options common to both commands."""

    data: Annotated[
        Path | None,
        option(help="Folder of labelled imagery; inspect it with `rsedge data check`.", panel=DATA,
                show_default="sample scenes"),
    ] = None  # fmt: skip
    val: Annotated[
        str | None, option(help="Scenes for validation, e.g. tile7,tile9; or none.", panel=DATA)
    ] = None
    test: Annotated[str | None, option(help="Scenes to leave out.", panel=DATA)] = None
    classes: Annotated[Path | None, option(help="TOML table of label colours or indices.", panel=DATA)] = None
    bands: Annotated[
        str | None, option(help="1-based bands to feed to the network, e.g. 4,3,2.", panel=DATA)
    ] = None
    band_names: Annotated[
        str | None, option(help="Names of these bands, e.g. nir,red,green.", panel=DATA)
    ] = None
    scale: Annotated[
        str | None, option(help="Raster values mapped to 0 and 255, if not 8-bit.", panel=DATA)
    ] = None
    nodata: Annotated[
        str | None, option(help="Value that marks missing data, or one per band.", panel=DATA)
    ] = None
    alpha: Annotated[
        str | None, option(help="Band that is 0 where data are missing, or none.", panel=DATA)
    ] = None
    eroded: Annotated[
        bool, option("--eroded", help="Score with ISPRS's boundary-eroded labels.", panel=DATA)
    ] = False
    damaged: Annotated[
        str, option(help="If a file cannot be read: stop, or skip it with a note.", panel=DATA,
                     metavar="stop|skip"),
    ] = "stop"  # fmt: skip
    allow_missing: Annotated[
        bool, option("--allow-missing-classes", help="Continue if the labels lack a class of the table.", panel=DATA)
    ] = False  # fmt: skip
    sample_share: Annotated[
        float | None, option(help="Share of crops taken from sample scenes, 0 to 1.", panel=DATA)
    ] = None

    epochs: Annotated[int, option(help="Passes over the training area.", panel=SCHEDULE)] = 200
    steps: Annotated[int | None, option(help="Number of steps, instead of epochs.", panel=SCHEDULE)] = None
    batch: Annotated[
        int | None, option(help="Crops per step, over all processes.", panel=SCHEDULE,
                            show_default="8; 4 for MAFLNet"),
    ] = None  # fmt: skip
    crop: Annotated[int, option(help="Side in pixels, a multiple of 32.", panel=SCHEDULE)] = 512
    lr: Annotated[float, option(help="Learning rate of new modules.", panel=SCHEDULE)] = 6e-4
    lr_encoder: Annotated[float, option(help="Learning rate of a pretrained encoder.", panel=SCHEDULE)] = 6e-5
    weight_decay: Annotated[float, option(help="Weight decay of AdamW.", panel=SCHEDULE)] = 0.01
    mosaic: Annotated[
        float | None, option(help="Share of crops composed of four.", panel=SCHEDULE,
                              show_default="0; 0.25 for MAFLNet"),
    ] = None  # fmt: skip
    augment: Annotated[
        str, option(help="How far to alter the look of crops: mild: light; broad: also places and sensors.",
                     panel=SCHEDULE, metavar="none|mild|broad"),
    ] = "broad"  # fmt: skip
    class_weights: Annotated[
        bool, option("--class-weights", help="Weight classes by median frequency.", panel=SCHEDULE)
    ] = False
    accumulate: Annotated[
        int,
        option(
            help="Split each batch into so many parts, processed in turn, to save memory.", panel=SCHEDULE
        ),
    ] = 1
    validate_every: Annotated[
        int, option(help="Epochs between validations; 0: only at the end.", panel=SCHEDULE)
    ] = 1
    seed: Annotated[int, option(help="Seed of weights, crops and augmentation.", panel=SCHEDULE)] = 42
    encoder_weights: Annotated[
        str,
        option(
            help="Initial encoder weights: a .pth or .safetensors file, an installed package, hub, none "
            "(random), or auto: the matching package of the extra `lite`, else the hub.",
            panel=SCHEDULE, metavar="auto|hub|FILE|PACKAGE|none"),
    ] = "auto"  # fmt: skip
    start: Annotated[
        Path | None, option(help="Initial weights (.safetensors) from an earlier run.", panel=SCHEDULE)
    ] = None

    device: Annotated[str, option(help="Device to train on.", panel=MACHINE, metavar="auto|cpu|cuda")] = (
        "auto"
    )
    precision: Annotated[
        str, option(help="Precision of the arithmetic.", panel=MACHINE, metavar="auto|fp32|bf16|fp16")
    ] = "auto"
    compile: Annotated[bool, option("--compile", help="Use torch.compile.", panel=MACHINE)] = False
    workers: Annotated[int, option(help="Processes that prepare crops.", panel=MACHINE)] = 2
    ram_gib: Annotated[
        float, option(help="Keep the scenes in memory if they fit; else read windows.", panel=MACHINE)
    ] = 4.0

    resume: Annotated[bool, option("--resume", help="Continue an unfinished run.", panel=RUN)] = False
    overwrite: Annotated[bool, option("--overwrite", help="Replace an existing run.", panel=RUN)] = False
    quick: Annotated[
        bool, option("--quick", help="Rehearse with a small network, small crops and few steps.", panel=RUN)
    ] = False
    as_json: Annotated[
        bool, option("--json", help="Print the contents of run.json as one JSON object.", panel=RUN)
    ] = False
    quiet: Annotated[
        bool,
        option("--quiet", "-q", help="Print errors only.", panel=RUN, callback=tell_settings, is_eager=True),
    ] = False


@dataclass(frozen=True)
class TeacherOptions(TrainOptions):
    """Options of ``rsedge train-teacher``."""

    arch: Annotated[str, typer.Option(help="Decoder.", metavar="arafnet|maflnet")] = "arafnet"
    encoder: Annotated[
        str | None,
        typer.Option(help="Network of `rsedge models` to use in place of SAM2's trunk.", metavar="NAME"),
    ] = None
    sam2: Annotated[str, typer.Option(help="SAM2.1's Hiera trunk.", metavar="large|base-plus|small|tiny")] = (
        "large"
    )
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder.")] = TEACHER_RUN


@dataclass(frozen=True)
class DistillOptions(TrainOptions):
    """Options of ``rsedge distill``."""

    student: Annotated[str, typer.Option(help="Network; list them with `rsedge models`.", metavar="NAME")] = (
        "efficientnet_b0"
    )
    teacher: Annotated[
        list[Path] | None,
        typer.Option(help="Run folder of a teacher; repeat it to learn from the mean of several.",
                     show_default=str(TEACHER_RUN)),
    ] = None  # fmt: skip
    teacher_views: Annotated[
        int, typer.Option(help="Rotated and mirrored views of a crop for the teacher to average.",
                          metavar="1|2|4|8"),
    ] = 1  # fmt: skip
    teacher_weights: Annotated[str, typer.Option(help="Weights of the teacher.", metavar="best|last")] = (
        "best"
    )
    alone: Annotated[bool, typer.Option("--alone", help="Train without a teacher, for comparison.")] = False
    temperature: Annotated[float, typer.Option(help="Temperature of DIST's softmax.")] = 0.5
    relation_weight: Annotated[float, typer.Option(help="Weight of DIST's two relations in the loss.")] = 1.0
    quantize: Annotated[
        Path | None,
        typer.Option(help="Run folder of a finished student to fine-tune for INT8; its network and crop are used.",
                     metavar="RUN"),
    ] = None  # fmt: skip
    label_weight: Annotated[
        float, typer.Option(help="With --quantize: weight of all losses but imitating the run itself.")
    ] = 0.05
    compare: Annotated[
        Path | None, typer.Option(help="Run folder of the student trained alone, to show on the sheet.")
    ] = None
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder.")] = STUDENT_RUN

    unlabelled: Annotated[
        list[Path] | None,
        option(help="Folder of images without labels, on which only the teacher is learned from; repeat it for more.",
               panel=UNLABELLED),
    ] = None  # fmt: skip
    unlabelled_share: Annotated[
        float, option(help="Share of crops taken from it, 0 to 1.", panel=UNLABELLED)
    ] = 0.5
    unlabelled_loss: Annotated[
        str, option(help="Loss there: DIST, or the KL divergence.", panel=UNLABELLED, metavar="dist|kl")
    ] = "dist"
    unlabelled_weight: Annotated[
        float, option(help="Weight of that loss beside the labelled crops' loss.", panel=UNLABELLED)
    ] = 1.0
    unlabelled_confidence: Annotated[
        str, option(help="Weight of a pixel there: 1 - entropy / ln(classes) of the teacher's answer, or none.",
                    panel=UNLABELLED, metavar="entropy|none"),
    ] = "entropy"  # fmt: skip
    unlabelled_bands: Annotated[
        str | None, option(help="Its bands, 1-based.", panel=UNLABELLED, show_default="as --bands")
    ] = None
    unlabelled_scale: Annotated[
        str | None,
        option(help="Its values mapped to 0 and 255.", panel=UNLABELLED, show_default="as --scale"),
    ] = None
    unlabelled_nodata: Annotated[
        str | None, option(help="Its nodata value.", panel=UNLABELLED, show_default="as --nodata")
    ] = None
    unlabelled_alpha: Annotated[
        str | None, option(help="Its alpha band, or none.", panel=UNLABELLED, show_default="as --alpha")
    ] = None
