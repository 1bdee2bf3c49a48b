"""The average of the weights is the formula."""

import pytest
import torch
from torch import nn

from rsedge_train.fit.average import WeightAverage


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


def test_frozen_weights_are_shared_and_the_rest_is_not():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    average = WeightAverage(model, 0.9)
    assert average.model[0].weight is model[0].weight
    assert average.model[1].weight is not model[1].weight
    assert set(average.state()) == {"1.weight", "1.bias"}
    assert model[1].weight.requires_grad


def test_it_goes_on_from_its_state():
    torch.manual_seed(0)
    models = [nn.Linear(2, 2) for _ in range(4)]
    whole = WeightAverage(models[0], 0.9)
    for model in models[1:3]:
        whole.update(model)
    later = WeightAverage(models[3], 0.9)
    later.load({k: v.clone() for k, v in whole.state().items()}, whole.step)
    for average in (whole, later):
        average.update(models[3])
    assert torch.equal(whole.model.weight, later.model.weight)
