"""MAFLNet: MACA on every level, LHFEM on the way up (MAFLNet section 3 and Table 3).

The paper prints 12.52 M parameters for MAFLNet-S, its only figure; this implementation has 12.536 M.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .configs import MAFLNetConfig
from .layers import conv_bn, conv_bn_act
from .maca import MACA
from .network import SegNet

STRIDE = 4
_BINOMIAL = (1.0, 4.0, 6.0, 4.0, 1.0)


class Gaussian(nn.Module):
    """Depthwise 5x5 binomial filter, replicate padding: ``(N, C, H, W) -> (N, C, H/s, W/s)``.

    Zero padding would create false edges of 0.4 along the tile's border. Keep in float in INT8.
    """

    kernel: Tensor

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.channels = channels
        self.stride = stride
        row = torch.tensor(_BINOMIAL) / 16.0
        kernel = torch.outer(row, row).expand(channels, 1, 5, 5).contiguous()
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Smooth, and with ``stride`` 2 keep every second pixel."""
        padded = nn.functional.pad(x, (2, 2, 2, 2), mode="replicate")
        return nn.functional.conv2d(padded, self.kernel, stride=self.stride, groups=self.channels)


class LHFEM(nn.Module):
    """Laplacian high-frequency enhancement (eq. 16-19): ``(N, C, H, W)`` in and out, H and W even.

    With s = sigmoid(f): reverse attention 1 - s (eq. 16); edges s - GF(up(down(GF(s)))) (eq. 17-18);
    both times f, concatenated, 1x1 + BN + ReLU gives y (eq. 19); and f + y * sigmoid(BN(3x3(y))), the
    "additional attention mask" of the text, one channel wide (so 12.536 M parameters come out).
    Resolved: "up" is nearest, the padding replicates; ``edges`` is computed on s minus its first
    pixel, which leaves the result unchanged (the operator is linear and cancels constants) but makes the
    response to a constant map exactly zero, and keeps precision in fp16.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.smooth_down = Gaussian(channels, stride=2)
        self.smooth = Gaussian(channels)
        self.enhance = conv_bn_act(2 * channels, channels, 1)
        self.mask = conv_bn(channels, 1)

    def edges(self, s: Tensor) -> Tensor:
        """Return the first level of the Laplacian pyramid of ``s`` (eq. 17-18)."""
        relative = s - s[:, :, :1, :1]
        low = nn.functional.interpolate(self.smooth_down(relative), scale_factor=2.0, mode="nearest")
        out: Tensor = relative - self.smooth(low)
        return out

    def forward(self, f: Tensor) -> Tensor:
        """Strengthen edges and, separately, interiors."""
        s = torch.sigmoid(f)
        y = self.enhance(torch.cat((f * (1.0 - s), f * self.edges(s)), 1))
        out: Tensor = f + y * torch.sigmoid(self.mask(y))
        return out


class UpStep(nn.Module):
    """One step up: coarse ``(N, Cc, h, w)`` and skip ``(N, Cs, 2h, 2w)`` -> ``(N, Cs, 2h, 2w)``."""

    coarse: int

    def __init__(self, coarse: int, skip: int, lhfem: bool) -> None:
        super().__init__()
        self.coarse = coarse
        self.merge = nn.Sequential(*conv_bn_act(coarse + skip, skip), *conv_bn_act(skip, skip))
        self.enhance: nn.Module = LHFEM(skip) if lhfem else nn.Identity()

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Apply bilinear x2, concatenation, two 3x3 and LHFEM."""
        up = nn.functional.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        out: Tensor = self.enhance(self.merge(torch.cat((up, skip), 1)))
        return out


class MAFLNetDecoder(nn.Module):
    """Decoder of f1..f4 into logits at stride 4, ``(N, K, H/4, W/4)``, and auxiliary logits in training.

    The text names an auxiliary head "through the intermediate decoder block" without describing
    it; this one is 3x3, BN, ReLU, 1x1 on the stride-8 decoder map, upsampled to stride 4.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, config: MAFLNetConfig) -> None:
        super().__init__()
        widths = config.widths
        self.levels = nn.ModuleList(
            nn.Sequential(
                *conv_bn_act(c, width, 1),
                MACA(width, config.heads) if config.maca else nn.Identity(),
            )
            for c, width in zip(channels, widths, strict=True)
        )
        self.ups = nn.ModuleList(UpStep(widths[i + 1], widths[i], config.lhfem) for i in (2, 1, 0))
        self.head = nn.Conv2d(widths[0], num_classes, 1)
        self.aux = (
            nn.Sequential(*conv_bn_act(widths[1], widths[0]), nn.Conv2d(widths[0], num_classes, 1))
            if config.aux
            else None
        )

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return logits and, with an auxiliary head in training, the auxiliary logits."""
        levels = [level(f) for level, f in zip(self.levels, features, strict=True)]
        x = levels[3]
        aux: Tensor | None = None
        for step, skip in zip(self.ups, reversed(levels[:3]), strict=True):
            if skip is levels[0] and self.aux is not None and self.training:
                aux = nn.functional.interpolate(
                    self.aux(x), scale_factor=2.0, mode="bilinear", align_corners=False
                )
            x = step(x, skip)
        return self.head(x), aux


class MAFLNet(SegNet):
    """Encoder and MAFLNet decoder: MAFLNet-S on MiT-b0, MAFLNet-T on the adapted SAM2 trunk."""

    def __init__(
        self,
        encoder: nn.Module,
        channels: Sequence[int],
        num_classes: int,
        config: MAFLNetConfig | None = None,
    ) -> None:
        config = config or MAFLNetConfig()
        super().__init__(encoder, MAFLNetDecoder(channels, num_classes, config), num_classes, STRIDE)
        self.config = config
