"""Imitation of INT8 in torch: a deployed network that computes what its exported INT8 file computes.

Inputs and weights of the layers that export quantizes are rounded to the same grids, and all else stays floating
point, as between the file's Q/DQ nodes. Gradients pass the rounding unchanged and stop where a value is clipped.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from rsedge.errors import InputError

from .arafnet import BFM
from .complexity import on_meta
from .deploy import is_conv, replace_module
from .grids import Histogram, Scale, asymmetric, symmetric, weight_scales, work_shares
from .network import SegNet
from .upconv import Product, UpConv

LIMITS = ((0, 255), (-128, 127))  # of uint8 for CPUs and int8 for TensorRT
# Modules whose weights either are quantized by a simple rule or stay floating point.
SIMPLE = {"Conv2d", "Conv2dSame", "ConvTranspose2d", "UpConv"}


class OnGrid(nn.Module):
    """A layer whose input and weights are rounded to INT8's grids, with the gradient of no rounding.

    ``signed`` chooses between the input's two grids: uint8 with a zero point, or int8 around 0. While ``seen`` is
    a histogram, inputs are counted in it and nothing is rounded.
    """

    steps: Tensor
    zeros: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.axis = 1 if isinstance(layer, Product) else 0
        weight = layer.get_parameter("weight") if not isinstance(layer, Product) else layer.weight
        steps = torch.from_numpy(weight_scales(weight.detach().cpu().numpy(), self.axis))
        self.register_buffer("steps", steps)
        self.register_buffer("zeros", torch.zeros(len(steps), dtype=torch.int32))
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("zero", torch.zeros(2, dtype=torch.int32))
        self.signed = False
        self.seen: Histogram | None = None

    def set_scales(self, unsigned: Scale, signed: Scale) -> None:
        """Set the grids of the input."""
        self.scale.copy_(torch.tensor([unsigned.scale, signed.scale]))
        self.zero.copy_(torch.tensor([unsigned.zero, signed.zero]))

    def weight(self) -> Tensor:
        """Return the layer's weights on their grid."""
        free: Tensor = self.layer.weight  # type: ignore[assignment]
        return torch.fake_quantize_per_channel_affine(free, self.steps, self.zeros, self.axis, -127, 127)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer on its grids."""
        if self.seen is not None:
            self.seen.add(x.detach().float().cpu().contiguous().numpy())
            plain: Tensor = self.layer(x)
            return plain
        i = int(self.signed)
        rounded = torch.fake_quantize_per_tensor_affine(x, self.scale[i], self.zero[i], *LIMITS[i])
        out: Tensor = functional_call(self.layer, {"weight": self.weight()}, (rounded,))
        return out


def on_grids(net: nn.Module) -> Iterator[OnGrid]:
    """Yield the layers of ``net`` that imitate INT8."""
    return (module for module in net.modules() if isinstance(module, OnGrid))


def int8_layers(net: SegNet, tile: int) -> tuple[str, ...]:
    """Return the names of the layers that export puts into INT8, of a network deployed for ``tile``."""
    costs: dict[str, tuple[int, int]] = {}
    meta = on_meta(net)

    def watch(name: str, module: nn.Module) -> None:
        def count(_: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
            weight: Tensor = module.weight  # type: ignore[assignment]
            shape = weight.shape
            each = shape[0] if isinstance(module, Product) else shape[1:].numel()
            costs[name] = each * out.numel(), out.numel() + inputs[0].numel()

        module.register_forward_hook(count)

    for name, module in meta.named_modules():
        if isinstance(module, Product) or (is_conv(module) and not isinstance(module, nn.ConvTranspose2d)):
            watch(name, module)
    with torch.no_grad():
        meta(torch.empty(1, 3, tile, tile, device="meta"))
    shares = work_shares(list(costs.values()))
    return tuple(name for name, share in zip(costs, shares, strict=True) if share is not None)


def check_simple(net: SegNet, name: str) -> None:
    """Raise InputError if INT8 of the deployed ``net`` is more than a rule for each convolution."""
    for module in net.modules():
        kind = type(module).__name__
        weighted = any(p is not None for p in module._parameters.values())
        if "SqueezeExcite" in kind or kind in {"SEModule", "CBAM"} or (weighted and kind not in SIMPLE):
            raise InputError(
                f"{name} has {kind}, and INT8 of squeeze-excite, attention and norms cannot be imitated. Quantize "
                "a network without them, such as efficientnet_lite0-w64-fine-int8"
            )


def imitate(net: SegNet, layers: Collection[str]) -> SegNet:
    """Change a deployed ``net`` in place, so that ``layers`` imitate INT8 and all weights train; without dropout.

    Raises InputError if a layer is missing, as deployment for crops can differ from deployment for tiles.
    """
    names = {name for name, _ in net.named_modules()}
    if missing := sorted(set(layers) - names):
        raise InputError(
            f"{missing[0]} is computed in another way on crops of this size than on tiles. Train and quantize the "
            "network with crops of 512 pixels"
        )
    for name in layers:
        replace_module(net, name, OnGrid(net.get_submodule(name)))
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.modules.dropout._DropoutNd):
            replace_module(net, name, nn.Identity())
    return net.requires_grad_(True)


@torch.no_grad()
def calibrate(net: SegNet, batches: Iterable[Tensor]) -> None:
    """Set the grids of all inputs in place, from the inputs on ``batches`` (N, 3, H, W), normalised."""
    layers = list(on_grids(net))
    for layer in layers:
        layer.seen = Histogram()
    for images in batches:
        net(images)
    for layer in layers:
        assert layer.seen is not None
        layer.set_scales(asymmetric(layer.seen), symmetric(layer.seen))
        layer.seen = None


def use_signed(net: nn.Module, signed: bool) -> None:
    """Choose the inputs' grids: int8 around 0 as for TensorRT, or uint8 with a zero point as for CPUs."""
    for layer in on_grids(net):
        layer.signed = signed


@torch.no_grad()
def settle(net: nn.Module) -> SegNet:
    """Return a copy of an imitation as an ordinary network (``deploy.folded``), with weights on their grids.

    Export finds the grids again, so only the rounding of activations is left between its fp32 and INT8.
    """
    out = copy.deepcopy(net)
    assert isinstance(out, SegNet)
    for name, module in list(out.named_modules()):
        if isinstance(module, OnGrid):
            if not isinstance(module.layer, Product):
                module.layer.weight = nn.Parameter(module.weight())
            replace_module(out, name, module.layer)
    for module in out.modules():
        if isinstance(module, BFM) and isinstance(module.high_gate_coarse, UpConv):
            module.high_gate = nn.Sequential(module.high_gate_coarse.direct(), nn.Identity())
            module.high_gate_coarse = None
    return out.requires_grad_(False).eval()
