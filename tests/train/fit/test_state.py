"""The state of a run: whole, checked, and put back as it was."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rsedge.errors import InputError, ModelError, OutputError
from rsedge_train.fit.average import WeightAverage
from rsedge_train.fit.state import Position, check_resumable, load_state, save_state, save_weights

FACTS = {"network": "toy", "classes": ["a", "b"], "data": "0123"}


class Parts:
    """A tiny network in channels-last memory after a few steps, with all that belongs to it."""

    def __init__(self, seed=0, width=3):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 2, 1))
        self.net = net.to(memory_format=torch.channels_last)
        self.average = WeightAverage(self.net, 0.9)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=0.1)
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)

    def step(self, seed):
        generator = torch.Generator().manual_seed(seed)
        self.optimizer.zero_grad()
        self.net(torch.randn(2, 3, 8, 8, generator=generator)).square().mean().backward()
        self.optimizer.step()
        self.average.update(self.net)

    def save(self, path, position):
        scaler = self.scaler.state_dict()
        save_state(path, self.net, self.average, self.optimizer, scaler, position, FACTS)

    def load(self, path, facts=FACTS):
        return load_state(path, self.net, self.average, self.optimizer, self.scaler, facts)


def test_a_run_goes_on_bit_by_bit(tmp_path):
    whole, position = Parts(), Position(3, 0.5, 2, 7.5)
    for seed in range(3):
        whole.step(seed)
    whole.save(tmp_path / "s", position)
    other = Parts(seed=9)
    other.step(8)
    other = Parts(seed=9)
    assert other.load(tmp_path / "s") == position == check_resumable(tmp_path / "s")
    for parts in (whole, other):
        for seed in range(3, 6):
            parts.step(seed)
    for mine, theirs in ((whole.net, other.net), (whole.average.model, other.average.model)):
        assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in mine.state_dict().items())


@pytest.mark.parametrize("facts", [{"classes": ["a", "c"]}, {"data": "4567"}, {"network": "other"}])
def test_other_facts_are_named(tmp_path, facts):
    parts = Parts()
    parts.step(0)
    parts.save(tmp_path / "s", Position(1))
    name = next(iter(facts))
    with pytest.raises(InputError, match=rf"another run: {name} was .*, is now .*\. Use the same"):
        parts.load(tmp_path / "s", {**FACTS, **facts})


def test_a_missing_a_damaged_and_a_foreign_file(tmp_path):
    parts = Parts()
    with pytest.raises(InputError, match="nothing to resume.*Leave out --resume"):
        parts.load(tmp_path / "s")
    parts.step(0)
    parts.save(tmp_path / "s", Position(1))
    data = (tmp_path / "s").read_bytes()
    for broken in (data[:-100], data[:20], b""):
        (tmp_path / "s").write_bytes(broken)
        with pytest.raises(ModelError, match="not a complete state"):
            parts.load(tmp_path / "s")
    save_file({"x": torch.zeros(1)}, tmp_path / "s")
    with pytest.raises(ModelError, match="not a complete state"):
        parts.load(tmp_path / "s")


@pytest.mark.parametrize(
    "change",
    [
        {"position": None}, {"position": 7}, {"facts": 5}, {"scaler": []}, {"position": {"step": "1"}},
        {"position": {"step": 1, "seconds": [1]}}, {"position": {"unknown": 1}},
    ],
)  # fmt: skip
def test_odd_facts_of_a_state_are_an_error(tmp_path, change):
    header = {"schema": 1, "position": {"step": 1}, "scaler": {}, "facts": {}, **change}
    for path, text in ((tmp_path / "a", json.dumps(header)), (tmp_path / "b", "[]"), (tmp_path / "c", "5")):
        save_file({"x": torch.zeros(1)}, path, {"rsedge_state": text})
        with pytest.raises(ModelError, match="not a complete state"):
            check_resumable(path, {})


def test_weights_that_cannot_be_written_say_why(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot be written.*--resume"):
        save_weights(tmp_path / "file" / "w.safetensors", Parts().net)
