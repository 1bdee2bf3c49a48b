"""Mix Transformer (MiT), SegFormer's encoder, written from its paper (Xie et al. 2021, section 3.1).

It is not in timm, and its widely copied file has a non-commercial licence. ``mit_b0`` and
``mit_b1`` have 3,319,392 and 13,151,424 parameters, which ARAFNet Table 4 confirms. Tensors are
``(N, C, H, W)`` between the parts and ``(N, H * W, C)`` inside attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from rsedge.errors import InputError


@dataclass(frozen=True)
class MiTConfig:
    """One MiT: widths, blocks and heads of the four stages, and their key/value reductions."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    heads: tuple[int, int, int, int] = (1, 2, 5, 8)
    reductions: tuple[int, int, int, int] = (8, 4, 2, 1)
    expansion: int = 4
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        for width, heads in zip(self.widths, self.heads, strict=True):
            if width % heads:
                raise InputError(f"MiT width {width} is not divisible by its {heads} heads")
        if not 0.0 <= self.drop_path < 1.0:
            raise InputError(f"drop_path {self.drop_path}: not in 0 <= drop_path < 1")


MIT: Mapping[str, MiTConfig] = MappingProxyType(
    {"mit_b0": MiTConfig((32, 64, 160, 256)), "mit_b1": MiTConfig((64, 128, 320, 512))}
)


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _maps(tokens: Tensor, height: int, width: int) -> Tensor:
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, height, width)


class OverlapPatchEmbed(nn.Module):
    """Overlapping patch merging: a strided convolution, then LayerNorm -> ``(N, h * w, C)``, h, w."""

    def __init__(self, in_channels: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        """Embed overlapping patches."""
        x = self.proj(x)
        height, width = x.shape[2:]
        return self.norm(_tokens(x)), height, width


class EfficientAttention(nn.Module):
    """Self-attention whose keys and values are reduced by R in each direction (eq. 1-2)."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.reduce = nn.Conv2d(width, width, reduction, reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(width) if reduction > 1 else None

    def _split(self, tokens: Tensor) -> Tensor:
        batch, length, width = tokens.shape
        return tokens.reshape(batch, length, self.heads, width // self.heads).transpose(1, 2)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Attend over tokens, ``(N, h * w, C)`` in and out."""
        source = tokens
        if self.reduce is not None and self.norm is not None:
            source = self.norm(_tokens(self.reduce(_maps(tokens, height, width))))
        out = nn.functional.scaled_dot_product_attention(
            self._split(self.q(tokens)), self._split(self.k(source)), self._split(self.v(source))
        )
        mixed: Tensor = self.proj(out.transpose(1, 2).flatten(2))
        return mixed


class MixFFN(nn.Module):
    """Linear, depthwise 3x3 (which replaces position codes), GELU, linear (eq. 3)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Transform tokens, ``(N, h * w, C)`` in and out."""
        hidden = self.depthwise(_maps(self.fc1(tokens), height, width))
        out: Tensor = self.fc2(nn.functional.gelu(_tokens(hidden)))
        return out


class DropPath(nn.Module):
    """Stochastic depth: in training, a sample's residual branch is dropped with ``probability``."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Scale the kept branches so that the expectation stays the same."""
        if not self.training or self.probability == 0.0:
            return x
        keep = 1.0 - self.probability
        mask = torch.empty((x.shape[0], 1, 1), dtype=x.dtype, device=x.device).bernoulli_(keep)
        return x * mask / keep


class MiTBlock(nn.Module):
    """Pre-norm attention and Mix-FFN, each with a residual."""

    def __init__(self, width: int, heads: int, reduction: int, expansion: int, drop: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = EfficientAttention(width, heads, reduction)
        self.norm2 = nn.LayerNorm(width)
        self.ffn = MixFFN(width, expansion * width)
        self.drop_path = DropPath(drop)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Transform tokens, ``(N, h * w, C)`` in and out."""
        tokens = tokens + self.drop_path(self.attention(self.norm1(tokens), height, width))
        mixed: Tensor = tokens + self.drop_path(self.ffn(self.norm2(tokens), height, width))
        return mixed


class MiTStage(nn.Module):
    """Patch merging, blocks, LayerNorm: ``(N, C, H, W) -> (N, C', H / stride, W / stride)``."""

    def __init__(self, config: MiTConfig, index: int, drops: list[float]) -> None:
        super().__init__()
        width = config.widths[index]
        before = config.widths[index - 1] if index else 3
        kernel, stride = (3, 2) if index else (7, 4)
        self.embed = OverlapPatchEmbed(before, width, kernel, stride)
        self.blocks = nn.ModuleList(
            MiTBlock(width, config.heads[index], config.reductions[index], config.expansion, drop)
            for drop in drops
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Compute one level of the pyramid."""
        tokens, height, width = self.embed(x)
        for block in self.blocks:
            tokens = block(tokens, height, width)
        return _maps(self.norm(tokens), height, width)


class MiT(nn.Module):
    """``(N, 3, H, W)`` -> f1..f4 at strides 4, 8, 16, 32."""

    def __init__(self, config: MiTConfig) -> None:
        super().__init__()
        self.config = config
        total = sum(config.depths)
        drops = [config.drop_path * i / max(total - 1, 1) for i in range(total)]
        starts = [sum(config.depths[:i]) for i in range(4)]
        self.stages = nn.ModuleList(
            MiTStage(config, i, drops[start : start + config.depths[i]]) for i, start in enumerate(starts)
        )
        self.apply(_initialise)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the four levels, finest first."""
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def _initialise(module: nn.Module) -> None:
    """Initialise linear layers with truncated normals, convolutions with fan-out normals."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2.0 / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
