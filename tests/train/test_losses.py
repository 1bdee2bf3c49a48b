"""Both losses against plain float64 formulas, with unlabelled pixels."""

import numpy as np
import pytest
import torch

from rsedge_train.losses import cross_entropy, segmentation_loss, soft_dice

N, K, H, W = 2, 4, 6, 5


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, K - 1, (N, H, W)).astype(np.uint8)  # class 3 never occurs
    labels[rng.random((N, H, W)) < 0.3] = 255
    return rng.normal(0, 2, (N, K, H, W)), labels


def probabilities(logits):
    exp = np.exp(logits - logits.max(1, keepdims=True))
    return exp / exp.sum(1, keepdims=True)


def plain_cross_entropy(logits, labels):
    p = probabilities(logits)
    places = np.argwhere(labels != 255)
    return float(np.mean([-np.log(p[n, labels[n, y, x], y, x]) for n, y, x in places]))


def plain_dice(logits, labels):
    p, valid = probabilities(logits), labels != 255
    scores = []
    for k in range(K):
        t = (labels == k) & valid
        if t.any():
            scores.append(2 * p[:, k][t].sum() / (p[:, k][valid].sum() + t.sum()))
    return float(1 - np.mean(scores))


def tensors(case):
    logits, labels = case
    return torch.from_numpy(logits), torch.from_numpy(labels)


def test_cross_entropy_is_the_formula(case):
    assert float(cross_entropy(*tensors(case))) == pytest.approx(plain_cross_entropy(*case), rel=1e-5)


def test_dice_is_the_formula(case):
    assert float(soft_dice(*tensors(case))) == pytest.approx(plain_dice(*case), rel=1e-5)


def test_together_they_add_up(case):
    expected = plain_cross_entropy(*case) + plain_dice(*case)
    assert float(segmentation_loss(*tensors(case))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [cross_entropy, soft_dice])
def test_unlabelled_pixels_have_no_gradient(case, loss):
    logits, labels = tensors(case)
    logits.requires_grad_()
    loss(logits, labels).backward()
    ignored = (labels == 255).unsqueeze(1).expand_as(logits)
    assert torch.all(logits.grad[ignored] == 0)
    assert logits.grad[~ignored].abs().sum() > 0


@pytest.mark.parametrize("loss", [cross_entropy, soft_dice])
def test_nothing_labelled_costs_nothing(loss):
    logits = torch.randn(1, K, 3, 3, requires_grad=True)
    value = loss(logits, torch.full((1, 3, 3), 255, dtype=torch.uint8))
    value.backward()
    assert value.item() == 0
    assert torch.isfinite(logits.grad).all()


def test_perfect_logits_cost_nearly_nothing():
    labels = torch.arange(K).view(1, 2, 2)
    logits = 40.0 * torch.nn.functional.one_hot(labels, K).permute(0, 3, 1, 2)
    assert float(segmentation_loss(logits, labels)) == pytest.approx(0, abs=1e-6)
