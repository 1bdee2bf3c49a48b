"""Every loss against a plain float64 formula, with unlabelled pixels."""

import numpy as np
import pytest
import torch

from rsedge_train.fit.losses import (
    cross_entropy,
    dist_relations,
    distillation_loss,
    soft_dice,
    supervised_loss,
)

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


def test_weighted_cross_entropy_is_the_formula(case):
    logits, labels = case
    weight = np.array([0.5, 2.0, 1.0, 7.0])
    p, valid = probabilities(logits), np.argwhere(labels != 255)
    costs = [(weight[labels[n, y, x]], -np.log(p[n, labels[n, y, x], y, x])) for n, y, x in valid]
    expected = sum(w * c for w, c in costs) / sum(w for w, _ in costs)
    found = cross_entropy(*tensors(case), weight=torch.from_numpy(weight))
    assert float(found) == pytest.approx(expected, rel=1e-12)
    theirs = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(labels).long(), torch.from_numpy(weight), ignore_index=255
    )
    assert float(found) == pytest.approx(float(theirs), rel=1e-12)


def test_supervised_parts_add_up_with_the_auxiliary_head(case):
    logits, labels = tensors(case)
    aux = logits.flip(1)
    parts = supervised_loss((logits, aux), labels)
    expected = plain_cross_entropy(*case) + plain_dice(*case)
    assert float(supervised_loss(logits, labels)["loss"]) == pytest.approx(expected, rel=1e-12)
    extra = plain_cross_entropy(aux.numpy(), case[1])
    assert float(parts["loss"]) == pytest.approx(expected + 0.4 * extra, rel=1e-12)
    assert float(parts["aux"]) == pytest.approx(extra, rel=1e-12)


def plain_relations(student, teacher, labels, temperature):
    """Equations 6 and 7 pixel by pixel and class by class, with numpy's own correlation."""
    p, q = (probabilities(x / temperature) for x in (student, teacher))
    places = [tuple(i) for i in np.argwhere(labels != 255)]
    rows = [(p[n, :, y, x], q[n, :, y, x]) for n, y, x in places]
    inter = 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in rows])
    a, b = (np.array(column) for column in zip(*rows, strict=True))
    intra = 1 - np.mean([np.corrcoef(a[:, k], b[:, k])[0, 1] for k in range(K)])
    return inter, intra


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_relations_are_the_formula(case, temperature):
    student, labels = case
    teacher = np.random.default_rng(1).normal(0, 3, student.shape)
    found = dist_relations(
        torch.from_numpy(student), torch.from_numpy(teacher), torch.from_numpy(labels), temperature
    )
    assert [float(x) for x in found] == pytest.approx(
        plain_relations(student, teacher, labels, temperature), rel=1e-9
    )


def test_relations_of_a_network_with_itself_are_zero_whatever_the_scale_of_its_probabilities(case):
    logits, labels = tensors(case)
    assert [float(x) for x in dist_relations(logits, logits, labels, 0.5)] == pytest.approx([0, 0], abs=1e-9)
    inter, intra = dist_relations(logits, -logits, labels, 1.0)
    assert inter > 1
    assert intra > 1


def test_relations_teach_the_student_only_where_there_are_labels(case):
    logits, labels = tensors(case)
    student, teacher = logits.clone().requires_grad_(), logits.flip(0).clone().requires_grad_()
    sum(dist_relations(student, teacher, labels, 0.5)).backward()
    assert teacher.grad is None
    ignored = (labels == 255).unsqueeze(1).expand_as(logits)
    assert torch.all(student.grad[ignored] == 0)
    assert student.grad[~ignored].abs().sum() > 0


@pytest.mark.parametrize("teacher_logits", [torch.zeros(1, K, 2, 2), 1e4 * torch.eye(4).view(1, K, 2, 2)])
def test_a_teacher_without_doubt_or_without_opinion_gives_finite_gradients(teacher_logits):
    student = torch.zeros(1, K, 2, 2, requires_grad=True)
    sum(dist_relations(student, teacher_logits, torch.zeros(1, 2, 2), 0.5)).backward()
    assert torch.isfinite(student.grad).all()


def test_nothing_labelled_teaches_nothing():
    student = torch.randn(1, K, 3, 3, requires_grad=True)
    inter, intra = dist_relations(student, torch.randn(1, K, 3, 3), torch.full((1, 3, 3), 255), 0.5)
    (inter + intra).backward()
    assert inter.item() == intra.item() == 0
    assert torch.isfinite(student.grad).all()


def test_the_distillation_loss_adds_up(case):
    student, labels = tensors(case)
    teacher = student.flip(0)
    parts = distillation_loss(student, teacher, labels, 0.5, relation_weight=3.0)
    inter, intra = plain_relations(case[0], teacher.numpy(), case[1], 0.5)
    expected = plain_cross_entropy(*case) + plain_dice(*case) + 3 * (inter + intra)
    assert float(parts["loss"]) == pytest.approx(expected, rel=1e-9)
    assert set(parts) == {"loss", "ce", "dice", "inter", "intra"}


def test_half_precision_is_widened(case):
    logits, labels = tensors(case)
    half = logits.to(torch.bfloat16)
    for loss in (cross_entropy, soft_dice):
        assert loss(half, labels).dtype == torch.float32
        assert float(loss(half, labels)) == pytest.approx(float(loss(half.double(), labels)), rel=1e-5)


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
    assert float(supervised_loss(logits, labels)["loss"]) == pytest.approx(0, abs=1e-6)
