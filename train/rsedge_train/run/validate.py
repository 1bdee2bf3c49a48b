"""Scoring a torch network through the runtime's engine, so that the deployed code is what is measured."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rsedge.backends.base import Backend, TensorSpec
from rsedge.infer.options import Options
from rsedge.model.bundle import Bundle
from rsedge.model.manifest import Manifest
from rsedge.score.evaluation import Evaluation, evaluate
from rsedge.score.metrics import Confusion
from rsedge_train.data import Dataset, SceneFiles
from rsedge_train.data.pixels import normalise
from rsedge_train.nets.deploy import fold_dilations
from rsedge_train.nets.network import SegNet


class TorchBackend(Backend):
    """A torch network as an engine backend: raw tiles in, float32 scores out."""

    name = "torch"

    def __init__(self, net: nn.Module, manifest: Manifest, device: torch.device | str = "cpu") -> None:
        super().__init__(Bundle(Path(), manifest, Path(), "", "fp32"))
        self.device = torch.device(device)
        self.provider, self.version, self.threads = (
            str(self.device),
            torch.__version__,
            torch.get_num_threads(),
        )
        self._net = net.eval()

    @property
    def input_spec(self) -> TensorSpec:
        """Return the input of the manifest."""
        m = self.bundle.manifest
        return TensorSpec((None, len(m.bands), m.tile, m.tile), m.dtype)

    @property
    def output_spec(self) -> TensorSpec:
        """Return the output of the manifest."""
        m = self.bundle.manifest
        return TensorSpec((None, len(m.classes), m.tile, m.tile), "float32")

    @torch.inference_mode()
    def _run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        with self.copying("copy_in"):
            raw = torch.from_numpy(batch).to(self.device)
            self._settle()
        scores = self._net(normalise(raw).contiguous(memory_format=torch.channels_last)).float()
        self._settle()
        with self.copying("copy_out"):
            return np.asarray(scores.cpu().numpy())

    def _settle(self) -> None:
        """Wait for the GPU, because CUDA calls return before the work is done and timings must include it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def close(self) -> None:
        """Do nothing, because the caller owns the network."""


def score(
    net: SegNet,
    dataset: Dataset,
    files: Sequence[SceneFiles],
    manifest: Manifest,
    crop: int,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """Score a copy of ``net`` by sliding window over whole rasters, with a quarter of a tile overlap.

    ``crop``: side of the training crops, pixels; dilated taps that no crop reached are folded away first.
    """
    net = fold_dilations(copy.deepcopy(net).eval(), crop)
    net = net.to(memory_format=torch.channels_last)
    options = Options(
        bands=dataset.bands.indexes,
        scale=dataset.bands.scale,
        nodata=dataset.bands.masking.nodata,
        alpha=dataset.bands.masking.alpha,
    )
    pairs = [(f.image, f.label) for f in map(SceneFiles.for_scoring, files) if f.label]
    with TorchBackend(net, manifest, device) as backend:
        return evaluate(backend, pairs, options, dataset.table.colors, allow_missing=True)


def summary(confusion: Confusion, names: Sequence[str], uncounted: Sequence[str] = ()) -> Mapping[str, Any]:
    """Return mIoU, mean F1, OA, IoU and F1 by class, and the scores of always predicting the commonest class.

    The means leave out the classes in ``uncounted`` and those without a pixel.
    """
    counted = [i for i, name in enumerate(names) if name not in uncounted]
    majority = confusion.majority
    return {
        "miou": mean_over(confusion.iou, counted),
        "mean_f1": mean_over(confusion.f1, counted),
        "oa": confusion.oa,
        "classes_counted": [names[i] for i in counted],
        "iou": {n: _number(v) for n, v in zip(names, confusion.iou, strict=True)},
        "f1": {n: _number(v) for n, v in zip(names, confusion.f1, strict=True)},
        "majority": {"miou": mean_over(majority.iou, counted), "oa": majority.oa},
        "pixels": int(confusion.counts.sum()),
    }


def mean_over(values: NDArray[np.float64], counted: Sequence[int]) -> float:
    """Return the mean over some classes, leaving out those without a pixel."""
    known = values[list(counted)]
    known = known[~np.isnan(known)]
    return float(known.mean()) if known.size else float("nan")


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
