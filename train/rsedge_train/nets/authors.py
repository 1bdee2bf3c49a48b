"""ARAFNet Table 4 under its authors' way of counting, computed from the networks.

They ran ``thop`` at batch 8, so their "FLOPs (G)" are MACs of eight tiles, under thop's rules:

* a convolution counts its output's elements, even a transposed one (whose true cost is its input's);
* BatchNorm and LayerNorm count 4 operations an element, average pooling one an element and one
  more a channel, the head's bilinear upsampling 11 an element; attention's products count nothing;
* parameters count only in layers thop knows: timm's fused BN + activation and bare parameters
  (position codes) are missing.

Every checkpoint of the authors also carries an unused 1x1 from C4 to 128 (part of the ablation
without ResASPP), visible only in the checkpoint's size. Found by fitting all ten rows at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from rsedge.errors import InputError

from .layers import CBAM

BATCH = 8
TILE = 512
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Printed:
    """One row of Table 4: parameters in M, "FLOPs" in G, size in MiB, FPS (TITAN RTX), mIoU in %."""

    params_m: float
    flops_g: float
    size_mb: float
    fps: float
    miou: float

    def __post_init__(self) -> None:
        if min(self.params_m, self.flops_g, self.size_mb, self.fps, self.miou) <= 0:
            raise InputError("figures of a printed row must be positive. Correct the row")


#: Registered name -> what ARAFNet Table 4 prints.
TABLE_4: Mapping[str, Printed] = MappingProxyType(
    {
        "arafnet-t": Printed(222.98, 1712.47, 852.16, 20.01, 85.43),
        "efficientnet_b0": Printed(6.68, 56.36, 26.13, 305.85, 84.59),
        "efficientnet_b1": Printed(9.16, 64.03, 35.81, 235.69, 84.83),
        "mobilenetv3_large_100": Printed(9.94, 57.80, 38.75, 357.14, 83.99),
        "mobilenetv3_small_100": Printed(5.47, 43.23, 21.40, 586.04, 82.64),
        "resnet18": Printed(15.76, 129.95, 60.52, 352.87, 84.82),
        "resnet50": Printed(39.18, 295.68, 150.83, 128.05, 84.38),
        "segformer_b0": Printed(6.15, 60.90, 23.73, 206.30, 84.52),
        "segformer_b1": Printed(17.81, 123.37, 68.33, 130.32, 84.79),
        "ghostnetv3_100": Printed(4.02, 50.71, 16.41, 188.25, 83.91),
    }
)


@dataclass(frozen=True)
class AuthorsCount:
    """The authors' columns, computed: parameters, operations of eight tiles."""

    params: int
    operations: int

    @property
    def params_m(self) -> float:
        """Return the parameters as printed, in M."""
        return self.params / 1e6

    @property
    def flops_g(self) -> float:
        """Return the operations as printed, in G."""
        return self.operations / 1e9


def _operations(module: nn.Module, x: Tensor, y: Tensor) -> int | None:
    """Return thop's count for one layer, None for a layer unknown to thop (which compares exact types)."""
    kind = type(module)
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and kind in {nn.Conv2d, nn.ConvTranspose2d}:
        kernel = module.kernel_size[0] * module.kernel_size[1]
        return y.numel() * kernel * module.in_channels // module.groups
    if isinstance(module, nn.Linear) and kind is nn.Linear:
        return y.numel() * module.in_features
    if kind in {nn.BatchNorm2d, nn.LayerNorm}:
        return 4 * x.numel()
    return None


def authors_count(meta: nn.Module) -> AuthorsCount:
    """Count an eval network on the meta device with the method of Table 4."""
    known: set[nn.Module] = set()
    operations = 0

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal operations
        if isinstance(module, CBAM):
            operations += inputs[0].numel() + inputs[0].shape[1]
        elif (count := _operations(module, inputs[0], output)) is not None:
            operations += count
            known.add(module)

    handles = [
        module.register_forward_hook(hook)
        for module in meta.modules()
        if isinstance(module, CBAM) or not any(True for _ in module.children())
    ]
    try:
        with torch.no_grad():
            output = meta(torch.empty(1, 3, TILE, TILE, device="meta"))
    finally:
        for handle in handles:
            handle.remove()
    operations += 11 * output.numel()
    params = sum(p.numel() for module in known for p in module.parameters())
    return AuthorsCount(params, BATCH * operations)


def unused_projection(channels: int) -> dict[str, Tensor]:
    """Return the unused 1x1 of the authors' checkpoints, on the meta device: C4 channels to 128."""
    return {"decoder.unused.weight": torch.empty(128, channels, 1, 1, device="meta")}
