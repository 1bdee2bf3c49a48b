"""Base of all networks: an encoder, a decoder, and one bilinear upsampling to input size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsedge.errors import InputError

MULTIPLE = 32


class SegNet(nn.Module):
    """``(N, 3, H, W)`` normalised -> logits ``(N, K, H, W)``; H and W are multiples of 32.

    The encoder returns f1..f4 at strides 4, 8, 16, 32; the decoder turns them into logits at
    ``stride`` and, in training with an auxiliary head, the auxiliary logits. In that
    case ``forward`` returns the pair, both at input size.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, num_classes: int, stride: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise InputError(f"num_classes {num_classes}: too few. Use 2 or more")
        self.encoder = encoder
        self.decoder = decoder
        self.num_classes = num_classes
        self.stride = stride

    def forward_features(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return logits at ``stride``, before the last upsampling, and the auxiliary logits or None."""
        if not torch.compiler.is_compiling() and (x.shape[2] % MULTIPLE or x.shape[3] % MULTIPLE):
            raise InputError(
                f"a tile of {x.shape[2]} x {x.shape[3]} pixels: height and width must be multiples of "
                f"{MULTIPLE}. Pad the tile"
            )
        out: tuple[Tensor, Tensor | None] = self.decoder(self.encoder(x))
        return out

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits at the input's size."""
        logits, aux = self.forward_features(x)
        logits = self._to_input(logits)
        return logits if aux is None else (logits, self._to_input(aux))

    def _to_input(self, logits: Tensor) -> Tensor:
        scale = float(self.stride)
        return nn.functional.interpolate(logits, scale_factor=scale, mode="bilinear", align_corners=False)
