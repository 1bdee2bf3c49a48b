"""Small parts shared by all networks: conv + BN + activation, and CBAM."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsedge.errors import InputError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hard_swish": nn.Hardswish,
}


GATES: dict[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "hard_sigmoid": nn.Hardsigmoid}


def gate(name: str) -> nn.Module:
    """Return the gate named ``name`` (one of ``GATES``), with values in [0, 1]."""
    if name not in GATES:
        raise InputError(f"gate {name!r}: unknown. Choose one of {', '.join(GATES)}")
    return GATES[name]()


def activation(name: str) -> nn.Module:
    """Return the activation named ``name`` (one of ``ACTIVATIONS``), in place."""
    if name not in ACTIVATIONS:
        raise InputError(f"activation {name!r}: unknown. Choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name](inplace=True)


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    dilation: int = 1,
    separable: bool = False,
) -> nn.Sequential:
    """Return a bias-free convolution and BN, with "same" padding.

    ``(N, in, H, W) -> (N, out, H / stride, W / stride)``. With ``separable``, a k x k kernel
    becomes a depthwise k x k, BN, then a pointwise 1x1, BN (MobileNet's factorisation, without
    its inner activation, because a BN alone can be folded and quantises better).
    """
    pad = dilation * (kernel // 2)
    if not separable or kernel == 1:
        conv = nn.Conv2d(in_channels, out_channels, kernel, stride, pad, dilation, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(out_channels))
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, kernel, stride, pad, dilation, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def conv_bn_act(
    in_channels: int,
    out_channels: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    dilation: int = 1,
    separable: bool = False,
    act: str = "relu",
) -> nn.Sequential:
    """Return ``conv_bn`` and an activation, flat in one ``nn.Sequential``."""
    layers = conv_bn(in_channels, out_channels, kernel, stride=stride, dilation=dilation, separable=separable)
    layers.append(activation(act))
    return layers


class CBAM(nn.Module):
    """Convolutional block attention (Woo et al. 2018; ARAFNet Fig. 2): ``(N, C, H, W)`` in and out.

    Resolved by Table 4's parameter counts: reduction 16, one bias-free MLP shared by the average-
    and max-pooled vectors, a 7x7 bias-free spatial convolution over [mean, max] of the channels.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def channel_mask(self, x: Tensor) -> Tensor:
        """Return the weights of the channels in (0, 1): ``(N, C, H, W) -> (N, C, 1, 1)``."""
        logits = self.mlp(x.mean((2, 3), keepdim=True)) + self.mlp(x.amax((2, 3), keepdim=True))
        return torch.sigmoid(logits)

    def spatial_mask(self, x: Tensor) -> Tensor:
        """Return the weights of the pixels in (0, 1): ``(N, C, H, W) -> (N, 1, H, W)``."""
        pooled = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)
        return torch.sigmoid(self.spatial(pooled))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the channel mask, then the pixel mask."""
        x = x * self.channel_mask(x)
        return x * self.spatial_mask(x)


def attention(channels: int, enabled: bool) -> nn.Module:
    """Return CBAM, or an identity if an ablation disables attention."""
    return CBAM(channels) if enabled else nn.Identity()
