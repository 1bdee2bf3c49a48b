"""Training of the shipped model within some minutes on a GPU: teachers, then the student taught by them.

    python benchmarks/student.py --data ../shared/data/dubai --val tile7 --minutes 8 --out runs/student

Stages share the minutes. The steps of a stage are set once, from the seconds per step on this machine, and kept
in STAGE.plan.json: the same command resumes after any interruption, even on another machine. Finished
stages are not repeated; stages that do not teach one another may run in parallel (--stages). ``--trial``
only measures and plans. At the end ``--out`` holds a run folder per stage;
`rsedge export --run OUT/student --weights last` makes the bundle.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rsedge.files import whole_or_nothing
from rsedge_train.data import Dataset, open_dataset, with_samples
from rsedge_train.data.crops import CropConfig
from rsedge_train.fit.loop import FitConfig
from rsedge_train.fit.state import LAST_NAME, STATE_NAME
from rsedge_train.look.logbook import LOG_NAME
from rsedge_train.run.folder import Run
from rsedge_train.run.request import Distillation, Job, NetChoice
from rsedge_train.run.train import train

log = logging.getLogger("student")
TRIAL_STEPS = 60  # the first third is warm-up
AROUND_S = 20.0  # time of a stage besides its steps, until measured


@dataclass(frozen=True)
class Stage:
    """One training."""

    name: str  # its folder
    network: str
    share: float  # of the minutes
    seed: int
    taught: bool = False  # by the other stages, the teachers
    teaches: bool = True


STAGES = (
    Stage("teacher-a", "efficientnet_lite2-fine", 0.22, 42),
    Stage("teacher-b", "efficientnet_lite2", 0.22, 43),
    Stage("student", "efficientnet_lite0-w64-fine-int8", 0.26, 42, taught=True),
    Stage("student-coarse", "efficientnet_lite0-w64-int8", 0.15, 42, taught=True),
    Stage("alone", "efficientnet_lite0-w64-fine-int8", 0.15, 42, teaches=False),
)


def main() -> None:
    """Plan and train every requested, unfinished stage."""
    args = _parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    dataset = open_dataset(args.data, val=tuple(args.val.split(",")))
    if args.sample_share:
        dataset = with_samples(dataset)
    end, around_s = time.monotonic() + args.minutes * 60, AROUND_S
    asked = [s for s in STAGES if not args.stages or s.name in args.stages]
    left = [s for s in asked if not _is_finished(args.out / s.name)]
    while left:
        stage, began = left[0], time.monotonic()
        until = began + (end - began) * stage.share / sum(s.share for s in left)
        seconds, steps = _planned(args, stage, dataset, until - around_s)
        if not args.trial:
            folder = args.out / stage.name
            begins = time.monotonic()
            train(
                replace(_job(args, stage, steps), resume=(folder / STATE_NAME).is_file(), overwrite=True),
                dataset,
            )
            around_s = max(0.0, time.monotonic() - begins - steps * seconds)
        log.info("%s: %d steps, %.0f s", stage.name, steps, time.monotonic() - began)
        left.pop(0)
    print(table(args.out))


def _is_finished(folder: Path) -> bool:
    return (folder / LAST_NAME).is_file() and "val_last" in Run.read(folder).progress


def _job(args: argparse.Namespace, stage: Stage, steps: int) -> Job:
    backbone = stage.network.split("-")[0]
    found = sorted(args.weights.glob(f"{backbone.replace('_', '-')}-*.pth")) if args.weights else []
    taught_by = tuple(args.out / s.name for s in STAGES if s.teaches and not s.taught)
    return Job(
        role="student" if stage.taught or not stage.teaches else "teacher",
        out=args.out / stage.name,
        net=NetChoice(stage.network, str(found[0]) if found else args.encoder_weights),
        crops=CropConfig(size=args.crop, batch=args.batch, seed=stage.seed, look=args.augment),
        fit=FitConfig(steps=steps, lr=args.lr, lr_encoder=args.lr_encoder, save_every_s=args.save_every),
        validate_epochs=0,
        distillation=Distillation(taught_by, "last", args.temperature, views=args.views)
        if stage.taught
        else None,
        sample_share=args.sample_share or None,
        device=args.device,
        workers=args.workers,
    )


def _planned(args: argparse.Namespace, stage: Stage, dataset: Dataset, until: float) -> tuple[float, int]:
    """Return seconds per step and the steps of a stage: as planned before, else as many as fit before ``until``."""
    path = args.out / f"{stage.name}.plan.json"
    plan: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not plan:
        seconds = _trial(args, stage, dataset)
        steps = args.steps or max(1, int((until - time.monotonic()) / seconds))
        plan = {"network": stage.network, "seconds_per_step": seconds, "steps": steps}
        args.out.mkdir(parents=True, exist_ok=True)
        with whole_or_nothing(path) as partial:
            partial.write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")
    return float(plan["seconds_per_step"]), args.steps or int(plan["steps"])


def _trial(args: argparse.Namespace, stage: Stage, dataset: Dataset) -> float:
    """Measure seconds per step without the warm-up, from the log of a discarded run."""
    if stage.taught:
        for teacher in _job(args, stage, 1).distillation.teachers:  # type: ignore[union-attr]
            if not (teacher / LAST_NAME).is_file():
                raise SystemExit(
                    f"{stage.name} is taught by {teacher}, which is not trained yet. Train it first"
                )
    job = replace(_job(args, stage, args.trial_steps), out=args.out / f"trial-{stage.name}", overwrite=True)
    job = replace(job, fit=replace(job.fit, log_every=1))
    run = train(job, replace(dataset, val=()))
    with (job.out / LOG_NAME).open(encoding="utf-8") as file:
        rates = [float(row["images_per_s"]) for row in csv.DictReader(file)]
    elapsed = [(n + 1) * args.batch / rate for n, rate in enumerate(rates)]  # a rate covers all steps so far
    first = len(elapsed) // 3
    seconds = (elapsed[-1] - elapsed[first]) / max(1, len(elapsed) - 1 - first)
    log.info("%s: %.4f s a step, waiting %.1f %%", stage.name, seconds, 100 * run.progress["wait_share"])
    shutil.rmtree(job.out)
    return float(max(seconds, 1e-4))


def table(out: Path) -> str:
    """Return the finished stages' results as Markdown."""
    lines = ["| stage | network | steps | s a step | waiting | mIoU | OA |", "|---|---|---|---|---|---|---|"]
    for stage in STAGES:
        if not (out / stage.name / LAST_NAME).is_file():
            continue
        facts = Run.read(out / stage.name).progress
        score = facts.get("val_last", {})
        lines.append(
            f"| {stage.name} | {stage.network} | {facts['steps']} | {facts['seconds_per_step']:.3f} | "
            f"{facts['wait_share']:.1%} | {score.get('miou', float('nan')):.4f} | {score.get('oa', float('nan')):.4f} |"
        )
    return "\n".join(lines)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--val", required=True, help="scenes to score on, never trained on")
    parser.add_argument("--minutes", type=float, required=True, help="of all stages together")
    parser.add_argument("--stages", nargs="*", help="only these")
    parser.add_argument("--steps", type=int, help="number of steps in each stage, whatever their time")
    parser.add_argument("--trial", action="store_true", help="measure and plan only")
    parser.add_argument("--weights", type=Path, help="folder of EfficientNet-Lite .pth files")
    parser.add_argument("--encoder-weights", default="auto", help="used if --weights has none")
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--lr-encoder", type=float, default=2e-4)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--augment", default=CropConfig.look)
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--sample-share", type=float, default=0.25)
    parser.add_argument("--trial-steps", type=int, default=TRIAL_STEPS)
    parser.add_argument("--save-every", type=float, default=60.0, help="seconds between states")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/student"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
