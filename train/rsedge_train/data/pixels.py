"""Normalisation of stored pixels; the exported graph carries the same constants."""

from __future__ import annotations

import torch
from torch import Tensor

# ImageNet statistics per band.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(images: Tensor) -> Tensor:
    """Convert uint8 ``(N, 3, H, W)`` to the normalised float32 that the networks expect, of the same shape."""
    mean = torch.tensor(MEAN).view(1, 3, 1, 1) * 255.0
    std = torch.tensor(STD).view(1, 3, 1, 1) * 255.0
    return (images.float() - mean.to(images.device)) / std.to(images.device)
