"""Losses on logits; unlabelled pixels count in neither."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from rsedge_train.data import IGNORE


def cross_entropy(logits: Tensor, labels: Tensor, ignore: int = IGNORE) -> Tensor:
    """Mean cross entropy over the labelled pixels; 0 where there are none.

    ``logits`` (N, K, H, W), ``labels`` (N, H, W) integer.
    """
    target = labels.long()
    total = F.cross_entropy(logits.float(), target, ignore_index=ignore, reduction="sum")
    return total / (target != ignore).sum().clamp(min=1)


def soft_dice(logits: Tensor, labels: Tensor, ignore: int = IGNORE) -> Tensor:
    """One minus the soft Dice coefficient, mean over the classes present in the labels.

    For class k over the labelled pixels of the whole batch: ``1 - 2 sum(p t) / (sum p + sum t)``.
    A class without a pixel has no overlap to gain and is left out; cross entropy keeps its
    probability down. ``logits`` (N, K, H, W), ``labels`` (N, H, W) integer; 0 when none is labelled.
    """
    valid = (labels != ignore).unsqueeze(1)
    probability = logits.float().softmax(dim=1) * valid
    index = torch.where(valid, labels.long().unsqueeze(1), 0)
    target = torch.zeros_like(probability).scatter_(1, index, valid.to(probability.dtype))
    overlap = (probability * target).sum(dim=(0, 2, 3))
    size = target.sum(dim=(0, 2, 3))
    dice = 2 * overlap / (probability.sum(dim=(0, 2, 3)) + size).clamp(min=1e-6)
    present = (size > 0).to(dice.dtype)
    return ((1 - dice) * present).sum() / present.sum().clamp(min=1)


def segmentation_loss(logits: Tensor, labels: Tensor, ignore: int = IGNORE) -> Tensor:
    """Cross entropy plus soft Dice, the supervised part of every training here."""
    return cross_entropy(logits, labels, ignore) + soft_dice(logits, labels, ignore)
