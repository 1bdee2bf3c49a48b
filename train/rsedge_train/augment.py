"""Augmentation of one crop; image and labels move together."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from rsedge.manifest import NODATA as IGNORE


class CropAugment:
    """Resize a window to ``size``, turn and flip it, change its light and its sharpness.

    Called with image ``(3, s, s)`` and labels ``(s, s)``, both uint8 and of any side, it returns
    ``(3, size, size)`` and ``(size, size)``. Labels are resampled by nearest neighbour; what a
    rotation brings in from outside is 0 in the image and ignored in the labels.

    ``strength`` scales the change of colour; 0 leaves colours as they are.
    """

    def __init__(self, size: int, *, strength: float = 1.0, turn: float = 15.0) -> None:
        self.resize = v2.Resize((size, size), antialias=True)
        fill = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORE}
        rotation = v2.RandomRotation(turn, interpolation=v2.InterpolationMode.BILINEAR, fill=fill)
        self.move = v2.Compose(
            [
                v2.RandomApply([rotation], p=0.25 if turn else 0.0),
                v2.RandomHorizontalFlip(),
                v2.RandomVerticalFlip(),
            ]
        )
        self.strength = strength
        self.colour = v2.RandomApply(
            [
                v2.ColorJitter(
                    brightness=0.35 * strength,
                    contrast=0.35 * strength,
                    saturation=0.4 * strength,
                    hue=0.04 * strength,
                )
            ],
            p=0.8,
        )
        self.focus = v2.RandomChoice(
            [
                v2.Identity(),
                v2.RandomAdjustSharpness(2.0, p=1.0),
                v2.GaussianBlur(3, sigma=(0.3, 1.2)),
            ],
            p=[0.7, 0.15, 0.15],
        )

    def __call__(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Augment one window; see the class for shapes."""
        crop, mask = self.move(*self.resize(tv_tensors.Image(image), tv_tensors.Mask(labels)))
        # The quarter turn on both at once, on plain tensors: their last two axes are rows and columns.
        quarter = int(torch.randint(4, ()))
        crop = torch.rot90(crop.as_subclass(Tensor), quarter, (-2, -1))
        mask = torch.rot90(mask.as_subclass(Tensor), quarter, (-2, -1))
        if self.strength:
            crop = self.focus(_gamma(self.colour(crop), 0.25 * self.strength))
        return crop.contiguous(), mask.contiguous()


def _gamma(image: Tensor, spread: float) -> Tensor:
    """Raise to a random power, each channel a little differently: sensors and haze differ so."""
    power = torch.exp(torch.randn(()) * spread + torch.randn(3, 1, 1) * spread * 0.3)
    table = torch.linspace(0, 1, 256).expand(3, 256).pow(power[:, :, 0]).mul(255).round().to(torch.uint8)
    planes = zip(table, image, strict=True)
    return torch.stack([row[plane.long()] for row, plane in planes])
