"""Exact computation of a 3x3 convolution of a bilinearly upsampled map on the coarse map.

conv(up(x)) = sum over the nine taps of shift_t(up(W_t x)): a tap's channel mixing W_t is 1x1 and
commutes with the upsampling, which acts on space. Shift and upsampling are separable and linear,
which gives two constant matrices. For ARAFNet's high gate (16 x 16 to 64 x 64, 128 channels) 604 M MACs
become 82 M. The matrices are for one tile size; borders are exact, because they include both
bilinear's clamping and the convolution's zero padding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .maflnet import UpStep

_WORTH = 0.8


def upsample_matrices(size: int, scale: int) -> Tensor:
    """Return ``(3, size * scale, size)``: 1-D bilinear upsampling, shifted by -1, 0, 1 with zeros in."""
    basis = torch.eye(size)[None]
    up = nn.functional.interpolate(basis, scale_factor=float(scale), mode="linear", align_corners=False)
    padded = nn.functional.pad(up[0].T, (0, 0, 1, 1))
    fine = size * scale
    return torch.stack([padded[tap : tap + fine] for tap in range(3)])


def cost(in_channels: int, out_channels: int, size: int, scale: int) -> int:
    """Return the MACs of ``UpConv`` for one tile."""
    fine = size * scale
    taps = 9 * in_channels * out_channels * size * size
    return taps + out_channels * 9 * size * size * fine + out_channels * 3 * size * fine * fine


def pays(conv: nn.Module, in_channels: int, size: int, scale: int) -> bool:
    """Return True if ``conv`` is a plain "same" 3x3 that is clearly cheaper on the coarse map."""
    if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (3, 3) or conv.groups != 1:
        return False
    if conv.stride != (1, 1) or conv.padding != (1, 1) or conv.dilation != (1, 1):
        return False
    direct = 9 * in_channels * conv.out_channels * (size * scale) ** 2
    return cost(in_channels, conv.out_channels, size, scale) < _WORTH * direct


class Product(nn.Module):
    """Product with a constant matrix, ``(..., n, i) -> (..., n, o)``; in INT8 a layer like a convolution."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply from the right."""
        return x @ self.weight


class UpConv(nn.Module):
    """Coarse ``(N, C, s, s)`` -> ``(N, O, s * scale, s * scale)``: upsample, then convolve."""

    rows: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None, size: int, scale: int) -> None:
        super().__init__()
        out_channels, in_channels = weight.shape[:2]
        self.out_channels = out_channels
        self.size = size
        self.taps = nn.Conv2d(in_channels, 9 * out_channels, 1, bias=False)
        # Channels of the taps' map: (output, vertical tap, horizontal tap).
        ordered = weight.detach().permute(0, 2, 3, 1).reshape(9 * out_channels, in_channels, 1, 1)
        self.taps.weight = nn.Parameter(ordered.contiguous())
        self.bias = None if bias is None else nn.Parameter(bias.detach().reshape(1, -1, 1, 1).clone())
        matrices = upsample_matrices(size, scale).to(weight)
        # Multiply (3 s, fine) from the right and (fine, 3 s) from the left.
        self.columns = Product(matrices.permute(0, 2, 1).reshape(3 * size, -1).contiguous())
        self.register_buffer("rows", matrices.permute(1, 0, 2).reshape(-1, 3 * size).contiguous())

    @classmethod
    def of(cls, conv: nn.Module, size: int, scale: int) -> UpConv:
        """Return the module equivalent to a 3x3 convolution."""
        if not isinstance(conv, nn.Conv2d):
            raise TypeError(f"not a convolution: {type(conv).__name__}")
        return cls(conv.weight, conv.bias, size, scale)

    def direct(self) -> nn.Conv2d:
        """Return the 3x3 convolution that this module is equivalent to, on the upsampled map."""
        _, in_channels, _, _ = self.taps.weight.shape
        conv = nn.Conv2d(in_channels, self.out_channels, 3, padding=1, bias=self.bias is not None)
        ordered = self.taps.weight.detach().reshape(self.out_channels, 3, 3, in_channels)
        conv.weight = nn.Parameter(ordered.permute(0, 3, 1, 2).contiguous())
        if self.bias is not None:
            conv.bias = nn.Parameter(self.bias.detach().flatten().clone())
        return conv

    def forward(self, x: Tensor) -> Tensor:
        """Mix channels for each tap, then place the taps."""
        size, out = self.size, self.out_channels
        taps = self.taps(x).reshape(-1, 3 * out, 3, size, size).transpose(2, 3)
        wide = self.columns(taps.reshape(-1, 3 * out * size, 3 * size))
        fine: Tensor = self.rows @ wide.reshape(-1, out, 3 * size, self.rows.shape[0])
        return fine if self.bias is None else fine + self.bias


class SplitUpStep(nn.Module):
    """``UpStep`` with its first 3x3 split: the upsampled half by ``UpConv``, the skip's half directly."""

    def __init__(self, step: UpStep, size: int) -> None:
        super().__init__()
        conv = step.merge[0]
        if not isinstance(conv, nn.Conv2d):
            raise TypeError("the first layer of an UpStep must be a convolution")
        self.up = UpConv(conv.weight[:, : step.coarse], None, size, 2)
        self.skip = nn.Conv2d(conv.in_channels - step.coarse, conv.out_channels, 3, padding=1)
        self.skip.weight = nn.Parameter(conv.weight.detach()[:, step.coarse :].clone())
        bias = torch.zeros(conv.out_channels).to(conv.weight) if conv.bias is None else conv.bias
        self.skip.bias = nn.Parameter(bias.detach().clone())
        self.rest = step.merge[1:]
        self.enhance = step.enhance

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Compute the same as ``UpStep``."""
        out: Tensor = self.enhance(self.rest(self.up(coarse) + self.skip(skip)))
        return out
