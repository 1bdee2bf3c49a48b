"""Mixed precision on a CPU: bfloat16 where it is faster, float32 where it is not."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DepthwiseFloat32(nn.Conv2d):
    """A depthwise convolution that runs in float32 under CPU autocast and hands bfloat16 on.

    oneDNN's bfloat16 backward pass of depthwise convolutions is about three times slower than its
    float32 one (EfficientNet-B0, 8 x 256 x 256, two AVX-512 cores: 267 against 88 ms a step), which
    costs all that the dense convolutions gain. Outside of autocast it is an ordinary convolution.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``(N, C, H, W)``."""
        if not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float()).to(torch.get_autocast_dtype("cpu"))


def keep_depthwise_float32(model: nn.Module) -> None:
    """Turn the depthwise convolutions of ``model`` into DepthwiseFloat32, in place; weights stay as they are."""
    for module in model.modules():
        if type(module) is nn.Conv2d and module.groups == module.in_channels > 1:
            module.__class__ = DepthwiseFloat32
