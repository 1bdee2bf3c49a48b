"""Fine-tuning for INT8, from a finished run to a run folder that export can use."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from labelled import save_tif
from rsedge.errors import InputError
from rsedge.model.manifest import ClassInfo
from rsedge.score.labels import ClassTable
from rsedge_train.data import Dataset, SceneFiles
from rsedge_train.data.crops import CropConfig
from rsedge_train.fit.loop import FitConfig
from rsedge_train.fit.state import STATE_NAME
from rsedge_train.look.logbook import read_log
from rsedge_train.nets.deploy import deploy
from rsedge_train.nets.fake_int8 import calibrate, imitate, int8_layers
from rsedge_train.run import folder as run_folder
from rsedge_train.run import pictures
from rsedge_train.run.folder import load_network
from rsedge_train.run.request import Distillation, Job, NetChoice, Quantization
from rsedge_train.run.train import StoppedError, train
from tinystudent import TINY, use_tiny

NETWORK, SIDE = TINY, 64
TABLE = ClassTable(
    tuple(ClassInfo(name, (80 * i, 20, 20)) for i, name in enumerate(("red", "green", "blue")))
)


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        use_tiny(patch)
        patch.setattr(run_folder, "TILE", SIDE)
        patch.setattr(pictures, "SIDE", SIDE)
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    """Three scenes of blocks whose class is the strongest band."""
    folder = tmp_path_factory.mktemp("scenes")
    scenes = []
    for seed, name in enumerate("abc"):
        coarse = np.random.default_rng(seed).integers(0, 256, (3, 8, 8))
        image = np.kron(coarse, np.ones((1, 12, 12))).astype(np.uint8)
        files = [folder / f"{name}.tif", folder / f"{name}_labels.tif"]
        save_tif(files[0], image, east=300000 + 1000 * seed)
        save_tif(files[1], image.argmax(0).astype(np.uint8)[None], east=300000 + 1000 * seed)
        scenes.append(SceneFiles(name, name, *files))
    return Dataset("toy", TABLE, tuple(scenes[:2]), (scenes[2],), gsd_m=(0.5, 0.5))


def job(out: Path, steps: int = 3, **changes) -> Job:
    plain = Job(
        role="student",
        out=out,
        net=NetChoice(NETWORK),
        crops=CropConfig(size=SIDE, batch=8, seed=3, look="none"),
        fit=FitConfig(steps=steps, lr=3e-3, log_every=1),
        validate_epochs=0,
        device="cpu",
        workers=0,
    )
    return replace(plain, **changes)


@pytest.fixture(scope="module")
def base(dataset, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "base"
    train(job(folder, 80), dataset)
    return folder


def disagreement(folder: Path, dataset: Dataset) -> float:
    """Share of the pixels of the training scenes whose class INT8 changes."""
    import rasterio

    net, _ = load_network(folder)
    tiles = []
    for files in dataset.train:
        with rasterio.open(files.image) as src:
            tiles += [src.read()[:, i : i + SIDE, j : j + SIDE] for i in (0, 32) for j in (0, 32)]
    x = run_folder_normal(np.stack(tiles))
    exact = deploy(net, SIDE)
    rounded = imitate(copy.deepcopy(exact), int8_layers(exact, SIDE))
    calibrate(rounded, [x])
    with torch.no_grad():
        return float((exact(x).argmax(1) != rounded(x).argmax(1)).float().mean())


def run_folder_normal(raw: np.ndarray) -> torch.Tensor:
    from rsedge_train.data.pixels import normalise

    return normalise(torch.from_numpy(raw))


def test_fine_tuning_lowers_the_disagreement_with_fp32(base, dataset, tmp_path):
    fit = FitConfig(steps=25, lr=3e-4, log_every=5, ema_decay=0.9)
    run = train(job(tmp_path / "q", fit=fit, quantization=Quantization(base)), dataset)
    before, after = disagreement(base, dataset), disagreement(tmp_path / "q", dataset)
    assert after < 0.85 * before
    facts = run.settings["quantization"]
    assert facts["network"] == NETWORK
    assert facts["int8_layers"] > 20
    rows = read_log(tmp_path / "q" / "log.csv")
    assert {"changed", "ce", "dice"} <= set(rows[0])
    # The weights are those of a folded network, on their grids.
    net, again = load_network(tmp_path / "q")
    assert again.settings["fit"]["precision"] == "fp32"
    weight = net.encoder.layers[0][0].weight
    assert all(len(np.unique(np.abs(channel))) <= 128 for channel in weight.detach().numpy())


def test_a_stopped_run_goes_on_to_the_same_bytes(base, dataset, tmp_path, monkeypatch):
    teacher = Distillation((base,), "last")
    asked = job(tmp_path / "whole", 4, quantization=Quantization(base, "last"), distillation=teacher)
    train(asked, dataset)
    from rsedge_train.fit.processes import StopRequest

    answers = iter([False, False, True])
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "requested", lambda _: next(answers, True))
        with pytest.raises(StoppedError, match="stopped after 2 of 4"):
            train(replace(asked, out=tmp_path / "parts"), dataset)
    train(replace(asked, out=tmp_path / "parts", resume=True), dataset)
    for name in ("weights.safetensors", STATE_NAME):
        one, other = (load_file(tmp_path / run / name) for run in ("parts", "whole"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], value) for key, value in other.items())
    assert {"inter", "intra"} <= set(read_log(tmp_path / "whole" / "log.csv")[0])


def test_runs_that_do_not_fit_are_refused(base, dataset, tmp_path):
    wanted = job(tmp_path / "q", quantization=Quantization(base))
    other = ClassTable((*TABLE.classes[:2], ClassInfo("sea", (1, 2, 3))))
    with pytest.raises(
        InputError, match="the run to quantize has the classes red, green, blue, but the data"
    ):
        train(wanted, replace(dataset, table=other))
    with pytest.raises(InputError, match=f"trained {NETWORK}, not efficientnet_b0"):
        train(replace(wanted, net=NetChoice("efficientnet_b0")), dataset)
    with pytest.raises(InputError, match="trained on crops of 64 px, not 32. Leave out --crop"):
        train(replace(wanted, crops=replace(wanted.crops, size=32)), dataset)
    with pytest.raises(InputError, match="is the run to quantize. Choose another --out"):
        train(replace(wanted, out=base, overwrite=True), dataset)
    with pytest.raises(InputError, match="too coarse to imitate INT8"):
        job(tmp_path / "q", quantization=Quantization(base), fit=FitConfig(steps=1, precision="bf16"))
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "run.json").write_bytes((base / "run.json").read_bytes())
    with pytest.raises(InputError, match="is not finished"):
        train(replace(wanted, quantization=Quantization(tmp_path / "half")), dataset)
    assert not (tmp_path / "q").exists()
