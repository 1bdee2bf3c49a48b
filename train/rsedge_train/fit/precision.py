"""Mixed precision on a CPU: bfloat16 if faster, else float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsedge.errors import InputError


class DepthwiseFloat32(nn.Conv2d):
    """Depthwise convolution that runs in float32 under CPU autocast and returns bfloat16.

    oneDNN's bfloat16 backward pass of depthwise convolutions is about three times slower than its
    float32 one (EfficientNet-B0, 8 x 256 x 256, two AVX-512 cores: 267 against 88 ms a step), which
    cancels the gain of the dense convolutions. Outside of autocast it is an ordinary convolution.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``(N, C, H, W)``."""
        if not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float()).to(torch.get_autocast_dtype("cpu"))


def keep_depthwise_float32(model: nn.Module) -> None:
    """Replace the depthwise convolutions of ``model`` by DepthwiseFloat32, in place, keeping the weights."""
    for module in model.modules():
        if type(module) is nn.Conv2d and module.groups == module.in_channels > 1:
            module.__class__ = DepthwiseFloat32


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype of mixed precision, None for plain float32.

    ``auto``: bfloat16 if the hardware has it, else float16 on a GPU and float32 on a CPU. Raises
    InputError for other names, and for float16 on a CPU, which is slower there than float32.
    """
    names = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision == "auto":
        if device.type == "cuda":
            return (
                torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
            )
        return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else None
    if precision not in names:
        raise InputError(f"precision {precision!r}: unknown. Choose auto, fp32, bf16 or fp16")
    if precision == "fp16" and device.type == "cpu":
        raise InputError("precision fp16 needs a GPU. On a CPU choose bf16 or fp32")
    return names[precision]
