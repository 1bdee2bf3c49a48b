"""Augmentation of one crop and its labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from rsedge.model.manifest import NODATA as IGNORE
from rsedge_train.data.appearance import LOOKS, Look, change_look


class CropAugment:
    """Random resizing, rotation, flipping and change of appearance of a window and its labels.

    Call with image ``(3, s, s)`` and labels ``(s, s)``, both uint8 and of any side ``s``, to get
    ``(3, size, size)`` and ``(size, size)``. Labels are resampled by nearest neighbour. Pixels that a
    rotation brings in from outside are 0 in the image and ignored in the labels.
    """

    def __init__(self, size: int, *, look: Look | None = LOOKS["mild"], turn: float = 15.0) -> None:
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
        self.look = look

    def __call__(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Augment one window; see the class for shapes."""
        crop, mask = self.move(*self.resize(tv_tensors.Image(image), tv_tensors.Mask(labels)))
        # Rotate plain tensors, because their last two axes are rows and columns.
        quarter = int(torch.randint(4, ()))
        crop = torch.rot90(crop.as_subclass(Tensor), quarter, (-2, -1))
        mask = torch.rot90(mask.as_subclass(Tensor), quarter, (-2, -1))
        if self.look is not None:
            crop = change_look(crop, self.look)
        return crop.contiguous(), mask.contiguous()
