"""Networks by name: the papers' teachers and students, and the edge family.

A student's name is ``<backbone>[-w<width>][-sep][-fine][-int8]``: any backbone ``build_encoder`` knows,
the decoder's width (128), depthwise-separable decoder convolutions, a head at stride 4, and the INT8-friendly decoder
(ReLU6, hard-sigmoid gates, no attention masks; the backbone must have no squeeze-excite).
``efficientnet_b0`` is the paper's KD-ARAFNet, ``maflnet-s`` and ``maflnet-t`` are MAFLNet's pair,
``arafnet-t`` is SAM2-ARAFNet; ``arafnet-t-tiny`` and similar names use smaller trunks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from torch import nn

from rsedge.errors import InputError

from .arafnet import ARAFNet
from .configs import ARAFNetConfig, MAFLNetConfig, arafnet_ablation, maflnet_ablation
from .encoders import PAPER_BACKBONES, build_encoder
from .maflnet import MAFLNet
from .network import SegNet
from .teacher import build_sam2_encoder

ROLES = ("teacher", "student", "edge")
EDGE_STUDENTS = (
    "efficientnet_b0-w64",
    "efficientnet_b0-w32",
    "efficientnet_b0-w64-sep",
    "mobilenetv3_small_100-w64",
    "mobilenetv3_small_100-w32-sep",
    "efficientnet_lite0-w64-int8",
    "efficientnet_lite0-w64-fine-int8",
    "mobilenetv2_100-w64-sep-int8",
)
_NAME = re.compile(r"(?P<backbone>[^-]+?)(-w(?P<width>\d+))?(?P<sep>-sep)?(?P<fine>-fine)?(?P<int8>-int8)?")


@dataclass(frozen=True)
class Entry:
    """Definition of a named network. ``trunk`` is SAM2's variant for teachers, else None."""

    name: str
    role: str
    backbone: str
    config: ARAFNetConfig | MAFLNetConfig
    trunk: str | None = None

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InputError(f"role {self.role!r}: unknown. Choose one of {', '.join(ROLES)}")
        if (self.trunk is not None) != (self.role == "teacher"):
            raise InputError(f"{self.name}: a teacher must have a SAM2 trunk, and a student must not")

    @property
    def network(self) -> str:
        """Return the decoder's name: ``ARAFNet`` or ``MAFLNet``."""
        return "ARAFNet" if isinstance(self.config, ARAFNetConfig) else "MAFLNet"


def _student(name: str) -> Entry:
    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(
            f"model {name!r}: unknown. Choose one of {', '.join(names())}, or "
            "<backbone>[-w<width>][-sep][-fine][-int8] with any timm backbone"
        )
    config = ARAFNetConfig(
        width=int(match["width"] or 128), separable=match["sep"] is not None, fine=match["fine"] is not None
    )
    if match["int8"]:
        config = replace(arafnet_ablation("no-attention", config), low_attention=False)
        config = replace(config, activation="relu6", gate="hard_sigmoid")
    role = "student" if config == ARAFNetConfig() else "edge"
    return Entry(name, role, match["backbone"], config)


def _teachers() -> list[Entry]:
    entries = []
    for size in ("large", "base-plus", "small", "tiny"):
        suffix = "" if size == "large" else f"-{size}"
        trunk = f"sam2.1-hiera-{size}"
        entries.append(Entry(f"arafnet-t{suffix}", "teacher", trunk, ARAFNetConfig(aux=True), trunk))
        entries.append(Entry(f"maflnet-t{suffix}", "teacher", trunk, MAFLNetConfig(aux=True), trunk))
    return sorted(entries, key=lambda e: e.network)


_ENTRIES: Mapping[str, Entry] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            *_teachers(),
            *(_student(name) for name in PAPER_BACKBONES),
            Entry("maflnet-s", "student", "segformer_b0", MAFLNetConfig()),
            *(_student(name) for name in EDGE_STUDENTS),
        )
    }
)


def names(role: str | None = None) -> tuple[str, ...]:
    """Return registered names, or those of one role: ``teacher``, ``student`` or ``edge``."""
    if role is not None and role not in ROLES:
        raise InputError(f"role {role!r}: unknown. Choose one of {', '.join(ROLES)}")
    return tuple(name for name, entry in _ENTRIES.items() if role in {None, entry.role})


def entry(name: str) -> Entry:
    """Return the definition of ``name``, also for unregistered students by this module's grammar."""
    return _ENTRIES[name] if name in _ENTRIES else _student(name)


def build(
    name: str,
    num_classes: int,
    *,
    pretrained: bool | str | Path = False,
    ablation: str = "full",
    checkpoint: str | Path | None = None,
) -> SegNet:
    """Return the network named ``name``: ``(N, 3, H, W)`` normalised -> logits ``(N, K, H, W)``.

    ``pretrained`` is for students' encoders (``build_encoder``), ``checkpoint`` for teachers' trunks
    (``build_sam2_encoder``); ``ablation`` is a row of ARAFNet Table 6 or MAFLNet Table 3.
    """
    spec = entry(name)
    if spec.trunk is not None:
        if pretrained is not False:
            raise InputError(f"{name} is a teacher. Give its SAM2 weights as checkpoint, not pretrained")
        encoder = build_sam2_encoder(spec.trunk, checkpoint=checkpoint)
        return _assemble(spec, encoder, encoder.channels, num_classes, ablation)
    if checkpoint is not None:
        raise InputError(f"{name} is a student without a SAM2 trunk. Leave out checkpoint")
    student, channels = build_encoder(spec.backbone, pretrained=pretrained)
    if name.endswith("-int8"):
        _refuse_squeeze_excite(spec.backbone, student)
    return _assemble(spec, student, channels, num_classes, ablation)


def _assemble(
    spec: Entry, encoder: nn.Module, channels: tuple[int, ...], num_classes: int, ablation: str
) -> SegNet:
    if isinstance(spec.config, MAFLNetConfig):
        config = maflnet_ablation(ablation, spec.config)
        return MAFLNet(encoder, channels, num_classes, config)
    return ARAFNet(encoder, channels, num_classes, arafnet_ablation(ablation, spec.config))


def _refuse_squeeze_excite(backbone: str, encoder: nn.Module) -> None:
    kinds = {type(module).__name__ for module in encoder.modules()}
    if any("SqueezeExcite" in kind or kind == "SEModule" for kind in kinds):
        raise InputError(
            f"{backbone} has squeeze-excite, which quantises badly. For -int8 choose a backbone without it, "
            "such as efficientnet_lite0 or mobilenetv2_100"
        )


def build_student(
    backbone: str,
    num_classes: int,
    *,
    pretrained: bool | str | Path = False,
    config: ARAFNetConfig | None = None,
) -> ARAFNet:
    """Return KD-ARAFNet on ``backbone``: ``(N, 3, H, W)`` normalised -> logits ``(N, K, H, W)``."""
    encoder, channels = build_encoder(backbone, pretrained=pretrained)
    return ARAFNet(encoder, channels, num_classes, config)
