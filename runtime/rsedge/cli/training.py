"""``rsedge train-teacher`` and ``rsedge distill``."""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsedge.cli import common
from rsedge.cli.data import parse_band_names, parse_names
from rsedge.cli.settings import with_options
from rsedge.errors import InputError

if TYPE_CHECKING:
    from rsedge_train.datasets import Dataset
    from rsedge_train.job import Job
    from rsedge_train.run_folder import Run

TEACHER_RUN, STUDENT_RUN, BIG_TILE = Path("runs/teacher"), Path("runs/student"), Path("big_tile.tif")
BIG_TILE_SEED = 7  # no training scene has it
GIB = 1 << 30

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
    classes: Annotated[Path | None, _option(help="TOML table of label colours.", panel=DATA)] = None
    bands: Annotated[
        str | None, _option(help="1-based bands that feed the network, e.g. 4,3,2.", panel=DATA)
    ] = None
    band_names: Annotated[str | None, _option(help="Their names, e.g. nir,red,green.", panel=DATA)] = None
    scale: Annotated[
        str | None, _option(help="Raster values mapped to 0 and 255, where not 8-bit.", panel=DATA)
    ] = None
    eroded: Annotated[
        bool, _option("--eroded", help="Score with ISPRS's boundary-eroded labels.", panel=DATA)
    ] = False
    damaged: Annotated[
        str, _option(help="A file that cannot be read: stop, or skip it and say so.", panel=DATA,
                     metavar="stop|skip"),
    ] = "stop"  # fmt: skip
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
    quiet: Annotated[bool, _option("--quiet", "-q", help="Print errors only.", panel=RUN)] = False


@dataclass(frozen=True)
class TeacherOptions(TrainOptions):
    """``rsedge train-teacher``."""

    arch: Annotated[str, typer.Option(help="Decoder.", metavar="arafnet|maflnet")] = "arafnet"
    sam2: Annotated[str, typer.Option(help="SAM2.1's Hiera trunk.", metavar="large|base-plus|small|tiny")] = (
        "large"
    )
    checkpoint: Annotated[
        str,
        typer.Option(
            help="SAM2's weights: an official .pt file, hub, or none (random, the trunk is trained too).",
            metavar="PATH|hub|none",
        ),
    ] = "hub"
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder.")] = TEACHER_RUN


@dataclass(frozen=True)
class DistillOptions(TrainOptions):
    """``rsedge distill``."""

    student: Annotated[str, typer.Option(help="Network; `rsedge models` lists them.", metavar="NAME")] = (
        "efficientnet_b0"
    )
    teacher: Annotated[Path, typer.Option(help="Run folder of the teacher.")] = TEACHER_RUN
    teacher_weights: Annotated[str, typer.Option(help="Which of its weights.", metavar="best|last")] = "best"
    alone: Annotated[bool, typer.Option("--alone", help="Train without a teacher, to compare.")] = False
    temperature: Annotated[float, typer.Option(help="Of DIST's softmax.")] = 0.5
    relation_weight: Annotated[float, typer.Option(help="Of DIST's two relations in the loss.")] = 1.0
    pretrained: Annotated[bool, typer.Option(help="Begin with timm's encoder weights (from the hub).")] = True
    compare: Annotated[
        Path | None, typer.Option(help="Run folder of the student alone, to show beside it on the sheet.")
    ] = None
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder.")] = STUDENT_RUN


# A rehearsal: what a user did not set himself.
QUICK: dict[str, Any] = {"crop": 128, "batch": 4, "validate_every": 0, "workers": 1}
QUICK_TEACHER = {**QUICK, "sam2": "tiny", "checkpoint": "none", "steps": 150}
QUICK_STUDENT = {**QUICK, "pretrained": False, "steps": 250}
QUICK_SAMPLES = {"sample_count": 6, "sample_side": 512}


@with_options(TeacherOptions)
def train_teacher(options: TeacherOptions, given: frozenset[str]) -> None:
    """Fine-tune a SAM2-based teacher on labelled imagery."""
    options = _rehearse(options, given, QUICK_TEACHER)
    size = "" if options.sam2 == "large" else f"-{options.sam2}"
    with common.needs_extra("train"):
        from rsedge_train.job import NetChoice

        checkpoint = None if options.checkpoint == "none" else options.checkpoint
        net = NetChoice(f"{options.arch}-t{size}", checkpoint=checkpoint, start=options.start)
        job = _job(options, "teacher", options.out, net)
    if options.data is None and not options.resume:
        _leave_big_tile(options)
    run = _train(options, job, _source(options))
    _show(options, run, options.out, "rsedge distill")


@with_options(DistillOptions)
def distill(options: DistillOptions, given: frozenset[str]) -> None:
    """Distil a small student from the teacher; --alone trains it without."""
    options = _rehearse(options, given, QUICK_STUDENT)
    with common.needs_extra("train"):
        from rsedge_train.job import Distillation, NetChoice
        from rsedge_train.nets.registry import entry
        from rsedge_train.run_folder import RUN_NAME

        if entry(options.student).trunk is not None:
            raise InputError(f"--student {options.student} is a teacher; `rsedge models` lists the students")
        net = NetChoice(options.student, pretrained=options.pretrained, start=options.start)
        job = replace(_job(options, "student", options.out, net), compare=options.compare)
        source = _source(options)
        if options.data is None and (not options.alone or (options.teacher / RUN_NAME).is_file()):
            source = _teachers_source(options.teacher, source, given)
        if not options.alone:
            wanted = Distillation(
                options.teacher, options.teacher_weights, options.temperature, options.relation_weight
            )
            job = replace(job, distillation=wanted)
    run = _train(options, job, source)
    _show(options, run, options.out, "rsedge export")


def _rehearse(options: Any, given: frozenset[str], quick: dict[str, Any]) -> Any:
    """With --quick, what the user did not set is small; said aloud."""
    if not options.quick:
        return options
    _say(options, "rehearsal (--quick): small crops, few steps; the weights are not meant for use")
    return replace(options, **{k: v for k, v in quick.items() if k not in given})


def _job(options: TrainOptions, role: str, out: Path, net: Any) -> Job:
    from rsedge_train.crops import CropConfig
    from rsedge_train.fit import FitConfig
    from rsedge_train.job import Job
    from rsedge_train.nets.configs import MAFLNetConfig
    from rsedge_train.nets.registry import entry

    if options.damaged not in {"stop", "skip"}:
        raise InputError(f"--damaged {options.damaged!r}: choose stop or skip")
    maflnet = isinstance(entry(net.name).config, MAFLNetConfig)
    crops = CropConfig(
        size=options.crop,
        batch=options.batch if options.batch is not None else 4 if maflnet else 8,
        seed=options.seed,
        mosaic=options.mosaic if options.mosaic is not None else 0.25 * maflnet,
    )
    fit = FitConfig(
        steps=options.steps if options.steps is not None else 1,  # else from epochs, once the data are known
        lr=options.lr,
        lr_encoder=options.lr_encoder,
        weight_decay=options.weight_decay,
        precision=options.precision,
        compile=options.compile,
        accumulate=options.accumulate,
    )
    return Job(
        role=role,
        out=out,
        net=net,
        crops=crops,
        fit=fit,
        epochs=None if options.steps is not None else options.epochs,
        validate_epochs=options.validate_every,
        class_weights=options.class_weights,
        sample_share=options.sample_share,
        skip_damaged=options.damaged == "skip",
        device=options.device,
        workers=options.workers,
        ram_bytes=int(options.ram_gib * GIB),
        resume=options.resume,
        overwrite=options.overwrite,
        rehearsal=options.quick,
    )


def _source(options: TrainOptions) -> dict[str, Any]:
    """Arguments of ``open_dataset``, as plain JSON values: a later command finds them in run.json."""
    names = parse_band_names(options.band_names)
    scale = common.parse_scale(options.scale)
    bands = common.parse_bands(options.bands)
    facts: dict[str, Any] = {
        "path": str(options.data.resolve()) if options.data else None,
        "val": list(parse_names(options.val)),
        "test": list(parse_names(options.test)),
        "classes": str(options.classes.resolve()) if options.classes else None,
        "bands": list(bands) if bands else None,
        "band_names": list(names) if names else None,
        "scale": list(scale) if scale else None,
        "eroded": options.eroded,
    }
    return {**facts, **(QUICK_SAMPLES if options.quick else {})}


def _teachers_source(teacher: Path, own: dict[str, Any], given: frozenset[str]) -> dict[str, Any]:
    """The data that the teacher was trained on, with what the user set for them himself."""
    from rsedge_train.run_folder import Run

    source = Run.read(teacher).data.get("source")
    if source is None:
        return own
    return {**source, **{key: value for key, value in own.items() if key in given}}


def _open(source: dict[str, Any], sample_share: float | None) -> Dataset:
    from rsedge_train.datasets import open_dataset, with_samples

    facts = dict(source)
    for key in ("path", "classes"):
        facts[key] = Path(facts[key]) if facts[key] else None
    for key in ("bands", "band_names", "scale"):
        facts[key] = tuple(facts[key]) if facts[key] else None
    dataset = open_dataset(facts.pop("path"), **facts)
    return with_samples(dataset) if sample_share and source["path"] else dataset


def _train(options: TrainOptions, job: Job, source: dict[str, Any]) -> Run:
    from rsedge_train.processes import session
    from rsedge_train.run import train

    level = logging.WARNING if options.quiet or not _first() else logging.INFO
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    logging.getLogger("rsedge_train").setLevel(level)
    with session(job.device) as processes:
        if not processes.first:
            processes.wait()  # the first one may have to draw sample scenes
        dataset = _open(source, options.sample_share)
        if processes.first:
            processes.wait()
        for note in dataset.notes:
            _note(options, note)
        return train(replace(job, source=source), dataset, processes)


def _leave_big_tile(options: TrainOptions) -> None:
    """A raster to try ``infer`` on, where the user brought no data; never trained on."""
    from rsedge.sample_files import write_sample

    if _first() and not BIG_TILE.exists():
        side = 2048 if options.quick else 8192
        with common.progress_bar("rows", options.quiet) as progress:
            write_sample(BIG_TILE, side, side, seed=BIG_TILE_SEED, progress=progress)
        _note(
            options,
            f"{BIG_TILE} is an unseen sample scene, to try `rsedge infer {BIG_TILE} --out mask.tif` on",
        )


def _show(options: TrainOptions, run: Run, out: Path, then: str) -> None:
    facts = run.progress
    _say(
        options,
        f"run      {out}: {run.network}, {facts['steps']} steps, {facts['seconds']:.0f} s in training",
    )
    _say(
        options,
        f"waiting  {facts['wait_share']:.1%} of the time for data, {facts['seconds_per_step']:.2f} s a step",
    )
    if "val_best" in facts:
        best, last = facts["val_best"], facts["val_last"]
        _say(options, f"scenes   validated on {', '.join(run.data['val'])}")
        _say(options, f"mIoU     {best['miou']:.3f} best (step {best['step']}), {last['miou']:.3f} last, "
             f"{best['majority']['miou']:.3f} for always the most frequent class")  # fmt: skip
    _say(options, f"look at  {out / 'curves.png'}, {out / 'sheet.png'}; then: {then}")
    if options.as_json and _first():
        common.say(json.dumps({"out": str(out), **run.to_dict()}))


def _say(options: TrainOptions, text: str) -> None:
    if not options.quiet and _first():
        common.say(text)


def _note(options: TrainOptions, text: str) -> None:
    if _first() and not options.quiet:
        print(f"note: {text}", file=sys.stderr)


def _first() -> bool:
    """Whether this is the process that prints, under torchrun."""
    return os.environ.get("RANK", "0") == "0"
