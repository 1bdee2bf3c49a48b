"""``rsedge train-teacher`` and ``rsedge distill``."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsedge.cli import common, flags
from rsedge.cli.data import parse_band_names, parse_names
from rsedge.cli.settings import with_options
from rsedge.cli.training_options import TEACHER_RUN, DistillOptions, TeacherOptions, TrainOptions
from rsedge.errors import InputError
from rsedge.text import block

if TYPE_CHECKING:
    from rsedge_train.data import Dataset
    from rsedge_train.run.folder import Run
    from rsedge_train.run.request import Job

BIG_TILE = Path("big_tile.tif")
BIG_TILE_SEED = 7  # used by no training scene
GIB = 1 << 30

# Values of a rehearsal for options that the user did not set.
QUICK: dict[str, Any] = {"crop": 128, "batch": 4, "validate_every": 0, "workers": 1}
QUICK_TEACHER = {**QUICK, "sam2": "tiny", "encoder_weights": "none", "steps": 150}
QUICK_STUDENT = {**QUICK, "encoder_weights": "none", "steps": 250}
# Fine-tuning for INT8: values of options that the user did not set.
QUANTIZE: dict[str, Any] = {
    "lr": 5e-5,
    "steps": 500,
    "validate_every": 0,
    "encoder_weights": "none",
}
QUICK_QUANTIZE = {**QUANTIZE, "batch": 4, "workers": 1, "steps": 20}
QUICK_SAMPLES = {"sample_count": 6, "sample_side": 512}


@with_options(TeacherOptions)
def train_teacher(options: TeacherOptions, given: frozenset[str]) -> None:
    """Fine-tune a SAM2-based teacher on labelled imagery."""
    options = _rehearse(options, given, QUICK_TEACHER)
    with common.needs_extra("train"):
        from rsedge_train.run.request import NetChoice

        net = NetChoice(_teachers_network(options, given), options.encoder_weights, options.start)
        job = _job(options, "teacher", options.out, net)
    if options.data is None and not options.resume:
        _leave_big_tile(options)
    run = _train(options, job, _source(options))
    _show(options, run, options.out, "rsedge distill")


@with_options(DistillOptions)
def distill(options: DistillOptions, given: frozenset[str]) -> None:
    """Distil a small student from the teacher, or train it without one (--alone)."""
    options = _rehearse(options, given, QUICK_STUDENT if options.quantize is None else QUICK_QUANTIZE)
    if options.quantize is not None:
        options = _quantizing(options, given)
    with common.needs_extra("train"):
        from rsedge_train.nets.registry import entry
        from rsedge_train.run.folder import RUN_NAME
        from rsedge_train.run.request import Distillation, NetChoice, Quantization, Unlabelled
        from rsedge_train.run.setup import NO_TEACHER

        if entry(options.student).trunk is not None:
            raise InputError(
                f"--student {options.student} is a teacher; list the students with `rsedge models`"
            )
        if options.alone and options.unlabelled:
            raise InputError(NO_TEACHER)
        net = NetChoice(options.student, options.encoder_weights, options.start)
        teachers = tuple(options.teacher or (common.own_default(TEACHER_RUN, "--teacher"),))
        job = replace(_job(options, "student", options.out, net), compare=options.compare)
        source, first = _source(options), options.quantize or teachers[0]
        if options.data is None and (not options.alone or (first / RUN_NAME).is_file()):
            source = _teachers_source(first, source, given)
        if options.quantize is not None:
            job = replace(job, quantization=Quantization(options.quantize, label_weight=options.label_weight))
        if not options.alone:
            more = Unlabelled(
                options.unlabelled_share,
                options.unlabelled_loss,
                options.unlabelled_weight,
                options.unlabelled_confidence,
            )
            wanted = Distillation(
                teachers,
                options.teacher_weights,
                options.temperature,
                options.relation_weight,
                options.teacher_views,
                more if options.unlabelled else None,
            )
            job = replace(job, distillation=wanted)
    run = _train(options, job, source, _imagery(options))
    _show(options, run, options.out, "rsedge export")


def _quantizing(options: DistillOptions, given: frozenset[str]) -> DistillOptions:
    """Return the options with network, crop and share of samples of the run to quantize, and a short schedule.

    Without ``--teacher``, the run itself is the only teacher.
    """
    with common.needs_extra("train"):
        from rsedge_train.run.folder import Run, weights_path

    assert options.quantize is not None
    if options.start is not None or "encoder_weights" in given:
        raise InputError("--quantize starts from the run's weights; leave out --start and --encoder-weights")
    run = Run.read(options.quantize)
    weights_path(options.quantize)  # raises if the run is not finished
    if "student" in given and options.student != run.network:
        raise InputError(
            f"--quantize {options.quantize}: that run trained {run.network}; leave out --student {options.student}"
        )
    own = {
        **({} if options.quick else QUANTIZE),
        "student": run.network,
        "crop": run.crop,
        "sample_share": run.data.get("sample_share"),
        "alone": not options.teacher,
    }
    return replace(options, **{key: value for key, value in own.items() if key not in given})


def _teachers_network(options: TeacherOptions, given: frozenset[str]) -> str:
    """Return the registered name of the requested teacher."""
    if options.encoder is None:
        return f"{options.arch}-t" + ("" if options.sam2 == "large" else f"-{options.sam2}")
    if options.arch != "arafnet" or "sam2" in given:
        raise InputError(
            "--encoder replaces SAM2's trunk under ARAFNet's decoder; leave out --arch and --sam2"
        )
    return options.encoder


def _rehearse(options: Any, given: frozenset[str], quick: dict[str, Any]) -> Any:
    """Replace options that the user did not set by small ones if --quick was given, and say so."""
    if not options.quick:
        return options
    _say(options, "rehearsal (--quick): small crops, few steps; do not use the weights")
    return replace(options, **{k: v for k, v in quick.items() if k not in given})


def _job(options: TrainOptions, role: str, out: Path, net: Any) -> Job:
    from rsedge_train.data.crops import CropConfig
    from rsedge_train.fit.loop import FitConfig
    from rsedge_train.nets.configs import MAFLNetConfig
    from rsedge_train.nets.registry import entry
    from rsedge_train.run.request import Job

    if options.damaged not in {"stop", "skip"}:
        raise InputError(f"--damaged {options.damaged!r} is unknown; choose stop or skip")
    maflnet = isinstance(entry(net.name).config, MAFLNetConfig)
    crops = CropConfig(
        size=options.crop,
        batch=options.batch if options.batch is not None else 4 if maflnet else 8,
        seed=options.seed,
        look=options.augment,
        mosaic=options.mosaic if options.mosaic is not None else 0.25 * maflnet,
    )
    fit = FitConfig(
        steps=options.steps
        if options.steps is not None
        else 1,  # otherwise set from the epochs once the data are read
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
        allow_missing=options.allow_missing,
        device=options.device,
        workers=options.workers,
        ram_bytes=int(options.ram_gib * GIB),
        resume=options.resume,
        overwrite=options.overwrite,
        rehearsal=options.quick,
    )


def _source(options: TrainOptions) -> dict[str, Any]:
    """Return the arguments of ``open_dataset`` as plain JSON values, which a later command reads from run.json."""
    names = parse_band_names(options.band_names)
    scale = flags.parse_scale(options.scale)
    bands, nodata = flags.parse_bands(options.bands), flags.parse_nodata(options.nodata)
    facts: dict[str, Any] = {
        "path": str(options.data.resolve()) if options.data else None,
        "val": list(parse_names(options.val)),
        "test": list(parse_names(options.test)),
        "classes": str(options.classes.resolve()) if options.classes else None,
        "bands": list(bands) if bands else None,
        "band_names": list(names) if names else None,
        "scale": list(scale) if scale else None,
        "nodata": list(nodata) if nodata else None,
        "alpha": flags.parse_alpha(options.alpha),
        "eroded": options.eroded,
    }
    return {**facts, **(QUICK_SAMPLES if options.quick else {})}


def _teachers_source(teacher: Path, own: dict[str, Any], given: frozenset[str]) -> dict[str, Any]:
    """Return the data source that the teacher was trained on, updated with the user's own options."""
    from rsedge_train.run.folder import Run

    source = Run.read(teacher).data.get("source")
    if source is None:
        return own
    return {**source, **{key: value for key, value in own.items() if key in given}}


def _open(source: dict[str, Any], sample_share: float | None) -> Dataset:
    from rsedge_train.data import masking_of, open_dataset, with_samples

    facts = dict(source)
    for key in ("path", "classes"):
        facts[key] = Path(facts[key]) if facts[key] else None
    for key in ("bands", "band_names", "scale"):
        facts[key] = tuple(facts[key]) if facts[key] else None
    facts["masking"] = masking_of(facts.pop("nodata", None), facts.pop("alpha", None))
    dataset = open_dataset(facts.pop("path"), **facts)
    return with_samples(dataset) if sample_share and source["path"] else dataset


def _imagery(options: DistillOptions) -> dict[str, Any]:
    """Return the arguments of ``with_unlabelled``; {} without unlabelled imagery."""
    from rsedge.raster.band_plan import Masking
    from rsedge_train.data.unlabelled import of_unlabelled

    if not options.unlabelled:
        return {}
    try:
        nodata, alpha = (
            flags.parse_nodata(options.unlabelled_nodata),
            flags.parse_alpha(options.unlabelled_alpha),
        )
        return {
            "folders": options.unlabelled,
            "bands": flags.parse_bands(options.unlabelled_bands),
            "scale": flags.parse_scale(options.unlabelled_scale),
            "masking": Masking(nodata, alpha) if nodata or alpha else None,
        }
    except InputError as error:
        raise InputError(of_unlabelled(str(error))) from error


def _train(
    options: TrainOptions, job: Job, source: dict[str, Any], imagery: dict[str, Any] | None = None
) -> Run:
    from rsedge_train.data import with_unlabelled
    from rsedge_train.fit.processes import pick_device, session
    from rsedge_train.run.setup import check_folder
    from rsedge_train.run.train import train

    level = logging.WARNING if options.quiet or not _first() else logging.INFO
    log = logging.StreamHandler(sys.stderr)
    log.setFormatter(_Printable())
    log.addFilter(
        lambda record: "GDAL_SKIP" not in record.getMessage()
    )  # drivers that this GDAL does not have
    logging.basicConfig(level=logging.WARNING, handlers=[log])
    logging.getLogger("rsedge_train").setLevel(level)
    with session(job.device) as processes:
        pick_device(job.device, processes)  # reports cheap errors before the data are read
        if processes.first:
            check_folder(job)
        if not processes.first:
            processes.wait()  # the first process may have to draw sample scenes
        dataset = _open(source, options.sample_share)
        if imagery:
            dataset = with_unlabelled(dataset, **imagery)
        if processes.first:
            processes.wait()
        for note in dataset.notes:
            _note(options, note)
        return train(replace(job, source=source), dataset, processes)


class _Printable(logging.Formatter):
    """A formatter that prints a record's message alone, with unprintable characters escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message, with all lines but the first indented."""
        return "\n".join(block(super().format(record)))


def _leave_big_tile(options: TrainOptions) -> None:
    """Write a sample raster for ``infer`` if the user brought no data; training never uses it."""
    from rsedge_sample.files import write_sample

    if _first() and not BIG_TILE.exists():
        side = 2048 if options.quick else 8192
        with common.progress_bar("rows", options.quiet) as progress:
            write_sample(BIG_TILE, side, side, seed=BIG_TILE_SEED, progress=progress)
        _note(
            options,
            f"{BIG_TILE} is an unseen sample scene; try `rsedge infer {BIG_TILE} --out mask.tif`",
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
        common.say_json({"out": str(out), **run.to_dict()})


def _say(options: TrainOptions, text: str) -> None:
    if not options.quiet and _first():
        common.say(text)


def _note(options: TrainOptions, text: str) -> None:
    if _first():
        common.note(text, options.quiet)


def _first() -> bool:
    """Return True in the process that prints, under torchrun."""
    return os.environ.get("RANK", "0") == "0"
