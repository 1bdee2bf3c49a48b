"""Losses on logits; all ignore unlabelled pixels.

Every loss is a function of sums over pixels. In training with several processes, the sums run
over all their batches (``over_all``), so N processes with a batch of B equal one process
with a batch of N x B: no mean of means. Half-precision inputs are widened to float32.

Shapes: ``logits`` (N, K, H, W), ``labels`` (N, H, W) integer, ``ignore`` where unlabelled. In batches with
unlabelled imagery, ``TAUGHT`` marks its pixels with data.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from rsedge_train.data.base import IGNORE, TAUGHT

AUX_WEIGHT = 0.4  # both papers
EPSILON = 1e-8


def over_all(x: Tensor) -> Tensor:
    """Return the sum of ``x`` over all processes, with gradients to each; ``x`` itself in a single process."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return x
    summed: Tensor = _SumOverProcesses.apply(x)
    return summed


class _SumOverProcesses(torch.autograd.Function):
    """Sum held by each process, so each loss depends on it and the gradients are summed too."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        summed = x.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        summed = gradient.clone()
        dist.all_reduce(summed)
        return summed


def cross_entropy(
    logits: Tensor, labels: Tensor, ignore: int = IGNORE, weight: Tensor | None = None
) -> Tensor:
    """Return the mean cross entropy over the labelled pixels, weighted by class if ``weight`` (K,) is given.

    With weights the mean is ``sum(w[y] * nll) / sum(w[y])``. 0 if no pixel is labelled.
    """
    target = labels.long()
    total = F.cross_entropy(_wide(logits), target, weight, ignore_index=ignore, reduction="sum")
    valid = target != ignore
    if weight is None:
        count = valid.sum().to(total)
    else:
        count = weight.to(total)[torch.where(valid, target, 0)].mul(valid).sum()
    return over_all(total) / over_all(count).clamp(min=EPSILON)


def soft_dice(logits: Tensor, labels: Tensor, ignore: int = IGNORE) -> Tensor:
    """Return one minus the soft Dice coefficient, averaged over the classes present in the labels.

    For class k over the labelled pixels of the whole batch: ``1 - 2 sum(p t) / (sum p + sum t)``.
    A class without a pixel has no overlap to gain and is left out; cross entropy keeps its
    probability down. 0 if no pixel is labelled.
    """
    valid = (labels != ignore).unsqueeze(1)
    probability = _wide(logits).softmax(dim=1) * valid
    index = torch.where(valid, labels.long().unsqueeze(1), 0)
    target = torch.zeros_like(probability).scatter_(1, index, valid.to(probability.dtype))
    sums = torch.stack(
        [(probability * target).sum((0, 2, 3)), probability.sum((0, 2, 3)), target.sum((0, 2, 3))]
    )
    overlap, predicted, size = over_all(sums)
    dice = 2 * overlap / (predicted + size).clamp(min=EPSILON)
    present = (size > 0).to(dice.dtype)
    loss: Tensor = ((1 - dice) * present).sum() / present.sum().clamp(min=1)
    return loss


def dist_relations(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float,
    ignore: int = IGNORE,
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return DIST's inter- and intra-class relations (ARAFNet eq. 6 and 7): two scalars in 0..2.

    With p = softmax(logits / temperature) over the labelled pixels: inter is one minus the mean, over
    pixels, of the Pearson correlation of the K student and teacher probabilities of that pixel; intra
    is one minus the mean, over classes, of the correlation along all pixels of the batch. Both are 0
    if no pixel is labelled. ``teacher`` takes no gradient.

    ``weight`` (N, H, W), 0..1: means, variances and covariances are weighted, and both results multiplied by the
    mean weight, so that pixels of little weight do not count more where all have little.
    """
    pixels = labels.flatten() != ignore
    p, q = (_probabilities(x, temperature)[pixels] for x in (student, teacher.detach()))  # (pixels, K)
    count = over_all(pixels.sum().to(p))
    some = (count > 0).to(p.dtype)
    w = None if weight is None else weight.flatten()[pixels].to(p)
    if w is not None:
        mass = over_all(w.sum())
        some, count = mass / count.clamp(min=1), mass

    def total(x: Tensor) -> Tensor:
        """Return the (weighted) sum over the first axis, the pixels."""
        return x.sum(0) if w is None else (w if x.ndim == 1 else w[:, None]).mul(x).sum(0)

    least = 1 if w is None else EPSILON
    inter = over_all(total(_pearson(p - p.mean(1, keepdim=True), q - q.mean(1, keepdim=True), 1)))
    mean_p, mean_q = over_all(torch.stack([total(p), total(q)])) / count.clamp(min=least)
    centred_p, centred_q = p - mean_p, q - mean_q
    products = (centred_p * centred_q, centred_p.square(), centred_q.square())
    cross, var_p, var_q = over_all(torch.stack([total(x) for x in products]))
    intra = (cross / (var_p * var_q).clamp(min=EPSILON**2).sqrt()).mean()
    return some * (1 - inter / count.clamp(min=least)), some * (1 - intra)


def confidence(teacher: Tensor) -> Tensor:
    """Return 1 - entropy / ln K of the teacher's probabilities: (N, H, W), 1 where it is sure, 0 if all K are equal.

    The probabilities are the teacher's own, at temperature 1.
    """
    log_p = _wide(teacher.detach()).log_softmax(1)
    entropy = -(log_p.exp() * log_p).sum(1)
    return (1 - entropy / math.log(teacher.shape[1])).clamp(0, 1)


def weighted_kl(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, weight: Tensor, ignore: int = IGNORE
) -> Tensor:
    """Return temperature^2 x the mean over pixels of ``weight`` (N, H, W) x KL(teacher || student).

    Both are softmax(logits / temperature). 0 if all pixels are ignored. ``teacher`` takes no gradient.
    """
    p, q = (_wide(x).div(temperature).log_softmax(1) for x in (student, teacher.detach()))
    pixels = labels != ignore
    divergence = F.kl_div(p, q, reduction="none", log_target=True).sum(1)[pixels]
    count = over_all(pixels.sum().to(divergence))
    return temperature**2 * over_all((weight[pixels] * divergence).sum()) / count.clamp(min=1)


def supervised_loss(
    logits: Tensor | tuple[Tensor, Tensor], labels: Tensor, weight: Tensor | None = None
) -> dict[str, Tensor]:
    """Return CE + soft Dice, + 0.4 x CE of the auxiliary head if ``logits`` is a pair; by part and ``loss``."""
    main, aux = logits if isinstance(logits, tuple) else (logits, None)
    parts = {"ce": cross_entropy(main, labels, weight=weight), "dice": soft_dice(main, labels)}
    loss = parts["ce"] + parts["dice"]
    if aux is not None:
        parts["aux"] = cross_entropy(aux, labels, weight=weight)
        loss = loss + AUX_WEIGHT * parts["aux"]
    return {"loss": loss, **parts}


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float,
    relation_weight: float = 1.0,
    weight: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return CE + soft Dice + ``relation_weight`` x (inter + intra) (ARAFNet eq. 8); by part and ``loss``."""
    parts = supervised_loss(student, labels, weight)
    inter, intra = dist_relations(student, teacher, labels, temperature)
    loss = parts.pop("loss") + relation_weight * (inter + intra)
    return {"loss": loss, **parts, "inter": inter, "intra": intra}


def divergence(student: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Return ``kl``, the mean divergence from ``target``'s to ``student``'s probabilities over all pixels.

    Also returns ``changed``, the share of pixels with another class. Both are logits; ``target`` takes no gradient.
    """
    wanted = _wide(target.detach()).log_softmax(1)
    total = F.kl_div(_wide(student).log_softmax(1), wanted, reduction="sum", log_target=True)
    changed = (student.detach().argmax(1) != target.argmax(1)).float()
    count = over_all(torch.tensor(float(changed.numel()), device=total.device))
    return {"kl": over_all(total) / count, "changed": over_all(changed.sum()) / count}


def taught_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float,
    *,
    kl: bool = False,
    by_confidence: bool = True,
) -> dict[str, Tensor]:
    """Return ``unlabelled``, the loss over the pixels labelled TAUGHT, and ``confidence``, the teacher's mean there.

    The loss is DIST's inter + intra, or with ``kl`` the KL divergence; each pixel has the teacher's confidence as
    its weight if ``by_confidence``, else 1. Both are 0 without such pixels.
    """
    taught = torch.where(labels == TAUGHT, 0, IGNORE)
    sure = confidence(teacher)
    weight = sure if by_confidence else torch.ones_like(sure)
    if kl:
        loss = weighted_kl(student, teacher, taught, temperature, weight)
    else:
        inter, intra = dist_relations(student, teacher, taught, temperature, weight=weight)
        loss = inter + intra
    sums = over_all(torch.stack([sure[labels == TAUGHT].sum(), (labels == TAUGHT).sum().to(sure)]))
    return {"unlabelled": loss, "confidence": sums[0] / sums[1].clamp(min=1)}


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in {torch.float16, torch.bfloat16} else x


def _probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Reshape (N, K, H, W) -> (N * H * W, K) probabilities."""
    return (_wide(logits) / temperature).softmax(dim=1).permute(0, 2, 3, 1).flatten(0, 2)


def _pearson(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Return the correlation of centred values along ``dim``."""
    scale = (a.square().sum(dim) * b.square().sum(dim)).clamp(min=EPSILON**2).sqrt()
    return (a * b).sum(dim) / scale
