"""Trains the student that ships in the wheel, on a CPU: `make student` gives the commands that made it.

python -m rsedge_train.shipped --data ../shared/data/dubai --out runs/shipped --minutes 60

It begins with timm's pretrained encoder; what ships began with random weights (--no-pretrained).

Scene 7 is the validation scene: no step, setting or checkpoint is chosen by it. A run scores it once,
at the end, with the last averaged weights, and those ship.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rsedge.errors import RsedgeError
from rsedge.metrics import Confusion
from rsedge.sample import CLASSES, SampleScene
from rsedge.tiling import Tiling
from rsedge.window import Window
from rsedge_train.augment import CropAugment
from rsedge_train.data import (
    CropSampler,
    Scene,
    UInt8,
    class_shares,
    load_dubai_scene,
    normalise,
)
from rsedge_train.fit import FitConfig, FitResult, fit, write_json
from rsedge_train.losses import segmentation_loss
from rsedge_train.nets import build_student
from rsedge_train.nets.deploy import fold_dilations

TRAIN_TILES = ("tile1", "tile2", "tile3", "tile5", "tile6")
VALIDATION_TILE = "tile7"
SAMPLE_SHARE = 0.3
SAMPLE_SEEDS = range(1000, 1040)
SAMPLE_SIDE = 1024
UNSEEN_SEED, UNSEEN_SIDE, UNSEEN_GSD = 7, 2048, 0.5
CROP, BATCH, BACKBONE = 256, 8, "efficientnet_b0"
SCALE = (0.5, 2.5)

console = Console()


def sample_scene(seed: int, side: int, gsd_m: float) -> Scene:
    """Render one procedural scene into memory, ``side`` x ``side`` pixels of ``gsd_m`` metres."""
    image, labels = SampleScene(side, side, seed, gsd_m).render(Window(0, 0, side, side))
    return Scene(f"sample{seed}@{gsd_m:.2f}m", image, labels)


def sample_scenes(seeds: Sequence[int] = SAMPLE_SEEDS, side: int = SAMPLE_SIDE) -> list[Scene]:
    """Procedural scenes for training, their ground resolution spread evenly over 0.25 .. 1 m."""
    spread = np.geomspace(0.25, 1.0, len(seeds))
    return [sample_scene(seed, side, float(gsd)) for seed, gsd in zip(seeds, spread, strict=True)]


@torch.no_grad()
def predict(model: nn.Module, image: UInt8, num_classes: int, tile: int = 512) -> UInt8:
    """Labels ``(H, W)`` of an image ``(3, H, W)``: square tiles, half overlapping, probabilities averaged."""
    model.eval()
    height, width = image.shape[1:]
    total = torch.zeros(num_classes, height, width)
    for window in Tiling.of(height, width, tile, 0.5, "blend"):
        area = (slice(None), slice(window.row, window.row_end), slice(window.col, window.col_end))
        batch = normalise(torch.from_numpy(np.ascontiguousarray(image[area])).unsqueeze(0))
        logits = model(batch.contiguous(memory_format=torch.channels_last))
        total[area] += logits.float().softmax(1)[0]
    labels: UInt8 = total.argmax(0).to(torch.uint8).numpy()
    return labels


def evaluate(model: nn.Module, scene: Scene) -> dict[str, Any]:
    """IoU by class, mIoU and overall accuracy on one scene, with what the majority class would score."""
    confusion = Confusion.of(scene.labels, predict(model, scene.image, len(CLASSES)), len(CLASSES))
    majority = confusion.majority
    return {
        "scene": scene.name,
        "iou": {name: _rounded(v) for name, v in zip(CLASSES, confusion.iou, strict=True)},
        "miou": _rounded(confusion.miou),
        "oa": _rounded(confusion.oa),
        "majority_miou": _rounded(majority.miou),
        "majority_oa": _rounded(majority.oa),
    }


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def supervised(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The loss of one step: cross entropy plus soft Dice of the student's logits."""
    return segmentation_loss(model(images), labels)


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Train, evaluate, and return the report that goes to ``report.json``."""
    torch.manual_seed(args.seed)
    tiles = [tile for tile in TRAIN_TILES if tile != args.val]
    real = [load_dubai_scene(args.data / tile) for tile in tiles]
    drawn = sample_scenes()
    groups = [(1.0 - args.sample_share, real), (args.sample_share, drawn)]
    batches = DataLoader(
        CropSampler(groups, CropAugment(CROP), batch=BATCH, size=CROP, scale=SCALE),
        batch_size=None,
        num_workers=args.workers,
        prefetch_factor=8 if args.workers else None,
    )
    model = build_student(BACKBONE, num_classes=len(CLASSES), pretrained=args.pretrained and not args.start)
    if args.start:
        model.load_state_dict(load_file(args.start))
    minutes = None if args.steps else args.minutes
    config = FitConfig(minutes=minutes, steps=args.steps, lr=args.lr, bf16=args.bf16)
    averaged, result = fit(model, batches, supervised, config, args.out / "weights.safetensors")
    # Taps that no crop reached are random numbers still: on the larger tiles of `predict` they are noise.
    averaged = fold_dilations(averaged, CROP)
    begin = time.monotonic()
    unseen = sample_scene(UNSEEN_SEED, UNSEEN_SIDE, UNSEEN_GSD)
    scores = [evaluate(averaged, s) for s in (load_dubai_scene(args.data / args.val), unseen)]
    logging.getLogger(__name__).info("evaluated in %.0f s", time.monotonic() - begin)
    return _report(args, config, result, real, drawn, scores)


def _report(
    args: argparse.Namespace,
    config: FitConfig,
    result: FitResult,
    real: Sequence[Scene],
    drawn: Sequence[Scene],
    scores: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    shares = {
        kind: dict(zip(CLASSES, (round(x, 4) for x in class_shares(scenes, len(CLASSES))), strict=True))
        for kind, scenes in (("real", real), ("sample", drawn))
    }
    return {
        "data": "Dubai scenes (CC0) and procedural sample scenes",
        "split": {
            "train": [s.name for s in real],
            "train_sample": [s.name for s in drawn],
            "sample_share": args.sample_share,
            "validation": args.val,
            "unseen_sample": {"seed": UNSEEN_SEED, "side": UNSEEN_SIDE, "gsd_m": UNSEEN_GSD},
        },
        "classes": list(CLASSES),
        "class_shares": shares,
        "backbone": BACKBONE,
        "initial_weights": _initial_weights(args),
        "seed": args.seed,
        "crop": {"size": CROP, "batch": BATCH, "scale": list(SCALE)},
        "fit": asdict(config),
        "steps": result.steps,
        "minutes": round(result.seconds / 60, 2),
        "seconds_per_step": round(result.seconds_per_step, 4),
        "data_wait_share": round(result.wait_share, 4),
        "final_loss": round(result.loss, 4),
        "interrupted": result.interrupted,
        "checkpoint": "last averaged weights; none was chosen by a score",
        "torch": torch.__version__,
        "results": list(scores),
    }


def _initial_weights(args: argparse.Namespace) -> str | dict[str, Any]:
    """Where training began; of an earlier run what it says of itself, its scores left out."""
    if args.start is None:
        return "timm's, pretrained" if args.pretrained else "random"
    report: dict[str, Any] = json.loads(args.start.with_name("report.json").read_text(encoding="utf-8"))
    return {key: value for key, value in report.items() if key != "results"}


def _show(report: dict[str, Any]) -> None:
    for kind, shares in report["class_shares"].items():
        console.print(f"class shares, {kind}: " + ", ".join(f"{k} {v:.1%}" for k, v in shares.items()))
    rows = report["results"]
    table = Table("", *(row["scene"] for row in rows))
    for name in CLASSES:
        table.add_row(f"IoU {name}", *(_shown(row["iou"][name]) for row in rows))
    for key in ("miou", "oa", "majority_miou", "majority_oa"):
        table.add_row(key, *(_shown(row[key]) for row in rows))
    console.print(table)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m rsedge_train.shipped", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with tile1 .. tile7")
    parser.add_argument("--out", type=Path, default=Path("runs/shipped"))
    parser.add_argument("--minutes", type=float, default=60.0, help="time to train; the schedule follows it")
    parser.add_argument("--steps", type=int, help="train so many steps instead of so many minutes")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--lr", type=float, default=FitConfig.lr)
    parser.add_argument(
        "--pretrained",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="begin with timm's encoder weights; without a way to the model hub: --no-pretrained",
    )
    parser.add_argument("--start", type=Path, help="weights.safetensors of an earlier run to go on from")
    parser.add_argument("--sample-share", type=float, default=SAMPLE_SHARE, help="share of sample crops")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare crops")
    parser.add_argument("--val", default=VALIDATION_TILE, help="scene to evaluate; trials hold out tile6")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    args = _parse(argv)
    try:
        report = train(args)
    except RsedgeError as error:
        sys.exit(f"error: {error}")
    write_json(args.out / "report.json", report)
    _show(report)


if __name__ == "__main__":
    main()
