"""The loop: it learns, keeps to its budget, averages, and leaves whole files behind."""

import itertools
import json
import math
import os
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rsedge_train import fit as fit_module
from rsedge_train.fit import (
    FitConfig,
    TrainingDivergedError,
    WeightAverage,
    fit,
    make_optimizer,
    save_checkpoint,
)
from rsedge_train.losses import segmentation_loss
from rsedge_train.precision import DepthwiseFloat32, keep_depthwise_float32


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 2, 1),
    )


def batches():
    """Bright pixels are class 1."""
    generator = torch.Generator().manual_seed(0)
    while True:
        images = torch.randint(0, 256, (2, 3, 12, 12), dtype=torch.uint8, generator=generator)
        yield images, (images.float().mean(1) > 127).to(torch.uint8)


def loss_of(model, images, labels):
    return segmentation_loss(model(images), labels)


@pytest.mark.parametrize("bf16", [False, True])
def test_it_learns_and_leaves_a_checkpoint(tmp_path, bf16):
    path = tmp_path / "run" / "weights.safetensors"
    model = net()
    before = loss_of(model, *first_normalised()).item()
    averaged, result = fit(model, batches(), loss_of, FitConfig(steps=60, lr=0.02, bf16=bf16), path)
    assert result.steps == 60
    assert not result.interrupted
    assert loss_of(averaged, *first_normalised()).item() < 0.7 * before
    weights = load_file(path)
    assert weights.keys() == averaged.state_dict().keys()
    assert all(torch.equal(weights[k], v) for k, v in averaged.state_dict().items())
    assert not averaged.training
    facts = json.loads(path.with_suffix(".json").read_text())
    assert facts["config"]["lr"] == 0.02
    assert facts["result"]["steps"] == 60
    assert sorted(p.name for p in path.parent.iterdir()) == ["weights.json", "weights.safetensors"]


def first_normalised():
    images, labels = next(batches())
    return fit_module.normalise(images), labels


def test_the_same_seed_gives_the_same_weights(tmp_path):
    first, _ = fit(net(), batches(), loss_of, FitConfig(steps=5), tmp_path / "a.safetensors")
    again, _ = fit(net(), batches(), loss_of, FitConfig(steps=5), tmp_path / "b.safetensors")
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in first.state_dict().items())


def test_a_time_budget_ends_the_run(tmp_path):
    begin = time.monotonic()
    _, result = fit(net(), batches(), loss_of, FitConfig(minutes=0.01), tmp_path / "w.safetensors")
    assert result.steps > 0
    assert time.monotonic() - begin < 10


def test_ctrl_c_keeps_what_there_is(tmp_path):
    def interrupted():
        source = batches()
        for _ in range(3):
            yield next(source)
        raise KeyboardInterrupt

    path = tmp_path / "w.safetensors"
    _, result = fit(net(), interrupted(), loss_of, FitConfig(steps=50), path)
    assert result.interrupted
    assert result.steps == 3
    assert load_file(path)


def test_a_loss_that_is_no_number_stops_and_the_checkpoint_stays(tmp_path):
    calls = []

    def diverging(model, images, labels):
        calls.append(1)
        return loss_of(model, images, labels) * (math.nan if len(calls) == 3 else 1.0)

    path = tmp_path / "w.safetensors"
    config = FitConfig(steps=50, checkpoint_every_s=0)
    with pytest.raises(TrainingDivergedError, match=r"step 2; lower --lr"):
        fit(net(), batches(), diverging, config, path)
    assert all(torch.isfinite(v).all() for v in load_file(path).values())


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_checkpoint(path, net(), {})
    old = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, nn.Linear(2, 2), {})
    assert path.read_bytes() == old


def test_the_schedule_warms_up_and_falls():
    config = FitConfig(steps=100, lr=1.0, warmup=0.1)
    rates = [config.lr_at(p) for p in np.linspace(0, 1, 101)]
    assert rates[0] == pytest.approx(0.04)
    assert rates[10] == max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.01)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert config.progress(50, 1e9) == 0.5
    assert FitConfig(minutes=2).progress(10**9, 30) == 0.25


@pytest.mark.parametrize("budget", [{}, {"minutes": 1, "steps": 1}])
def test_one_budget_is_needed(budget):
    with pytest.raises(ValueError, match="either minutes or steps"):
        FitConfig(**budget)


def test_the_average_is_the_formula():
    model = nn.BatchNorm1d(1)
    average = WeightAverage(model, 0.5)
    expected = 1.0
    for step, value in enumerate((3.0, 5.0, 7.0), 1):
        model.weight.data.fill_(value)
        model.running_mean.fill_(value)
        model.num_batches_tracked.fill_(step)
        average.update(model)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert float(average.model.weight) == pytest.approx(expected)
    assert int(average.model.num_batches_tracked) == 3
    assert float(average.model.running_mean) > 3
    assert not average.model.weight.requires_grad


def test_norms_and_biases_do_not_decay():
    model = net()
    decayed, kept = make_optimizer(model, FitConfig(steps=1)).param_groups
    assert decayed["weight_decay"] == 0.01
    assert kept["weight_decay"] == 0
    assert {p.ndim for p in decayed["params"]} == {4}
    assert {p.ndim for p in kept["params"]} == {1}
    assert len(decayed["params"]) + len(kept["params"]) == len(list(model.parameters()))


def test_depthwise_convolutions_run_in_float32_under_autocast_only():
    model = net()
    images = torch.randn(1, 3, 8, 8)
    before = model(images)
    keep_depthwise_float32(model)
    assert [type(m) is DepthwiseFloat32 for m in model] == [False, False, False, True, False]
    assert torch.equal(model(images), before)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(images)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), before, atol=0.05, rtol=0.05)
