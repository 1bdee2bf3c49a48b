"""Every loss against a plain float64 formula, with unlabelled pixels."""

import numpy as np
import pytest
import torch

from rsedge_train.data.base import TAUGHT
from rsedge_train.fit.losses import (
    confidence,
    cross_entropy,
    dist_relations,
    distillation_loss,
    soft_dice,
    supervised_loss,
    taught_loss,
    weighted_kl,
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


def former_relations(student, teacher, labels, temperature):
    """The two relations as they were computed before pixels could have weights."""
    pixels = labels.flatten() != 255
    p, q = (
        (x / temperature).softmax(dim=1).permute(0, 2, 3, 1).flatten(0, 2)[pixels] for x in (student, teacher)
    )

    def pearson(a, b, dim):
        scale = (a.square().sum(dim) * b.square().sum(dim)).clamp(min=1e-8**2).sqrt()
        return (a * b).sum(dim) / scale

    count = pixels.sum().to(p)
    inter = pearson(p - p.mean(1, keepdim=True), q - q.mean(1, keepdim=True), 1).sum()
    mean_p, mean_q = torch.stack([p.sum(0), q.sum(0)]) / count.clamp(min=1)
    centred_p, centred_q = p - mean_p, q - mean_q
    products = (centred_p * centred_q, centred_p.square(), centred_q.square())
    cross, var_p, var_q = torch.stack([x.sum(0) for x in products])
    intra = (cross / (var_p * var_q).clamp(min=1e-8**2).sqrt()).mean()
    some = (count > 0).to(p.dtype)
    return some * (1 - inter / count.clamp(min=1)), some * (1 - intra)


@pytest.mark.parametrize("ignored", [0.0, 0.3, 1.0])
def test_without_weights_relations_and_gradients_have_their_former_bits(ignored):
    generator = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(3, 5, 40, 33, generator=generator) for _ in range(2))
    labels = torch.where(torch.rand(3, 40, 33, generator=generator) < ignored, 255, 1)
    found = []
    for relations in (dist_relations, former_relations):
        mine = student.clone().requires_grad_()
        losses = relations(mine, teacher, labels, 0.5)
        sum(losses).backward()
        found.append((*losses, mine.grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.fixture
def taught(case):
    """Scores of student and teacher, labels with the mark, and the confidence by the formula."""
    student, labels = case
    teacher = np.random.default_rng(1).normal(0, 2, student.shape)
    marked = np.where(np.random.default_rng(2).random(labels.shape) < 0.5, TAUGHT, labels)
    p = probabilities(teacher)
    sure = 1 + (p * np.log(p)).sum(1) / np.log(K)
    return student, teacher, marked, sure


def rows(logits, chosen, temperature):
    return probabilities(logits / temperature).transpose(0, 2, 3, 1)[chosen]


def weighted_correlation(a, b, w):
    cov = np.cov(np.stack([a, b]), aweights=w, ddof=0)
    return cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1])


def test_confidence_is_one_minus_the_entropy(taught):
    _, teacher, _, sure = taught
    np.testing.assert_allclose(confidence(torch.from_numpy(teacher)), sure, rtol=1e-9)
    ends = torch.tensor([[[[0.0, 90.0]], [[0.0, -90.0]], [[0.0, -90.0]]]])
    assert confidence(ends).flatten().tolist() == pytest.approx([0, 1], abs=1e-6)


@pytest.mark.parametrize("weighted", [True, False])
def test_unlabelled_pixels_are_taught_by_dist_alone(taught, weighted):
    student, teacher, labels, sure = taught
    chosen = labels == TAUGHT
    p, q = (rows(x, chosen, 0.5) for x in (student, teacher))
    w = sure[chosen] if weighted else np.ones(len(p))
    inter = sum(w * [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)]) / len(w)
    intra = w.mean() * (1 - np.mean([weighted_correlation(p[:, k], q[:, k], w) for k in range(K)]))
    found = taught_loss(*map(torch.from_numpy, (student, teacher, labels)), 0.5, by_confidence=weighted)
    assert float(found["unlabelled"]) == pytest.approx(inter + intra, rel=1e-9)
    assert float(found["confidence"]) == pytest.approx(sure[chosen].mean(), rel=1e-9)


@pytest.mark.parametrize("weighted", [True, False])
def test_or_by_the_divergence(taught, weighted):
    student, teacher, labels, sure = taught
    chosen = labels == TAUGHT
    p, q = (rows(x, chosen, 2.0) for x in (student, teacher))
    w = sure[chosen] if weighted else np.ones(len(p))
    expected = 4 * np.mean(w * (q * np.log(q / p)).sum(1))
    found = taught_loss(
        *map(torch.from_numpy, (student, teacher, labels)), 2.0, kl=True, by_confidence=weighted
    )
    assert float(found["unlabelled"]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kl", [True, False])
def test_only_unlabelled_pixels_with_data_have_a_gradient(taught, kl):
    student, teacher, labels, _ = map(torch.from_numpy, taught)
    student, teacher = student.requires_grad_(), teacher.requires_grad_()
    taught_loss(student, teacher, labels, 0.5, kl=kl)["unlabelled"].backward()
    assert teacher.grad is None
    chosen = (labels == TAUGHT).unsqueeze(1).expand_as(student)
    assert torch.all(student.grad[~chosen] == 0)
    assert student.grad[chosen].abs().sum() > 0


@pytest.mark.parametrize("kl", [True, False])
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_nothing_to_teach_or_a_teacher_without_doubt_or_opinion_are_finite(kl, scale):
    for mark, kind in ((TAUGHT, "taught"), (1, "labelled"), (255, "nothing")):
        student = torch.zeros(1, K, 2, 2, requires_grad=True)
        labels = torch.full((1, 2, 2), mark, dtype=torch.uint8)
        found = taught_loss(student, scale * torch.eye(K).view(1, K, 2, 2), labels, 0.5, kl=kl)
        found["unlabelled"].backward()
        assert torch.isfinite(student.grad).all()
        if kind != "taught" or not scale:  # a teacher without an opinion counts for nothing
            assert [found["unlabelled"].item(), found["confidence"].item()] == pytest.approx([0, 0], abs=1e-6)


def test_a_student_that_agrees_costs_nothing(taught):
    _, teacher, labels, sure = map(torch.from_numpy, taught)
    assert float(weighted_kl(teacher, teacher, labels, 0.5, sure)) == pytest.approx(0, abs=1e-12)
    assert float(taught_loss(teacher, teacher, labels, 0.5)["unlabelled"]) == pytest.approx(0, abs=1e-9)


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
