"""MACA: linear-angular and cross-covariance attention, fused (MAFLNet Fig. 2, eq. 1-15).

All maps are ``(N, C, H, W)``; L = H * W tokens, h heads of d = C / h channels. Projections are 1x1
convolutions, equivalent to linear layers on tokens but without transposing maps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rsedge.errors import InputError

HEADS = 8


class ChannelLayerNorm(nn.Module):
    """LayerNorm over the channels of each pixel, ``(N, C, H, W)`` in and out. Keep in fp32."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each pixel."""
        out: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return out


class L2Norm(nn.Module):
    """Divide by the L2 norm along ``dim``. A module, so that export can keep it in fp32.

    XCA sums squares over all tokens: at stride 4 of a 512 tile that is 16384 squares, which
    overflows fp16.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Return unit vectors along ``dim``."""
        return nn.functional.normalize(x, dim=self.dim)


class _QKV(nn.Module):
    """Projection to q, k, v of shape ``(N, h, d, L)`` without bias (eq. 1)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise InputError(f"{channels} channels are not divisible by {heads} heads")
        self.heads = heads
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project and split."""
        q, k, v = self.qkv(x).flatten(2).chunk(3, 1)
        return self._split(q), self._split(k), self._split(v)

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], self.heads, -1, x.shape[2])


class LAA(nn.Module):
    """Linear-angular attention (eq. 1-5): ``(N, C, H, W)`` in and out, linear in L.

    A = k^T v (d x d), z = 0.5 v + q A / pi with q and k of unit length, a depthwise 3x3 of v, a
    projection. Resolved: z is normalised to unit length per head and token before adding the depthwise
    part. Eq. 4 omits the normalisation, so z would grow with L, that is with the tile's size.
    """

    def __init__(self, channels: int, heads: int = HEADS) -> None:
        super().__init__()
        self.split = _QKV(channels, heads)
        self.unit = L2Norm(2)
        self.local = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.proj = nn.Conv2d(channels, channels, 1)

    def angular(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return z of eq. 4, of unit length along d: ``(N, h, d, L)``."""
        mixing = self.unit(k) @ v.transpose(2, 3)
        z: Tensor = self.unit(0.5 * v + (1.0 / math.pi) * (mixing.transpose(2, 3) @ self.unit(q)))
        return z

    def forward(self, x: Tensor) -> Tensor:
        """Attend over space."""
        q, k, v = self.split(x)
        z = self.angular(q, k, v).reshape(x.shape)
        out: Tensor = self.proj(z + self.local(v.reshape(x.shape)))
        return out


class XCA(nn.Module):
    """Cross-covariance attention (eq. 6-8; El-Nouby et al. 2021): ``(N, C, H, W)`` in and out.

    d x d attention over channels, q and k normalised along the tokens. Resolved: the text says "the
    last dimension" of (L, d), which would be d and no covariance; XCiT's tokens are meant. The
    learnable temperature of each head multiplies (as 1 / tau of eq. 6), so it cannot divide
    by zero.
    """

    def __init__(self, channels: int, heads: int = HEADS) -> None:
        super().__init__()
        self.split = _QKV(channels, heads)
        self.unit = L2Norm(3)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.proj = nn.Conv2d(channels, channels, 1)

    def attention(self, q: Tensor, k: Tensor) -> Tensor:
        """Return ``(N, h, d, d)`` with rows summing to one."""
        covariance = self.unit(q) @ self.unit(k).transpose(2, 3)
        return torch.softmax(covariance * self.temperature, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over channels."""
        q, k, v = self.split(x)
        mixed = (self.attention(q, k) @ v).reshape(x.shape)
        out: Tensor = self.proj(mixed)
        return out


class SpatialSoftmax(nn.Module):
    """Softmax over all pixels times H * W: ``(N, 1, H, W)``, of mean one. Keep in fp32.

    Eq. 12 lacks the factor; without it the mask is about 1 / (H * W), the module has no effect, and its
    values are denormal in fp16. Computed as exp / mean(exp), which is equal and stays near one.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return a mask of mean one."""
        powers = torch.exp(x - x.amax((2, 3), keepdim=True))
        return powers / powers.mean((2, 3), keepdim=True)


def _pooled_mlp(channels: int) -> nn.Sequential:
    hidden = channels // 2
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, channels, 1)
    )


class FusionModule(nn.Module):
    """FM (eq. 9-13): two maps ``(N, C, H, W)`` refine each other -> f1', f2' of the same shape.

    Resolved: a_i = MLP(avg) + MLP(max) over space, four separate MLPs of hidden width C / 2;
    M = a1 a2^T is C x C (L x L is impossible at stride 4); f1 takes softmax(M) and f2
    softmax(M^T), so that each map is weighted by the other map (eq. 11 prints M twice). The two convolutions
    of eq. 12 (3x3, 2 to 1; ReLU; 3x3, 1 to 1) are shared by both maps, as one Conv_2 is printed; the
    last has no bias, because a softmax would cancel it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.avg_mlps = nn.ModuleList(_pooled_mlp(channels) for _ in range(2))
        self.max_mlps = nn.ModuleList(_pooled_mlp(channels) for _ in range(2))
        self.mask = nn.Sequential(
            nn.Conv2d(2, 1, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(1, 1, 3, padding=1, bias=False),
            SpatialSoftmax(),
        )

    def _describe(self, f: Tensor, index: int) -> Tensor:
        average = self.avg_mlps[index](f.mean((2, 3), keepdim=True))
        peak = self.max_mlps[index](f.amax((2, 3), keepdim=True))
        described: Tensor = (average + peak).flatten(2)
        return described

    def _refine(self, f: Tensor, weights: Tensor) -> Tensor:
        mixed = (torch.softmax(weights, 2) @ f.flatten(2)).reshape(f.shape)
        pooled = torch.cat((mixed.mean(1, keepdim=True), mixed.amax(1, keepdim=True)), 1)
        refined: Tensor = f * self.mask(pooled) + f
        return refined

    def forward(self, f1: Tensor, f2: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse both branches."""
        m: Tensor = self._describe(f1, 0) @ self._describe(f2, 1).transpose(1, 2)
        return self._refine(f1, m), self._refine(f2, m.transpose(1, 2))


class MACA(nn.Module):
    """Multi-attention and cross-fusion (eq. 14-15): ``x + f1' + f2'``, ``(N, C, H, W)`` in and out.

    Resolved: a LayerNorm before both attentions and the residual, which eq. 15 omits.
    """

    def __init__(self, channels: int, heads: int = HEADS) -> None:
        super().__init__()
        self.norm = ChannelLayerNorm(channels)
        self.laa = LAA(channels, heads)
        self.xca = XCA(channels, heads)
        self.fusion = FusionModule(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both attentions and fuse them."""
        normed = self.norm(x)
        f1, f2 = self.fusion(self.laa(normed), self.xca(normed))
        out: Tensor = x + f1 + f2
        return out
