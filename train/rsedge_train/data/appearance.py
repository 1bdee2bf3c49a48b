"""Random changes of a crop's appearance (light, haze, sensor, processing) that leave its geometry alone."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from torch import Tensor

from rsedge.errors import InputError

LUMA = torch.tensor([0.299, 0.587, 0.114])
CELLS = 4  # patches of shade or haze along one side of a crop


@dataclass(frozen=True)
class Look:
    """Strength and frequency of appearance changes; shares are of all crops, spreads are of logarithms."""

    gamma: float = 0.25  # spread of the exponent; each channel varies by another third of it
    brightness: float = 0.35  # largest relative change
    contrast: float = 0.35
    saturation: float = 0.4
    hue: float = 0.04  # largest rotation, as a share of a circle
    cast: float = 0.0  # spread of each channel's gain
    colour_share: float = 0.8
    sharpen_share: float = 0.15
    blur_share: float = 0.15
    blur: float = 1.2  # largest sigma, pixels
    coarsen_share: float = 0.0  # resampled to as little as half the resolution and back
    shade_share: float = 0.0  # shadows with soft edges, dimming by up to a half
    haze_share: float = 0.0  # patches of haze, at most half opaque
    noise_share: float = 0.0
    noise: float = 8.0  # largest standard deviation, grey levels
    jpeg_share: float = 0.0
    jpeg: tuple[int, int] = (25, 90)  # quality

    def __post_init__(self) -> None:
        shares = [value for name, value in vars(self).items() if name.endswith("share")]
        if not all(0 <= share <= 1 for share in shares) or self.sharpen_share + self.blur_share > 1:
            raise InputError(
                "look: each share must be 0 to 1, and sharpen_share + blur_share at most 1. Correct the shares"
            )


#: ``mild``: another time of day. ``broad``: other places, sensors and processing too.
LOOKS: Mapping[str, Look | None] = MappingProxyType(
    {
        "none": None,
        "mild": Look(),
        "broad": Look(
            saturation=0.6,
            cast=0.08,
            colour_share=0.9,
            blur_share=0.25,
            blur=2.0,
            coarsen_share=0.2,
            shade_share=0.15,
            haze_share=0.2,
            noise_share=0.2,
            jpeg_share=0.3,
        ),
    }
)


def change_look(image: Tensor, look: Look) -> Tensor:
    """Return ``image``, uint8 (3, S, S), with a random look drawn from torch's default generator."""
    x = _gamma(image, look.gamma)
    if _chance(look.shade_share):
        x *= 1 - _uniform(0.25, 0.55) * _patches(x.shape[-1])
    if _chance(look.haze_share):
        opaque, air = _uniform(0.1, 0.5) * _patches(x.shape[-1]), _uniform(170, 240)
        x = x * (1 - opaque) + air * opaque
    x = _focus(x, look)
    if _chance(look.coarsen_share):
        x = _coarsen(x, _uniform(0.5, 1.0))
    if _chance(look.colour_share):
        x = _colour(x, look)
    if _chance(look.noise_share):
        x += torch.randn_like(x) * _uniform(1, look.noise)
    out = x.clamp_(0, 255).round_().to(torch.uint8)
    if _chance(look.jpeg_share):
        out = _jpeg(out, round(_uniform(*look.jpeg)))
    return out


def _gamma(image: Tensor, spread: float) -> Tensor:
    """Raise pixel values to a random power that differs a little by channel, as sensors and haze do."""
    power = torch.exp(torch.randn(()) * spread + torch.randn(3, 1) * spread * 0.3)
    tables = torch.linspace(0, 1, 256).expand(3, 256).pow(power).mul(255)
    # numpy looks up bytes six times as fast as torch.
    planes = [table[plane] for table, plane in zip(tables.numpy(), image.numpy(), strict=True)]
    return torch.from_numpy(np.stack(planes))


def _colour(x: Tensor, look: Look) -> Tensor:
    """Change hue, saturation, contrast, brightness and colour cast with one affine map."""
    angle = 2 * math.pi * _uniform(-look.hue, look.hue)
    to_grey = LUMA.expand(3, 3)
    chroma = _turn_about_grey(angle) @ (torch.eye(3) - to_grey)
    matrix = to_grey + _factor(look.saturation) * chroma
    mean, contrast = (LUMA @ x.flatten(1)).mean(), _factor(look.contrast)
    gain = (_factor(look.brightness) * torch.exp(torch.randn(3) * look.cast))[:, None]
    moved = (gain * contrast * matrix) @ x.flatten(1) + gain * (1 - contrast) * mean
    return moved.view_as(x)


def _turn_about_grey(angle: float) -> Tensor:
    """Return the matrix (3, 3) that rotates colours about the grey axis."""
    third, cos, sin = (1 - math.cos(angle)) / 3, math.cos(angle), math.sin(angle) / math.sqrt(3)
    return torch.tensor(
        [
            [cos + third, third - sin, third + sin],
            [third + sin, cos + third, third - sin],
            [third - sin, third + sin, cos + third],
        ]
    )


def _focus(x: Tensor, look: Look) -> Tensor:
    """Sharpen the crop, blur it, or leave it unchanged."""
    draw = _uniform(0, 1)
    if draw >= look.sharpen_share + look.blur_share:
        return x
    if draw < look.sharpen_share:
        return x + _uniform(0.5, 1.5) * (x - _blur(x, 1.0))
    return _blur(x, _uniform(0.3, look.blur))


def _blur(x: Tensor, sigma: float) -> Tensor:
    """Blur with a Gaussian, one axis at a time, repeating the edges."""
    radius = max(1, math.ceil(2 * sigma))
    kernel = torch.exp(-torch.arange(-radius, radius + 1).square() / (2 * sigma**2))
    weights = (kernel / kernel.sum()).tolist()
    for axis in (-2, -1):
        pad = (0, 0, radius, radius) if axis == -2 else (radius, radius)
        wide, size = F.pad(x, pad, mode="replicate"), x.shape[axis]
        x = wide.narrow(axis, 0, size) * weights[0]
        for i, weight in enumerate(weights[1:], 1):
            x.add_(wide.narrow(axis, i, size), alpha=weight)
    return x


def _coarsen(x: Tensor, scale: float) -> Tensor:
    """Resample to a lower resolution and back, imitating a coarser sensor."""
    size = x.shape[-1]
    small = F.interpolate(x[None], size=max(1, round(size * scale)), mode="bilinear", antialias=True)
    return F.interpolate(small, size=size, mode="bilinear", align_corners=False)[0]


def _jpeg(image: Tensor, quality: int) -> Tensor:
    """Compress ``image`` as JPEG and decode the result."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).contiguous()


def _patches(size: int) -> Tensor:
    """Return smooth random patches (1, size, size) in 0..1, with edges of random softness."""
    coarse = torch.randn(1, 1, CELLS, CELLS)
    field = F.interpolate(coarse, size=size, mode="bicubic", align_corners=True)[0]
    return torch.sigmoid_((field - _uniform(-0.5, 0.8)).mul_(_uniform(2, 20)))


def _chance(share: float) -> bool:
    return share > 0 and _uniform(0, 1) < share


def _factor(most: float) -> float:
    return _uniform(1 - most, 1 + most)


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))
