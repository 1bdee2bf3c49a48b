from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rsedge import ModelError, open_model, segment
from rsedge.sample import SampleScene
from rsedge.window import Window
from rsedge_export import shipped
from rsedge_train.data import normalise
from rsedge_train.nets import build_student


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a b0 student whose batch statistics are not the initial ones."""
    torch.manual_seed(0)
    net = build_student("efficientnet_b0", 5)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average, so that two batches settle it
    net.train()
    with torch.no_grad():
        for seed in range(2):
            image, _ = SampleScene(256, 256, seed).render(Window(0, 0, 256, 256))
            net(normalise(torch.from_numpy(image[None]).repeat(2, 1, 1, 1)))
    folder = tmp_path_factory.mktemp("run")
    save_file(net.state_dict(), folder / "weights.safetensors")
    (folder / "report.json").write_text(json.dumps({"backbone": "efficientnet_b0", "crop": {"size": 512}}))
    return folder


def test_the_student_on_a_crop_and_infer_on_its_geotiff_agree(
    run: Path, write_raster: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An untrained network has many near ties, which weights stored as fp16 settle the other way.
    monkeypatch.setattr(shipped, "LEAST_AGREEMENT", 0.99)
    report = shipped.build_bundle(run, tmp_path / "b.rsedge")
    assert json.loads((tmp_path / "b.rsedge" / "report.json").read_text()) == report
    net = build_student("efficientnet_b0", 5).eval()
    net.load_state_dict(load_file(run / "weights.safetensors"))
    pixels, _ = SampleScene(512, 512, 5).render(Window(0, 0, 512, 512))
    with torch.inference_mode():
        scores = net(normalise(torch.from_numpy(pixels[None])))[0].numpy()
    with open_model(tmp_path / "b.rsedge") as model:
        complexity = model.bundle.manifest.complexity
        segment(model, write_raster(pixels), tmp_path / "mask.tif")
    best = np.sort(scores, axis=0)
    clear = best[-1] - best[-2] > 0.02 * (scores.max() - scores.min())
    assert clear.mean() > 0.5
    assert len(np.unique(scores.argmax(0)[clear])) > 1  # a constant answer would agree by chance
    with rasterio.open(tmp_path / "mask.tif") as src:
        assert (src.read(1) == scores.argmax(0))[clear].mean() >= 0.999
    assert complexity["params"] == sum(p.numel() for p in net.parameters())
    assert complexity["macs_deployed"] < complexity["macs"]


def test_a_graph_that_disagrees_is_not_published(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "LEAST_AGREEMENT", 1.1)
    out = tmp_path / "b.rsedge"
    out.mkdir()
    (out / "old").touch()
    with pytest.raises(ModelError, match="does not compute what the network computes"):
        shipped.build_bundle(run, out)
    assert [p.name for p in out.iterdir()] == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["b.rsedge"]
