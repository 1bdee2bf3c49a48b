"""Exact rewrites for deployment: the same function with fewer operations.

* re-parameterisable blocks (GhostNetV3's training branches) become one equivalent convolution;
* BN after a convolution is folded into the convolution;
* a 3x3 whose dilation is at least the feature map's size uses its centre tap alone (the others
  read padding) and becomes 1x1: at a 512 tile, ResASPP's branches 18 and 24 on the 16 x 16 f4;
* a 3x3 on a bilinearly upsampled map is computed on the coarse map (``upconv``).

The last two are valid for one tile size; ``tile=None`` skips them. A network trained at 512 has
random numbers in the taps that no crop reached, so at a larger tile it must not run unfolded.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rsedge.errors import InputError, ModelError

from .arafnet import BFM
from .complexity import macs, on_meta, parameters
from .maflnet import UpStep
from .network import MULTIPLE, SegNet
from .upconv import SplitUpStep, UpConv, pays

Net = TypeVar("Net", bound=nn.Module)
TOLERANCE = 1e-4


@dataclass(frozen=True)
class RewriteReport:
    """Savings of the rewrites of one network, for one tile."""

    tile: int
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int

    def __post_init__(self) -> None:
        if self.macs_after > self.macs_before or self.params_after <= 0:
            raise ModelError(
                f"rewrites increased the network's cost: {self.macs_before} to {self.macs_after} MACs"
            )


class _Uses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count of the operations that read each tensor; outputs are kept alive so that ids stay unique."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: dict[int, int] = {}
        self.alive: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        for leaf in tree_leaves((args, kwargs or {})):
            if isinstance(leaf, Tensor):
                self.counts[id(leaf)] = self.counts.get(id(leaf), 0) + 1
        out = func(*args, **(kwargs or {}))
        self.alive.extend(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        return out


@dataclass
class _Trace:
    """One forward pass on the meta device: which BN reads which convolution, and their input sizes."""

    pairs: list[tuple[str, str]]
    sizes: dict[str, tuple[int, int]]


def is_conv(module: nn.Module) -> bool:
    """Return True for plain convolutions, including timm's "same"-padded one but not weight-standardised ones."""
    return type(module).__name__ in {"Conv2d", "Conv2dSame"} or (
        isinstance(module, nn.ConvTranspose2d) and module.groups == 1
    )


def _trace(net: nn.Module, tile: int) -> _Trace:
    meta = on_meta(net)
    outputs: dict[int, str] = {}
    calls: dict[str, int] = {}
    reads: list[tuple[str, int]] = []
    sizes: dict[str, tuple[int, int]] = {}

    def watch(name: str, module: nn.Module) -> None:
        def conv(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            outputs[id(output)] = name
            calls[name] = calls.get(name, 0) + 1
            sizes[name] = (inputs[0].shape[2], inputs[0].shape[3])

        def norm(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            calls[name] = calls.get(name, 0) + 1
            reads.append((name, id(inputs[0])))

        if is_conv(module):
            module.register_forward_hook(conv)
        elif isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(norm)

    for name, module in meta.named_modules():
        watch(name, module)
    with torch.no_grad(), _Uses() as uses:
        meta(torch.empty(1, 3, tile, tile, device="meta", dtype=next(meta.parameters()).dtype))
    pairs = [
        (outputs[key], name)
        for name, key in reads
        if key in outputs and uses.counts.get(key) == 1 and calls[name] == calls[outputs[key]] == 1
    ]
    return _Trace(pairs, sizes)


def replace_module(net: nn.Module, name: str, module: nn.Module) -> None:
    """Put ``module`` into ``net`` in the place of the one called ``name``."""
    parent, _, child = name.rpartition(".")
    setattr(net.get_submodule(parent), child, module)


def _fold(conv: nn.Conv2d | nn.ConvTranspose2d, norm: nn.BatchNorm2d) -> None:
    """Fold in double precision: w' = w g / s, b' = (b - mean) g / s + beta, s = sqrt(var + eps)."""
    if norm.running_mean is None or norm.running_var is None:
        raise ModelError("a BN without running statistics cannot be folded")
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = norm.bias.double() - norm.running_mean.double() * scale
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    shape = (1, -1, 1, 1) if isinstance(conv, nn.ConvTranspose2d) else (-1, 1, 1, 1)
    conv.weight = nn.Parameter((conv.weight.double() * scale.reshape(shape)).to(conv.weight.dtype))
    conv.bias = nn.Parameter(shift.to(conv.weight.dtype))


def fold_batch_norms(net: Net, tile: int = 64) -> Net:
    """Fold, in place, every BN that is the only reader of a convolution's output; eval mode."""
    for conv_name, norm_name in _trace(net, tile).pairs:
        conv, norm = net.get_submodule(conv_name), net.get_submodule(norm_name)
        if not isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) or not isinstance(norm, nn.BatchNorm2d):
            continue
        if norm.running_mean is None:
            continue
        with torch.no_grad():
            _fold(conv, norm)
        # timm's BatchNormAct2d carries an activation, which must be kept.
        act = getattr(norm, "act", None)
        replace_module(net, norm_name, act if isinstance(act, nn.Module) else nn.Identity())
    return net


def fold_dilations(net: Net, tile: int) -> Net:
    """Replace by 1x1, in place, every "same" 3x3 whose dilation reaches past its whole input at ``tile``."""
    for name, (height, width) in _trace(net, tile).sizes.items():
        conv = net.get_submodule(name)
        if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (3, 3) or conv.stride != (1, 1):
            continue
        dilation = conv.dilation
        if conv.padding == dilation and dilation[0] >= height and dilation[1] >= width:
            point = nn.Conv2d(
                conv.in_channels, conv.out_channels, 1, groups=conv.groups, bias=conv.bias is not None
            )
            point.weight = nn.Parameter(conv.weight.detach()[:, :, 1:2, 1:2].clone())
            point.bias = conv.bias
            replace_module(net, name, point)
    return net


def rewrite_upconvs(net: Net, tile: int) -> Net:
    """Compute 3x3 convolutions of upsampled maps on the coarse map, in place, if that is cheaper."""
    for name, module in list(net.named_modules()):
        if isinstance(module, BFM):
            conv, *rest = module.high_gate
            size = tile // MULTIPLE
            width = module.width
            if all(isinstance(m, nn.Identity) for m in rest) and pays(conv, width, size, 4):
                module.high_gate_coarse = UpConv.of(conv, size, 4)
                module.high_gate = nn.Sequential()
        elif isinstance(module, UpStep):
            conv = module.merge[0]
            # The three steps start from strides 32, 16 and 8, in the order of the last part of their names.
            size = (tile // MULTIPLE) << int(name.rpartition(".")[2])
            if pays(conv, module.coarse, size, 2) and isinstance(module.merge[1], nn.Identity):
                replace_module(net, name, SplitUpStep(module, size))
    return net


def reparameterize(net: Net) -> Net:
    """Merge, in place, the training-only branches of timm's re-parameterisable blocks."""
    from timm.utils.model import reparameterize_model  # noqa: PLC0415

    for name, child in net.named_children():
        if name == "encoder":
            setattr(net, name, reparameterize_model(child, inplace=True))
    return net


def folded(net: SegNet, crop: int | None = None) -> SegNet:
    """Return an eval copy without auxiliary head, with all foldings but no upsampled 3x3 rewritten.

    Runs fine-tuned for INT8 store their weights in this form. ``crop``: fold the dilated taps that none of
    this size reached.
    """
    out = copy.deepcopy(net).eval()
    decoder: Any = out.decoder
    decoder.aux = None
    with torch.no_grad():
        reparameterize(out)
        fold_batch_norms(out)
        return out if crop is None else fold_dilations(out, crop)


def deploy(net: SegNet, tile: int | None = 512) -> SegNet:
    """Return an eval copy of ``net`` after all rewrites, compared with ``net`` on random input in float64.

    In float32, a network trained for only a few steps can amplify rounding errors beyond any tolerance.

    ``tile``: the square tile the result is for; None keeps the size free and skips the
    tile-dependent rewrites. Raises ModelError if a rewrite changed the function.
    """
    if tile is not None and (tile < MULTIPLE or tile % MULTIPLE):
        raise InputError(f"tile {tile}: neither a positive multiple of {MULTIPLE} nor None")
    dtype = next(net.parameters()).dtype
    net = copy.deepcopy(net).eval().double()
    out = folded(net, tile)
    if tile is not None:
        with torch.no_grad():
            rewrite_upconvs(out, tile)
    out.requires_grad_(False).eval()
    _check_equal(net, out, tile or 4 * MULTIPLE)
    return out.to(dtype)


def _check_equal(before: SegNet, after: SegNet, tile: int) -> None:
    parameter = next(before.parameters())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, tile, tile, generator=generator).to(parameter)
    with torch.no_grad():
        expected, found = before(x), after(x)
    span = float(expected.max() - expected.min())
    error = float((expected - found).abs().max())
    if not error <= TOLERANCE * max(span, 1e-6):
        raise ModelError(
            f"a rewrite changed the network: logits differ by {error:.3g} in a range of {span:.3g}. "
            "Deploy without rewrites and report this backbone"
        )


def rewrite_report(net: SegNet, tile: int = 512) -> RewriteReport:
    """Return MACs and parameters before and after ``deploy(net, tile)``."""
    after = deploy(net, tile)
    return RewriteReport(tile, macs(net, tile), macs(after, tile), parameters(net), parameters(after))
