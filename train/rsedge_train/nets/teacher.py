"""Adapted, frozen SAM2 encoder shared by both papers' teachers (ARAFNet, "Encoder")."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rsedge.errors import InputError

from .sam2_trunk import build_trunk, fetch_checkpoint, load_trunk, variant

BOTTLENECK = 32
HUB = "hub"


class Adapter(nn.Module):
    """``x + GELU(Linear(GELU(Linear(x))))``, channels last: ``(N, h, w, C)`` in and out.

    Resolved: bottleneck 32 (1,714,416 parameters over Hiera-L's 48 blocks) and the residual, which
    the text omits and without which a fresh adapter would destroy the pretrained features.
    """

    def __init__(self, channels: int, bottleneck: int = BOTTLENECK) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels, bottleneck), nn.GELU(), nn.Linear(bottleneck, channels), nn.GELU()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Recalibrate features."""
        out: Tensor = x + self.layers(x)
        return out


class SAM2Encoder(nn.Module):
    """SAM2's Hiera trunk, frozen, with an adapter before every block.

    ``(N, 3, H, W)`` -> f1..f4 at strides 4..32 (144, 288, 576, 1152 channels on Hiera-L). The text
    puts adapters "ahead of each multi-scale stage"; Table 4's count needs one per block. The
    trunk takes no gradients and always stays in eval mode, even after ``train()``.
    """

    def __init__(self, trunk: Any, bottleneck: int = BOTTLENECK) -> None:
        super().__init__()
        self.trunk = trunk
        self.adapters = nn.ModuleList(Adapter(block.dim, bottleneck) for block in trunk.blocks)
        self.trunk.requires_grad_(False)
        self.trunk.eval()

    @property
    def channels(self) -> tuple[int, ...]:
        """Return the channels of f1..f4."""
        return tuple(reversed(self.trunk.channel_list))

    def train(self, mode: bool = True) -> SAM2Encoder:
        """Set the mode of all modules except the frozen trunk, which stays in eval mode."""
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        """Run SAM2's own forward pass block by block, with the adapters between."""
        trunk = self.trunk
        x = trunk.patch_embed(x)
        # The trunk's position codes are part of its weights, and sam2 has no public name for them.
        x = x + trunk._get_pos_embed(x.shape[1:3])
        features = []
        for index, (adapter, block) in enumerate(zip(self.adapters, trunk.blocks, strict=True)):
            x = block(adapter(x))
            if index in trunk.stage_ends:
                features.append(x.permute(0, 3, 1, 2))
        return features


def build_sam2_encoder(name: str, *, checkpoint: Path | str | None = None) -> SAM2Encoder:
    """Return the encoder of SAM2 variant ``name``, e.g. ``sam2.1-hiera-large``.

    ``checkpoint``: a local official ``.pt``; ``"hub"`` to read from the Hugging Face hub; None
    for random weights (for counting and tests, as a frozen random trunk learns nothing useful).
    """
    which = variant(name)
    trunk = build_trunk(which)
    if checkpoint is not None:
        if str(checkpoint) == "":
            raise InputError("checkpoint is an empty path. Give a file, hub or None")
        path = fetch_checkpoint(which) if str(checkpoint) == HUB else Path(checkpoint)
        load_trunk(trunk, path, which)
    return SAM2Encoder(trunk)
