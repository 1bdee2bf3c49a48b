"""Variants of the networks, as frozen configurations that check themselves.

``ARAFNET_ABLATIONS`` has one entry per row of ARAFNet Table 6, ``MAFLNET_ABLATIONS`` one per row of
MAFLNet Table 3. An ablation changes fields only and never needs another class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from rsedge.errors import InputError

from .layers import ACTIVATIONS, GATES

FUSIONS = ("bfm", "add", "concat", "none")


@dataclass(frozen=True)
class ARAFNetConfig:
    """Configuration of ARAFNet's decoder; the defaults are the paper's.

    ``fusion="none"`` feeds the head from the high path alone, and therefore requires ``low_path=False``.
    With ``low_path=False`` and ``fusion="bfm"`` the BFM gates the high stream by itself: Table 6 has
    such a row ("w/o LowPath (BFM retained)"), in which no low-level features remain.
    Without ResASPP, a 1x1 brings f4 to the decoder's width.
    """

    width: int = 128
    separable: bool = False
    activation: str = "relu"
    low_path: bool = True
    low_attention: bool = True
    res_aspp: bool = True
    trunk_attention: bool = True
    branch_attention: bool = True
    fusion: str = "bfm"
    gate: str = "sigmoid"
    dropout: float = 0.1
    aux: bool = False
    fine: bool = False  # ours: the head works at stride 4 and also reads f1

    def __post_init__(self) -> None:
        if self.width < 8 or self.width % 8:
            raise InputError(f"decoder width {self.width}: not a positive multiple of 8. Choose e.g. 128")
        if self.activation not in ACTIVATIONS:
            raise InputError(
                f"activation {self.activation!r}: unknown. Choose one of {', '.join(ACTIVATIONS)}"
            )
        if self.gate not in GATES:
            raise InputError(f"gate {self.gate!r}: unknown. Choose one of {', '.join(GATES)}")
        if self.fusion not in FUSIONS:
            raise InputError(f"fusion {self.fusion!r}: unknown. Choose one of {', '.join(FUSIONS)}")
        if self.low_path and self.fusion == "none":
            raise InputError('fusion "none" leaves the low path unused. Set low_path=False')
        if not self.low_path and self.fusion in {"add", "concat"}:
            raise InputError(f"fusion {self.fusion!r} needs the low path. Without it use 'bfm' or 'none'")
        if self.fine and self.aux:
            raise InputError("a head at stride 4 cannot have an auxiliary head. Choose either fine or aux")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"dropout {self.dropout}: not in 0 <= dropout < 1")


_PLAIN: Mapping[str, object] = {
    "res_aspp": False,
    "trunk_attention": False,
    "branch_attention": False,
    "low_attention": False,
}

ARAFNET_ABLATIONS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "full": {},
        "no-resaspp": {"res_aspp": False},
        "no-attention": {"trunk_attention": False, "branch_attention": False},
        "no-branch-attention": {"branch_attention": False},
        "no-trunk-attention": {"trunk_attention": False},
        "no-lowpath": {"low_path": False},
        "no-lowpath-no-bfm": {"low_path": False, "fusion": "none"},
        "bfm-add": {"fusion": "add"},
        "bfm-concat": {"fusion": "concat"},
        "plain-add": {**_PLAIN, "fusion": "add"},
        "plain-concat": {**_PLAIN, "fusion": "concat"},
    }
)


def arafnet_ablation(name: str, base: ARAFNetConfig | None = None) -> ARAFNetConfig:
    """Return the configuration of one row of ARAFNet Table 6 (``ARAFNET_ABLATIONS``), based on ``base``."""
    if name not in ARAFNET_ABLATIONS:
        raise InputError(f"ablation {name!r}: unknown. Choose one of {', '.join(ARAFNET_ABLATIONS)}")
    return replace(base or ARAFNetConfig(), **ARAFNET_ABLATIONS[name])  # type: ignore[arg-type]


@dataclass(frozen=True)
class MAFLNetConfig:
    """Configuration of MAFLNet's decoder; the defaults are this project's reading of the paper."""

    widths: tuple[int, int, int, int] = (64, 128, 320, 512)
    heads: int = 8
    maca: bool = True
    lhfem: bool = True
    aux: bool = False

    def __post_init__(self) -> None:
        if len(self.widths) != 4 or any(width < self.heads for width in self.widths):
            raise InputError(f"widths {self.widths}: give four, each at least heads={self.heads}")
        if self.heads < 1 or any(width % self.heads for width in self.widths):
            raise InputError(f"widths {self.widths}: each must be a multiple of heads={self.heads}")


MAFLNET_ABLATIONS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "baseline": {"maca": False, "lhfem": False},
        "maca": {"lhfem": False},
        "lhfem": {"maca": False},
        "full": {},
    }
)


def maflnet_ablation(name: str, base: MAFLNetConfig | None = None) -> MAFLNetConfig:
    """Return the configuration of one row of MAFLNet Table 3 (``MAFLNET_ABLATIONS``), based on ``base``."""
    if name not in MAFLNET_ABLATIONS:
        raise InputError(f"ablation {name!r}: unknown. Choose one of {', '.join(MAFLNET_ABLATIONS)}")
    return replace(base or MAFLNetConfig(), **MAFLNET_ABLATIONS[name])  # type: ignore[arg-type]
