"""Comparison of students with and without unlabelled imagery, where few scenes have labels.

    python benchmarks/unlabelled.py --data ../shared/data/dubai --labelled tile1 tile2 --unlabelled tile3 tile5 tile6 \\
        --val tile7 --seeds 42 43 44

A teacher is trained on the labelled scenes alone. For each seed a student is trained alone, distilled, and distilled
with the images (never the masks) of the unlabelled scenes. Scores are of the last averaged weights on the validation
scenes. Run it again to continue: what is finished is kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from generalisation import HERE, add_fit_options, train_once

from rsedge.files import whole_or_nothing
from rsedge_train.run.folder import Run


def main() -> None:
    """Train the missing runs, several at a time, and print the table."""
    args = _parse()
    scenes = [args.data / name for name in (*args.labelled, args.val)]
    data, imagery = args.out / "data", [args.data / name for name in args.unlabelled]
    if missing := [str(folder) for folder in (*scenes, *imagery) if not folder.is_dir()]:
        raise SystemExit(f"no such scene: {', '.join(missing)}")
    _copy(scenes, data)
    train_once(args.out / f"teacher-{args.teacher_steps}", ["train-teacher"], {
        **_common(args, data), "encoder": args.teacher, "steps": args.teacher_steps, "seed": 42,
    })  # fmt: skip
    kinds = ["alone", "distilled", *(f"unlabelled-{weight:g}" for weight in args.unlabelled_weights)]
    wanted = list(product(kinds, args.seeds))
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda one: _run(args, data, imagery, *one), wanted))
    facts = {
        "settings": _settings(args),
        "teacher": Run.read(args.out / f"teacher-{args.teacher_steps}").progress,
        "runs": [
            {"kind": kind, "seed": seed, **Run.read(_folder(args, kind, seed)).progress}
            for kind, seed in wanted
        ],
    }
    args.results.parent.mkdir(parents=True, exist_ok=True)
    with whole_or_nothing(args.results) as partial:
        partial.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(table(facts))


def _copy(scenes: Sequence[Path], data: Path) -> None:
    """Copy the labelled and validation scenes to ``data``, so that the others are not in the data set."""
    for scene in scenes:
        if not (data / scene.name).is_dir():
            partial = data / f".{scene.name}"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(scene, partial)
            partial.rename(data / scene.name)


def _folder(args: argparse.Namespace, kind: str, seed: int) -> Path:
    return Path(args.out) / f"{kind}-{args.steps}-{seed}"


def _common(args: argparse.Namespace, data: Path) -> dict[str, Any]:
    return {
        "data": data, "val": args.val, "crop": args.crop, "batch": args.batch, "lr": args.lr,
        "lr-encoder": args.lr_encoder, "encoder-weights": args.encoder_weights, "validate-every": 0,
        "workers": args.workers, "device": args.device,
    }  # fmt: skip


def _run(args: argparse.Namespace, data: Path, imagery: Sequence[Path], kind: str, seed: int) -> None:
    options = {**_common(args, data), "student": args.student, "steps": args.steps, "seed": seed}
    command = ["distill"]
    if kind == "alone":
        command.append("--alone")
    else:
        teacher = args.out / f"teacher-{args.teacher_steps}"
        options |= {"teacher": teacher, "teacher-weights": "last", "temperature": args.temperature}
    if kind.startswith("unlabelled"):
        command += [word for folder in imagery for word in ("--unlabelled", str(folder))]
        options |= {
            "unlabelled-share": args.share, "unlabelled-loss": args.loss,
            "unlabelled-confidence": args.confidence, "unlabelled-weight": kind.partition("-")[2],
        }  # fmt: skip
    train_once(_folder(args, kind, seed), command, options)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    names = (
        "labelled", "unlabelled", "val", "student", "teacher", "teacher_steps", "steps", "crop", "batch", "lr",
        "lr_encoder", "encoder_weights", "temperature", "share", "loss", "confidence",
    )  # fmt: skip
    return {"data": args.data.name, **{name: getattr(args, name) for name in names}}


def table(facts: dict[str, Any]) -> str:
    """Return mIoU by kind of training, and its gain over the same seed distilled: mean ± standard error."""
    scores: dict[str, dict[int, float]] = {}
    for run in facts["runs"]:
        scores.setdefault(run["kind"], {})[run["seed"]] = run["val_last"]["miou"]
    base = scores["distilled"]
    lines = ["| training | seeds | mIoU | over distilled |", "|---|---|---|---|"]
    lines.append(f"| teacher | 1 | {facts['teacher']['val_last']['miou']:.3f} | |")
    for kind, by_seed in scores.items():
        gains = [miou - base[seed] for seed, miou in by_seed.items() if seed in base]
        gain = "" if kind == "distilled" else spread(gains, sign="+")
        lines.append(f"| {kind} | {len(by_seed)} | {spread(list(by_seed.values()))} | {gain} |")
    return "\n".join(lines)


def spread(values: Sequence[float], sign: str = "") -> str:
    """Return the mean and, of several values, its standard error."""
    error = f" ± {np.std(values, ddof=1) / np.sqrt(len(values)):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):{sign}.3f}{error}"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of scenes, each with images and masks"
    )
    parser.add_argument("--labelled", nargs="+", required=True, help="scenes to train on with their labels")
    parser.add_argument(
        "--unlabelled", nargs="+", required=True, help="scenes of which only the images are used"
    )
    parser.add_argument("--val", required=True, help="scene to score on")
    parser.add_argument("--teacher", default="efficientnet_lite2", help="network of the teacher")
    parser.add_argument("--teacher-steps", type=int, default=1500)
    parser.add_argument("--student", default="efficientnet_lite0-w64-fine-int8")
    parser.add_argument("--weights", "--encoder-weights", dest="encoder_weights", default="auto",
                        help="as --encoder-weights of `rsedge distill`, of teacher and students")  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--loss", default="dist", help="dist or kl")
    parser.add_argument("--confidence", default="entropy", help="entropy or none")
    parser.add_argument(
        "--unlabelled-weights", nargs="+", type=float, default=[1.0], help="one training for each"
    )
    parser.add_argument("--temperature", type=float, default=0.5)
    add_fit_options(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/unlabelled"))
    parser.add_argument("--results", type=Path, default=HERE / "results" / "unlabelled.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
