"""ARAFNet's decoder and full network (Shi et al. 2026, Fig. 1-3 and Table 4).

f1..f4 are the encoder's features at strides 4, 8, 16, 32 with C1..C4 channels; D is the decoder's
width (128 in the paper). Every convolution is bias-free with BN unless said otherwise, because with that
choice all ten rows of Table 4 match to their printed digits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .configs import ARAFNetConfig
from .layers import activation, attention, conv_bn, conv_bn_act, gate
from .network import SegNet

DILATIONS = (3, 6, 12, 18, 24)
STRIDE, FINE_STRIDE = 8, 4


class SeparableUp(nn.Module):
    """Cheap replacement of the transposed 3x3: ``(N, C, H, W) -> (N, D, 2H, 2W)``.

    Pointwise on the coarse grid, bilinear x2, depthwise 3x3. This block is ours, not the paper's: depthwise
    transposed convolutions are slow or missing in INT8 runtimes.
    """

    def __init__(self, in_channels: int, out_channels: int, act: str) -> None:
        super().__init__()
        self.point = conv_bn(in_channels, out_channels, 1)
        self.depth = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, 3, padding=1, groups=out_channels, bias=False),
            nn.BatchNorm2d(out_channels),
            activation(act),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Double the grid."""
        up = nn.functional.interpolate(self.point(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        out: Tensor = self.depth(up)
        return out


def _transposed(in_channels: int, out_channels: int, act: str) -> nn.Sequential:
    conv = nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), activation(act))


class LowPath(nn.Module):
    """Low-level features: f1, f2, f3 -> ``(N, D, H/8, W/8)``.

    f1 by a 3x3 of stride 2, f3 by a transposed 3x3 of stride 2, both to D channels; concatenated
    with the unchanged f2, reduced by a 3x3, refined by CBAM.
    """

    def __init__(self, channels: Sequence[int], config: ARAFNetConfig) -> None:
        super().__init__()
        c1, c2, c3, _ = channels
        width, act, separable = config.width, config.activation, config.separable
        self.down = conv_bn_act(c1, width, stride=2, separable=separable, act=act)
        self.up: nn.Module = SeparableUp(c3, width, act) if separable else _transposed(c3, width, act)
        self.merge = conv_bn_act(2 * width + c2, width, separable=separable, act=act)
        self.attention = attention(width, config.low_attention)

    def forward(self, f1: Tensor, f2: Tensor, f3: Tensor) -> Tensor:
        """Fuse the three finest features at stride 8."""
        out: Tensor = self.attention(self.merge(torch.cat((self.down(f1), f2, self.up(f3)), 1)))
        return out


class ResASPP(nn.Module):
    """Attention-enhanced residual ASPP: f4 ``(N, C4, H/32, W/32) -> (N, D, H/32, W/32)``.

    The text's "cascade of five dilated blocks" means five parallel branches: a cascade does not
    reach Table 4's counts. One residual (1x1, BN, CBAM) is shared by all branches.
    """

    def __init__(self, in_channels: int, config: ARAFNetConfig) -> None:
        super().__init__()
        width, act = config.width, config.activation
        self.trunk = attention(in_channels, config.trunk_attention)
        self.branches = nn.ModuleList(
            nn.Sequential(
                *conv_bn_act(in_channels, width, dilation=rate, separable=config.separable, act=act),
                attention(width, config.branch_attention),
            )
            for rate in DILATIONS
        )
        self.residual = nn.Sequential(
            *conv_bn(in_channels, width, 1), attention(width, config.branch_attention)
        )
        self.project = conv_bn_act(len(DILATIONS) * width, width, 1, act=act)

    def forward(self, f4: Tensor) -> Tensor:
        """Compute five fields of view, each with the shared residual, and reduce them to one map."""
        x = self.trunk(f4)
        residual = self.residual(x)
        out: Tensor = self.project(torch.cat([branch(x) + residual for branch in self.branches], 1))
        return out


def upsample4(x: Tensor) -> Tensor:
    """Upsample bilinearly by 4: the high path from stride 32 to stride 8."""
    return nn.functional.interpolate(x, scale_factor=4.0, mode="bilinear", align_corners=False)


class BFM(nn.Module):
    """Bilateral fusion (Fig. 3): low ``(N, D, h, w)``, high ``(N, D, h/4, w/4)`` -> ``(N, D, h, w)``.

    With high upsampled, ``[DW3x3, BN, 1x1](low) * sigmoid([3x3, BN](high)) + [DW3x3, BN, 1x1](high)
    * sigmoid([3x3, BN](low))``, then 3x3, BN, activation. Resolved: the 1x1 has no bias and no BN.
    ``high_gate_coarse`` is None, or the module with which ``deploy`` computes the high gate on the coarse map.
    """

    def __init__(self, config: ARAFNetConfig) -> None:
        super().__init__()
        width, separable = config.width, config.separable
        self.width = width
        self.low_value = self._value(width)
        self.high_value = self._value(width)
        self.low_gate = conv_bn(width, width, separable=separable)
        self.high_gate = conv_bn(width, width, separable=separable)
        self.high_gate_coarse: nn.Module | None = None
        self.gate = gate(config.gate)
        self.out = conv_bn_act(width, width, separable=separable, act=config.activation)

    @staticmethod
    def _value(width: int) -> nn.Sequential:
        depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        return nn.Sequential(depthwise, nn.BatchNorm2d(width), nn.Conv2d(width, width, 1, bias=False))

    def forward(self, low: Tensor, coarse: Tensor) -> Tensor:
        """Return the sum of each stream's values under the other stream's gate."""
        high = upsample4(coarse)
        high_gate = self.high_gate(high) if self.high_gate_coarse is None else self.high_gate_coarse(coarse)
        gated_low = self.low_value(low) * self.gate(high_gate)
        gated_high = self.high_value(high) * self.gate(self.low_gate(low))
        out: Tensor = self.out(gated_low + gated_high)
        return out


class AddFusion(nn.Module):
    """Table 6's "w/o BFM (add)": the plain sum of both maps; shapes as in ``BFM``."""

    def forward(self, low: Tensor, coarse: Tensor) -> Tensor:
        """Add both maps."""
        return low + upsample4(coarse)


class ConcatFusion(nn.Module):
    """Table 6's "w/o BFM (concat)": both maps side by side, a 1x1 back to D; shapes as in ``BFM``."""

    def __init__(self, config: ARAFNetConfig) -> None:
        super().__init__()
        self.project = conv_bn_act(2 * config.width, config.width, 1, act=config.activation)

    def forward(self, low: Tensor, coarse: Tensor) -> Tensor:
        """Concatenate and project both maps."""
        out: Tensor = self.project(torch.cat((low, upsample4(coarse)), 1))
        return out


def seg_head(num_classes: int, config: ARAFNetConfig) -> nn.Sequential:
    """Return 3x3, BN, activation, dropout, 1x1 with bias: ``(N, D, h, w) -> (N, K, h, w)``."""
    width = config.width
    layers = conv_bn_act(width, width, separable=config.separable, act=config.activation)
    layers.append(nn.Dropout2d(config.dropout))
    layers.append(nn.Conv2d(width, num_classes, 1))
    return layers


class FineHead(nn.Module):
    """Fused map at stride 8 and f1 at stride 4 -> logits at stride 4, ``(N, K, H/4, W/4)``.

    This head is ours, not the paper's, and improves outlines: the paper's head works at stride 8, so a building's
    edge is upsampled eightfold. f1 joins through a 1x1, after one upsampling by two; the 3x3 at stride 4 has
    half the decoder's channels, which adds less than a tenth to the network's MACs.
    """

    def __init__(self, f1_channels: int, num_classes: int, config: ARAFNetConfig) -> None:
        super().__init__()
        width, half, act = config.width, config.width // 2, config.activation
        self.coarse = nn.Sequential(
            *conv_bn_act(width, width, separable=config.separable, act=act), *conv_bn(width, half, 1)
        )
        self.detail = conv_bn(f1_channels, half, 1)
        self.act = activation(act)
        self.out = nn.Sequential(
            *conv_bn_act(half, half, separable=config.separable, act=act),
            nn.Dropout2d(config.dropout),
            nn.Conv2d(half, num_classes, 1),
        )

    def forward(self, fused: Tensor, f1: Tensor) -> Tensor:
        """Add detail to the upsampled map, then classify."""
        coarse = self.coarse(fused)
        up = nn.functional.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        out: Tensor = self.out(self.act(up + self.detail(f1)))
        return out


class ARAFNetDecoder(nn.Module):
    """Decoder of f1..f4 into logits at stride 8, ``(N, K, H/8, W/8)``, and auxiliary logits in training.

    With ``config.fine`` the logits are at stride 4.

    The auxiliary head (teacher only; ``config.aux``) sits on ``low + up(high)`` (eq. 3).
    """

    def __init__(self, channels: Sequence[int], num_classes: int, config: ARAFNetConfig) -> None:
        super().__init__()
        self.low: nn.Module | None = LowPath(channels, config) if config.low_path else None
        # Without ResASPP a 1x1 brings f4 to D channels; the authors' checkpoints carry that 1x1 unused.
        self.high: nn.Module = (
            ResASPP(channels[3], config)
            if config.res_aspp
            else conv_bn_act(channels[3], config.width, 1, act=config.activation)
        )
        self.fuse: nn.Module | None = None
        if config.fusion == "bfm":
            self.fuse = BFM(config)
        elif config.fusion == "concat":
            self.fuse = ConcatFusion(config)
        elif config.fusion == "add":
            self.fuse = AddFusion()
        self.head = (
            FineHead(channels[0], num_classes, config) if config.fine else seg_head(num_classes, config)
        )
        self.aux = seg_head(num_classes, config) if config.aux else None

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return logits and, with an auxiliary head in training, the auxiliary logits."""
        f1, f2, f3, f4 = features
        coarse = self.high(f4)
        low = upsample4(coarse) if self.low is None else self.low(f1, f2, f3)
        fused = low if self.fuse is None else self.fuse(low, coarse)
        logits = self.head(fused, f1) if isinstance(self.head, FineHead) else self.head(fused)
        if self.aux is None or not self.training:
            return logits, None
        return logits, self.aux(low if self.low is None else low + upsample4(coarse))


class ARAFNet(SegNet):
    """Encoder and ARAFNet decoder: KD-ARAFNet on a small encoder, SAM2-ARAFNet on SAM2's trunk."""

    def __init__(
        self,
        encoder: nn.Module,
        channels: Sequence[int],
        num_classes: int,
        config: ARAFNetConfig | None = None,
    ) -> None:
        config = config or ARAFNetConfig()
        super().__init__(
            encoder,
            ARAFNetDecoder(channels, num_classes, config),
            num_classes,
            FINE_STRIDE if config.fine else STRIDE,
        )
        self.config = config
