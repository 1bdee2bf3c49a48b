"""The sheet of a run: crops of the validation scenes with each network's predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rsedge.engine.sliding_window import reflect
from rsedge.tiling.window import Window
from rsedge_train.data import Dataset, SceneReader, SceneScan
from rsedge_train.data.base import UInt8
from rsedge_train.look.sheet import SheetRow, choose_crops, draw_sheet
from rsedge_train.run.validate import TorchBackend

CROPS, SIDE = 4, 512  # rows of the sheet; pixels


def draw_comparison(
    out: Path,
    dataset: Dataset,
    scenes: Sequence[SceneScan],
    columns: Sequence[tuple[str, nn.Module]],
    device: torch.device | str = "cpu",
    *,
    count: int = CROPS,
    seed: int = 0,
) -> None:
    """Write a PNG of image / truth / one column for each (title, network), on crops of ``scenes``.

    The networks are in eval mode with their unreached taps folded (``load_network``). A crop's title says
    so if its scene was trained on.
    """
    trained = {f.name for f in dataset.train}
    rows = []
    for entry, window in choose_crops(scenes, dataset.num_classes, count, SIDE, seed):
        with SceneReader(entry, dataset) as reader:
            image, truth = reader.read(window)
        masks = tuple(_predict(net, dataset, image, device) for _, net in columns)
        place = f"{entry.name}, row {window.row}, column {window.col}"
        rows.append(
            SheetRow(f"trained on: {place}" if entry.name in trained else place, image, (truth, *masks))
        )
    titles = ("image", "truth", *(title for title, _ in columns))
    draw_sheet(out, rows, dataset.table.classes, titles, dataset.uncounted)


def _predict(net: nn.Module, dataset: Dataset, image: UInt8, device: torch.device | str) -> UInt8:
    """Predict classes (h, w) for an image (3, h, w) no larger than a tile."""
    area = Window(0, 0, *image.shape[1:])
    with TorchBackend(net, dataset.manifest("sheet", SIDE), device) as backend:
        scores = backend.infer(reflect(image, SIDE)[None])[0]
    return np.asarray(scores[:, : area.height, : area.width].argmax(0), np.uint8)
