"""The loop: it learns, and a run that is stopped or killed goes on as if it had not been."""

import itertools
import math
import os
import signal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rsedge.errors import InputError, OutputError
from rsedge_train.fit import loop as fit_module
from rsedge_train.fit.loop import FitConfig, TrainingDivergedError, fit, make_optimizer
from rsedge_train.fit.losses import supervised_loss
from rsedge_train.fit.precision import DepthwiseFloat32, autocast_dtype, keep_depthwise_float32
from rsedge_train.fit.state import STATE_NAME, check_resumable


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 2, 1),
    )


class Bright:
    """Batches in which bright pixels are class 1. ``at`` is called with the number of each."""

    def __init__(self, at=lambda n: None, size=2):
        self.at, self.size = at, size

    def between(self, first, last):
        for n in range(first, last):
            self.at(n)
            generator = torch.Generator().manual_seed(n)
            images = torch.randint(0, 256, (self.size, 3, 12, 12), dtype=torch.uint8, generator=generator)
            yield images, (images.float().mean(1) > 127).to(torch.uint8), torch.tensor([[n]])

    def name(self, places):
        return f"crop {int(places[0, 0])}"


def loss_of(model, images, labels):
    return supervised_loss(model(images), labels)


def run(folder, config, source=None, model=None, **more):
    return fit(model or net(), source or Bright(), loss_of, config, folder, facts={"a": 1}, **more)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns_and_leaves_weights_and_state(tmp_path, precision):
    images, labels, _ = next(Bright().between(99, 100))
    pixels = fit_module.normalise(images)
    model = net().eval()
    before = loss_of(model, pixels, labels)["loss"].item()
    averaged, result = run(tmp_path, FitConfig(steps=60, lr=0.02, precision=precision), model=model)
    assert result.position.step == 60
    assert not result.stopped
    assert loss_of(averaged, pixels, labels)["loss"].item() < 0.7 * before
    assert same(load_file(tmp_path / "weights.safetensors"), averaged.state_dict())
    assert not averaged.training
    assert sorted(p.name for p in tmp_path.iterdir()) == [STATE_NAME, "weights.safetensors"]


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path):
    first, again, other = (
        run(tmp_path / str(i), FitConfig(steps=5, seed=seed))[0].state_dict()
        for i, seed in enumerate((1, 1, 2))
    )
    assert same(first, again)
    assert not same(first, other)  # dropout


@pytest.mark.parametrize("killed_at", [1, 5, 11])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, killed_at, precision):
    config = FitConfig(steps=12, lr=0.01, precision=precision, save_every_s=0, validate_every=4)
    scores = {"validate": lambda _net, step: {"val_miou": 1 / step, "val_oa": 0.5}}
    run(tmp_path / "whole", config, **scores)

    def die(n):
        if n == killed_at:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "cut", config, Bright(die), **scores)
    assert check_resumable(tmp_path / "cut" / STATE_NAME).step == killed_at
    _, result = run(tmp_path / "cut", config, resume=True, **scores)
    assert (result.position.step, result.position.best_step) == (12, 4)
    for name in ("weights.safetensors", "best.safetensors", STATE_NAME):
        assert same(*(load_file(tmp_path / run / name) for run in ("whole", "cut")))


def test_a_run_killed_before_it_first_saved_can_be_resumed(tmp_path):
    def die(n):
        if n == 2:
            raise RuntimeError("power cut")

    config = FitConfig(steps=4)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "cut", config, Bright(die))
    assert check_resumable(tmp_path / "cut" / STATE_NAME).step == 0
    assert not (tmp_path / "cut" / "weights.safetensors").exists()  # it is not finished
    averaged, _ = run(tmp_path / "cut", config, resume=True)
    assert same(averaged.state_dict(), run(tmp_path / "whole", config)[0].state_dict())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step_and_it_can_go_on(tmp_path, number):
    config = FitConfig(steps=6)
    before = signal.getsignal(number)
    _, result = run(tmp_path, config, Bright(lambda n: os.kill(os.getpid(), number) if n == 2 else None))
    assert result.stopped
    assert result.position.step == 3
    assert signal.getsignal(number) is before
    averaged, result = run(tmp_path, config, resume=True)
    assert not result.stopped
    assert same(averaged.state_dict(), run(tmp_path / "whole", config)[0].state_dict())


def test_the_best_is_kept_apart_from_the_last(tmp_path):
    seen = {}

    def validate(model, step):
        seen[step] = {k: v.clone() for k, v in model.state_dict().items()}
        return {"val_miou": {2: 0.3, 4: 0.6, 6: 0.5}[step], "val_oa": 0.0}

    _, result = run(tmp_path, FitConfig(steps=6, validate_every=2), validate=validate)
    assert (result.position.best_step, result.position.best_miou) == (4, 0.6)
    assert same(load_file(tmp_path / "best.safetensors"), seen[4])
    assert same(load_file(tmp_path / "weights.safetensors"), seen[6])


def test_what_is_logged(tmp_path):
    rows, values = [], []
    config = FitConfig(steps=5, lr=1.0, log_every=2)

    def watched(model, images, labels):
        losses = loss_of(model, images, labels)
        values.append(float(losses["loss"].detach()))
        return losses

    fit(net(), Bright(), watched, config, tmp_path, facts={},
        log=lambda step, row: rows.append((step, row)),
        validate=lambda *_: {"val_miou": 0.5, "val_oa": 0.6})  # fmt: skip
    assert [step for step, _ in rows] == [2, 4, 5]
    assert {"loss", "ce", "dice", "lr", "images_per_s", "wait_share"} <= rows[0][1].keys()
    assert rows[0][1]["lr"] == pytest.approx(config.lr_factor(1))
    assert rows[1][1]["loss"] == pytest.approx((values[2] + values[3]) / 2)
    assert rows[-1][1]["loss"] == pytest.approx(values[4])
    assert rows[-1][1]["val_miou"] == 0.5


def test_a_loss_that_is_no_number_names_the_batch_and_keeps_the_state(tmp_path):
    calls = []

    def diverging(model, images, labels):
        calls.append(1)
        losses = loss_of(model, images, labels)
        return {**losses, "loss": losses["loss"] * (math.nan if len(calls) == 3 else 1.0)}

    with pytest.raises(TrainingDivergedError, match=r"nan at step 2.*crop 2\. .*lower --lr"):
        fit(net(), Bright(), diverging, FitConfig(steps=9, save_every_s=0), tmp_path, facts={})
    assert check_resumable(tmp_path / STATE_NAME).step == 2
    assert all(torch.isfinite(v).all() for v in load_file(tmp_path / STATE_NAME).values())


def test_a_gradient_that_is_no_number_does_not_reach_the_weights(tmp_path):
    """The loss itself is fine: the square root of zero has no gradient."""
    calls = []

    def treacherous(model, images, labels):
        calls.append(1)
        logits = model(images)
        losses = supervised_loss(logits, labels)
        return {
            **losses,
            "loss": losses["loss"] + ((0 * logits.mean()).abs().sqrt() if len(calls) == 3 else 0),
        }

    config = FitConfig(steps=9, save_every_s=0)
    with pytest.raises(TrainingDivergedError, match=r"gradient's norm is nan at step 2.*crop 2\. "):
        fit(net(), Bright(), treacherous, config, tmp_path, facts={"a": 1})
    assert all(torch.isfinite(v).all() for v in load_file(tmp_path / STATE_NAME).values())


def test_after_a_divergence_a_run_goes_on_with_a_lower_rate(tmp_path, caplog):
    def facts(lr):
        return {"a": 1, "fit": {"lr": lr, "clip": 1.0}}

    def die(n):
        if n == 2:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fit(net(), Bright(die), loss_of, FitConfig(steps=4), tmp_path, facts=facts(0.01))
    _, result = fit(
        net(), Bright(), loss_of, FitConfig(steps=4, lr=0.001), tmp_path, facts=facts(0.001), resume=True
    )
    assert result.position.step == 4
    assert "resumed with other settings: fit.lr was 0.01, is now 0.001" in caplog.text


def test_a_validation_that_fails_loses_no_training(tmp_path):
    def fail(*_):
        raise InputError("a file is damaged")

    with pytest.raises(InputError, match="damaged"):
        run(tmp_path, FitConfig(steps=3), validate=fail)
    assert check_resumable(tmp_path / STATE_NAME).step == 3


def test_a_full_disk_leaves_the_state_before(tmp_path, monkeypatch):
    run(tmp_path, FitConfig(steps=2))
    old = (tmp_path / STATE_NAME).read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match="No space left.*Free disk space"):
        run(tmp_path, FitConfig(steps=2))
    assert (tmp_path / STATE_NAME).read_bytes() == old
    assert not list(tmp_path.glob(".*"))


def test_parts_of_a_batch_add_up(tmp_path):
    """Without batch statistics, dropout and Dice two halves of fully labelled crops are the whole."""

    def plain():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))

    def only_ce(model, images, labels):
        return {"loss": supervised_loss(model(images), labels)["ce"]}

    whole, parts = (
        fit(plain(), Bright(size=4), only_ce, FitConfig(steps=3, precision="fp32", accumulate=n),
            tmp_path / str(n), facts={})[0].state_dict()
        for n in (1, 2)
    )  # fmt: skip
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-4, atol=1e-6)


def test_the_schedule_warms_up_and_falls():
    config = FitConfig(steps=100, warmup=0.1)
    rates = [config.lr_factor(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.04)
    assert rates[10] == max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.01)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))


def test_two_learning_rates_and_no_decay_on_norms_and_biases():
    model = nn.ModuleDict({"encoder": net(), "decoder": net()})
    model["encoder"].adapters = nn.ModuleList([nn.Linear(2, 2)])
    config = FitConfig(steps=1, lr=3.0, lr_encoder=0.3)
    found = {}
    for group in make_optimizer(model, config, pretrained_encoder=True).param_groups:
        for p in group["params"]:
            found[id(p)] = (group["lr"], group["weight_decay"])
    for name, p in model.named_parameters():
        old = name.startswith("encoder") and "adapters" not in name
        assert found[id(p)] == (0.3 if old else 3.0, 0.01 if p.ndim > 1 else 0.0)
    all_new = make_optimizer(model, config, pretrained_encoder=False).param_groups
    assert {g["lr"] for g in all_new} == {3.0}
    model["encoder"].requires_grad_(False)
    trained = make_optimizer(model, config, pretrained_encoder=True).param_groups
    assert sum(len(g["params"]) for g in trained) == len(list(model["decoder"].parameters()))


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"steps": 1, "accumulate": 0}, {"steps": 1, "lr": -1.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError, match=r"at least one|above 0"):
        FitConfig(**wrong)


def test_precision_by_name():
    cpu = torch.device("cpu")
    assert autocast_dtype("fp32", cpu) is None
    assert autocast_dtype("bf16", cpu) is torch.bfloat16
    for name in ("fp16", "int8"):
        with pytest.raises(InputError, match=r"precision .*bf16"):
            autocast_dtype(name, cpu)


def test_depthwise_convolutions_run_in_float32_under_autocast_only():
    model = net().eval()
    images = torch.randn(1, 3, 8, 8)
    before = model(images)
    keep_depthwise_float32(model)
    assert [type(m) is DepthwiseFloat32 for m in model] == [False, False, False, False, True, False]
    assert torch.equal(model(images), before)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(images)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), before, atol=0.05, rtol=0.05)


def test_a_state_of_another_run_is_not_gone_on_from(tmp_path):
    run(tmp_path, FitConfig(steps=1))
    with pytest.raises(InputError, match=r"another run: a was 1, is now 2; b was None, is now 'x'"):
        fit(net(), Bright(), loss_of, FitConfig(steps=1), tmp_path, facts={"a": 2, "b": "x"}, resume=True)
