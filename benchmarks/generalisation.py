"""Comparison of augmentations on new places: leave one scene out of training, train, score on that scene.

    python benchmarks/generalisation.py --data ../shared/data/dubai --test tile7 --folds tile2 tile1,tile3 tile5 tile6

A student is trained alone for each fold and each look (see ``rsedge distill --augment``); scenes of one fold
touch and stay in one split. The test scene is unused. Scores are of the last averaged weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from rsedge.files import whole_or_nothing
from rsedge_train.fit.state import LAST_NAME, STATE_NAME
from rsedge_train.run.folder import Run

HERE = Path(__file__).parent
LOOKS = ("mild", "broad")


def main() -> None:
    """Train the missing runs, several at a time, and print the table."""
    args = _parse()
    wanted = list(product(args.looks, args.folds, args.seeds))
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda one: _run(args, *one), wanted))
    facts = {"settings": _settings(args), "runs": [_facts(args, *one) for one in wanted]}
    with whole_or_nothing(args.results) as partial:
        partial.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(table(facts))


def _folder(args: argparse.Namespace, look: str, fold: str, seed: int) -> Path:
    return Path(args.out) / f"{look}-{fold.replace(',', '+')}-{seed}"


def _run(args: argparse.Namespace, look: str, fold: str, seed: int) -> None:
    options = {
        "student": args.student, "encoder-weights": args.encoder_weights, "data": args.data, "val": fold,
        "test": args.test, "crop": args.crop, "batch": args.batch, "steps": args.steps, "lr": args.lr,
        "lr-encoder": args.lr_encoder, "augment": look, "seed": seed, "validate-every": 0,
        "workers": args.workers, "device": args.device,
    }  # fmt: skip
    train_once(_folder(args, look, fold, seed), ["distill", "--alone"], options)


def train_once(folder: Path, command: Sequence[str], options: Mapping[str, Any]) -> None:
    """Train into ``folder``, resuming an unfinished run, unless it holds a finished and validated one."""
    finished = (folder / LAST_NAME).is_file()
    if finished and Run.read(folder).progress.get("val_last"):
        return
    words = [
        word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))
    ]
    how = "--resume" if (folder / STATE_NAME).is_file() and not finished else "--overwrite"
    done = subprocess.run(
        [sys.executable, "-m", "rsedge", *command, how, "--quiet", "--out", str(folder), *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{folder.name} failed:\n{done.stderr}")


def _facts(args: argparse.Namespace, look: str, fold: str, seed: int) -> dict[str, Any]:
    progress = Run.read(_folder(args, look, fold, seed)).progress
    return {"look": look, "fold": fold, "seed": seed, **progress}


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    names = ("student", "crop", "batch", "steps", "lr", "lr_encoder", "test")
    return {name: getattr(args, name) for name in names}


def table(facts: dict[str, Any]) -> str:
    """Return one row per fold and one column per look, with means over seeds."""
    looks = list(dict.fromkeys(run["look"] for run in facts["runs"]))
    folds = list(dict.fromkeys(run["fold"] for run in facts["runs"]))
    lines = [f"| left out | {' | '.join(looks)} |", "|---" * (len(looks) + 1) + "|"]
    rows = []
    for fold in folds:
        rows.append([_mean(facts["runs"], look, fold) for look in looks])
        lines.append(f"| {fold} | {' | '.join(f'{v:.3f}' for v in rows[-1])} |")
    lines.append(f"| mean | {' | '.join(f'{v:.3f}' for v in np.mean(rows, axis=0))} |")
    return "\n".join(lines)


def _mean(runs: list[dict[str, Any]], look: str, fold: str) -> float:
    return float(np.mean([r["val_last"]["miou"] for r in runs if (r["look"], r["fold"]) == (look, fold)]))


def add_fit_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every training of a comparison."""
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--lr-encoder", type=float, default=2e-4)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--folds", nargs="+", required=True, help="scenes left out together, e.g. tile1,tile3"
    )
    parser.add_argument("--test", help="scenes that are not used")
    parser.add_argument("--looks", nargs="+", default=list(LOOKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[42])
    parser.add_argument("--student", default="efficientnet_lite0-w64-fine-int8")
    parser.add_argument("--encoder-weights", default="auto")
    parser.add_argument("--steps", type=int, default=600)
    add_fit_options(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/generalisation"))
    parser.add_argument("--results", type=Path, default=HERE / "results" / "generalisation.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
