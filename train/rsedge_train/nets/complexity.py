"""Complexity of a network: true parameters, MACs per tile, bytes, and the network's stages.

MAC: one multiply-accumulate; FLOPs are twice as many. Counted by torch's flop counter for one tile on
the meta device: convolutions (a transposed one at its input's size), linear layers and attention's
matrix products; no norms, activations or resampling. For the authors' way of counting, see
``authors``.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rsedge.errors import InputError

from . import registry
from .network import SegNet

TILE = 512
PAPER_CLASSES = 6
_ALIGNMENT = 16
Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class Complexity:
    """True counts of one network. ``size_bytes`` is that of ``torch.save(state_dict)``; MACs are for one tile."""

    name: str
    params: int
    params_trainable: int
    params_inference: int
    macs: int
    tile: int
    size_bytes: int
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    output_stride: int

    def __post_init__(self) -> None:
        if not 0 <= self.params_trainable <= self.params or not 0 < self.params_inference <= self.params:
            raise InputError(f"{self.name}: parameters of the parts exceed the total, {self.params}")
        if self.macs <= 0 or self.size_bytes <= 0 or len(self.strides) != len(self.channels):
            raise InputError(f"{self.name}: MACs, size and pyramid must be positive and complete")


@dataclass(frozen=True)
class Stage:
    """One stage of a network: its output's shape, parameters and MACs for one tile."""

    name: str
    shape: tuple[int, ...]
    params: int
    macs: int


def parameters(net: nn.Module, *, trainable: bool = False) -> int:
    """Return the number of parameters, or of trainable ones."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad or not trainable)


def on_meta(net: Net) -> Net:
    """Return a weightless eval copy on the meta device, for counting without copying or computing."""
    memo: dict[int, object] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in net.parameters()
    }
    memo |= {id(b): torch.empty_like(b, device="meta") for b in net.buffers()}
    return copy.deepcopy(net, memo).eval()


def build_weightless(name: str, num_classes: int) -> SegNet:
    """Return ``registry.build`` on the meta device, if the network can be built on it (SAM2's cannot)."""
    if registry.entry(name).trunk is not None:
        return on_meta(registry.build(name, num_classes))
    with torch.device("meta"):
        return registry.build(name, num_classes)


def _check_tile(tile: int) -> None:
    if tile < 32 or tile % 32:
        raise InputError(f"tile {tile}: not a positive multiple of 32. Choose e.g. 512")


def _count(net: nn.Module, tile: int) -> tuple[int, Mapping[str, int]]:
    _check_tile(tile)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.empty(1, 3, tile, tile, device="meta"))
    by_module = {
        str(name).partition(".")[2]: sum(counts.values()) // 2
        for name, counts in counter.get_flop_counts().items()
    }
    return counter.get_total_flops() // 2, by_module


def macs(net: nn.Module, tile: int = TILE) -> int:
    """Return the MACs of one forward pass of one ``tile`` x ``tile`` image."""
    return _count(on_meta(net), tile)[0]


def state_bytes(net: nn.Module, extra: Mapping[str, Tensor] | None = None) -> int:
    """Return the bytes that ``torch.save(state_dict)`` would write, without writing.

    Every tensor is shrunk to at most 16 elements of the same alignment, so the archive's overhead stays
    the same, and the omitted elements are added.
    """
    state = net.state_dict()
    state.update(extra or {})
    left_out = 0
    for key, value in state.items():
        kept = min(value.numel(), value.numel() % _ALIGNMENT or _ALIGNMENT)
        state[key] = torch.zeros(kept, dtype=value.dtype)
        left_out += (value.numel() - kept) * value.element_size()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.tell() + left_out


def measure(net: SegNet, name: str, tile: int = TILE) -> Complexity:
    """Count any network of this package."""
    meta = on_meta(net)
    with torch.no_grad():
        features = meta.encoder(torch.empty(1, 3, tile, tile, device="meta"))
    aux = getattr(net.decoder, "aux", None)
    total = parameters(net)
    return Complexity(
        name=name,
        params=total,
        params_trainable=parameters(net, trainable=True),
        params_inference=total - (0 if aux is None else parameters(aux)),
        macs=_count(meta, tile)[0],
        tile=tile,
        size_bytes=state_bytes(net),
        strides=tuple(tile // f.shape[3] for f in features),
        channels=tuple(f.shape[1] for f in features),
        output_stride=net.stride,
    )


@lru_cache(maxsize=64)
def complexity(name: str, num_classes: int = PAPER_CLASSES, tile: int = TILE) -> Complexity:
    """Return counts of the registered network ``name``."""
    return measure(build_weightless(name, num_classes), name, tile)


def summary(name: str, num_classes: int = PAPER_CLASSES, tile: int = TILE) -> tuple[Stage, ...]:
    """Return the stages of ``name``: f1..f4, then the decoder's parts in order of execution."""
    meta = build_weightless(name, num_classes).eval()
    parts = {"encoder": meta.encoder, **_parts(meta.decoder)}
    shapes: dict[str, tuple[int, ...]] = {}

    def watch(key: str, module: nn.Module) -> None:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor):
                shapes[key] = tuple(output.shape)
            elif key == "encoder" and isinstance(output, list | tuple):
                shapes.update({f"encoder.f{i}": tuple(f.shape) for i, f in enumerate(output, 1)})

        module.register_forward_hook(hook)

    for key, module in parts.items():
        watch(key, module)
    total, by_module = _count(meta, tile)
    whole = by_module.get("encoder", 0)
    stages = [Stage(key, shapes[key], 0, 0) for key in shapes if key.startswith("encoder.")]
    stages[-1] = Stage(stages[-1].name, stages[-1].shape, parameters(meta.encoder), whole)
    stages += [
        Stage(key, shapes[key], parameters(parts[key]), by_module.get(key, 0))
        for key in shapes
        if not key.startswith("encoder")
    ]
    output = (1, num_classes, tile, tile)
    return (*stages, Stage("logits", output, parameters(meta), total))


def _parts(decoder: nn.Module) -> dict[str, nn.Module]:
    """Return the decoder's children, with lists flattened."""
    parts: dict[str, nn.Module] = {}
    for name, child in decoder.named_children():
        if isinstance(child, nn.ModuleList):
            parts.update({f"decoder.{name}.{i}": part for i, part in enumerate(child)})
        else:
            parts[f"decoder.{name}"] = child
    return parts
