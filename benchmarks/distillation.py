"""Benefit of distillation: students alone and distilled, on one budget, with several seeds each.

    python benchmarks/distillation.py --data ../shared/data/dubai --val tile7 --teacher runs/teacher

Each run is a folder under --out; finished runs are not repeated, stopped ones are resumed. The
validation scene chooses nothing: every score, also the teacher's, is of the last averaged weights.

retention   distilled mIoU over the teacher's
gain        distilled minus alone, by seed
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rsedge.files import whole_or_nothing
from rsedge.machine import cpu_name
from rsedge.model.bundle import file_sha256
from rsedge_train.data import Dataset, open_dataset, scan
from rsedge_train.data.crops import CropConfig
from rsedge_train.fit.loop import FitConfig
from rsedge_train.fit.processes import SINGLE, pick_device
from rsedge_train.fit.state import STATE_NAME
from rsedge_train.nets.complexity import complexity
from rsedge_train.run.folder import Run, load_network, weights_path
from rsedge_train.run.pictures import draw_comparison
from rsedge_train.run.request import Distillation, Job, NetChoice
from rsedge_train.run.train import train
from rsedge_train.run.validate import score, summary

HERE = Path(__file__).parent
STUDENTS = ("efficientnet_b0", "segformer_b0", "mobilenetv3_small_100-w64")


def main() -> None:
    args = _parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    dataset = open_dataset(args.data, val=(args.val,))
    teacher = _score_teacher(args, dataset)
    runs: list[dict[str, Any]] = []
    for seed in args.seeds:
        for student in args.students:
            for distilled in (False, True):
                runs.append(_run(args, dataset, student, seed, distilled))
                _write(args, teacher, runs)
    columns = [("teacher", load_network(args.teacher, "last")[0])]
    for title, distilled in (("distilled", True), ("student alone", False)):
        folder = _folder(args, args.students[0], args.seeds[0], distilled)
        columns.insert(0, (title, load_network(folder, "last")[0]))
    scenes = scan(dataset, tuple(f.for_scoring() for f in dataset.val)).scenes
    draw_comparison(args.results.with_suffix(".png"), dataset, scenes, columns)
    print(table(json.loads(args.results.read_text(encoding="utf-8"))))


def _folder(args: argparse.Namespace, student: str, seed: int, distilled: bool) -> Path:
    return Path(args.out) / f"{student}-{'distilled' if distilled else 'alone'}-{seed}"


def _run(
    args: argparse.Namespace, dataset: Dataset, student: str, seed: int, distilled: bool
) -> dict[str, Any]:
    folder = _folder(args, student, seed, distilled)
    job = Job(
        role="student",
        out=folder,
        net=NetChoice(student, args.encoder_weights),
        crops=CropConfig(size=args.crop, batch=args.batch, seed=seed),
        fit=FitConfig(steps=args.steps, lr=args.lr),
        validate_epochs=0,
        device=args.device,
        workers=args.workers,
    )
    if distilled:
        wanted = Distillation((args.teacher,), "last", args.temperature, args.relation_weight)
        job = replace(job, distillation=wanted)
    done = Run.read(folder) if (folder / "run.json").is_file() else None
    if done is None or "val_last" not in done.progress or not _is_of(done, job):
        logging.info("%s", folder.name)
        done = train(replace(job, resume=(folder / STATE_NAME).is_file(), overwrite=True), dataset)
    return {"student": student, "seed": seed, "distilled": distilled, **done.progress}


def _is_of(done: Run, job: Job) -> bool:
    """Return True if a finished run had the same request."""
    settings = json.loads(json.dumps({"crops": asdict(job.crops), "steps": job.fit.steps, "lr": job.fit.lr}))
    fit = done.settings["fit"]
    found = {"crops": done.settings["crops"], "steps": fit["steps"], "lr": fit["lr"]}
    if job.distillation is None:
        return bool(found == settings)
    (folder,) = job.distillation.teachers
    wanted = {**asdict(job.distillation), "teachers": [str(folder)]}
    wanted.pop("unlabelled")  # always None here
    teacher = file_sha256(weights_path(folder, job.distillation.weights))
    same_teacher = done.teacher is not None and done.teacher["sha256"] == teacher
    return bool(found == settings and done.settings["distillation"] == wanted and same_teacher)


def _score_teacher(args: argparse.Namespace, dataset: Dataset) -> dict[str, Any]:
    """Score the teacher's last weights on the same scenes, by the same engine."""
    net, run = load_network(args.teacher, "last")
    path = Path(args.out) / f"teacher-{file_sha256(weights_path(args.teacher, 'last'))[:12]}.json"
    if not path.is_file():
        device = pick_device(args.device, SINGLE)
        result = score(net.to(device), dataset, dataset.val, run.manifest("teacher"), run.crop, device)
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = summary(result.confusion, dataset.table.names, dataset.uncounted)
        path.write_text(json.dumps(facts), encoding="utf-8")
    scores = json.loads(path.read_text(encoding="utf-8"))
    return {"network": run.network, "data": dict(run.data), "training": dict(run.progress), "val": scores}


def _write(args: argparse.Namespace, teacher: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> None:
    facts = {
        "method": {
            "data": args.data.name, "val": args.val, "steps": args.steps, "crop": args.crop,
            "batch": args.batch, "lr": args.lr, "seeds": args.seeds, "temperature": args.temperature,
            "relation_weight": args.relation_weight, "encoder_weights": args.encoder_weights,
            "weights": "last averaged; nothing was chosen by the validation scene",
            "device": f"{pick_device(args.device, SINGLE)}, {torch.get_num_threads()} threads",
            "cpu": cpu_name(), "python": platform.python_version(), "torch": torch.__version__,
        },
        "teacher": teacher,
        "runs": list(runs),
    }  # fmt: skip
    args.results.parent.mkdir(parents=True, exist_ok=True)
    with whole_or_nothing(args.results) as partial:
        partial.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def table(facts: Mapping[str, Any]) -> str:
    """Return results as Markdown: mean and spread (standard deviation) over the seeds."""
    best = facts["teacher"]["val"]["miou"]
    classes = list(facts["teacher"]["val"]["iou"])
    lines = [
        "| network | params M | MACs G | mIoU alone | mIoU distilled | gain | retention |",
        "|---|---|---|---|---|---|---|",
    ]
    per_class = [f"| IoU | {' | '.join(classes)} |", "|---" * (len(classes) + 1) + "|"]
    per_class.append(_class_row("teacher", [facts["teacher"]["val"]], classes))
    for student in dict.fromkeys(run["student"] for run in facts["runs"]):
        size = complexity(student, len(classes))
        alone, distilled = (
            {
                r["seed"]: r["val_last"]
                for r in facts["runs"]
                if r["student"] == student and r["distilled"] is d
            }
            for d in (False, True)
        )
        both = sorted(set(alone) & set(distilled))
        gains = [distilled[s]["miou"] - alone[s]["miou"] for s in both]
        kept = [distilled[s]["miou"] / best for s in both]
        cells = [
            _spread([v["miou"] for v in alone.values()]),
            _spread([v["miou"] for v in distilled.values()]),
        ]
        cells += [_spread(gains, sign="+"), _spread(kept)]
        lines.append(f"| {student} | {size.params / 1e6:.2f} | {size.macs / 1e9:.2f} | {' | '.join(cells)} |")
        per_class.append(_class_row(f"{student} alone", list(alone.values()), classes))
        per_class.append(_class_row(f"{student} distilled", list(distilled.values()), classes))
    teacher = facts["teacher"]["network"]
    return "\n".join([f"teacher {teacher}: mIoU {best:.3f}", "", *lines, "", *per_class])


def _class_row(title: str, scores: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> str:
    found = {name: [s["iou"][name] for s in scores if s["iou"][name] is not None] for name in classes}
    means = [np.mean(found[name]) if found[name] else np.nan for name in classes]
    return f"| {title} | {' | '.join(f'{m:.3f}' for m in means)} |"


def _spread(values: Sequence[float], sign: str = "") -> str:
    if not values:
        return "-"
    deviation = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):{sign}.3f}{deviation}"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--val", required=True, help="scene to score on")
    parser.add_argument("--teacher", type=Path, required=True, help="run folder")
    parser.add_argument("--students", nargs="+", default=list(STUDENTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--temperature", type=float, default=Distillation.temperature)
    parser.add_argument("--relation-weight", type=float, default=Distillation.relation_weight)
    parser.add_argument("--encoder-weights", default="none", help="as of `rsedge distill`")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/distillation"))
    parser.add_argument("--results", type=Path, default=HERE / "results" / "distillation.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
