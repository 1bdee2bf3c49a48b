"""Encoders: modules that turn ``(N, 3, H, W)`` into f1..f4 at strides 4, 8, 16, 32."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import nn

from rsedge.errors import InputError, ModelError

from .encoder_weights import fit_state, read_state
from .mit import MIT, MiT

STRIDES = (4, 8, 16, 32)

#: Backbones of ARAFNet Table 4, in its order.
PAPER_BACKBONES = (
    "efficientnet_b0",
    "efficientnet_b1",
    "mobilenetv3_large_100",
    "mobilenetv3_small_100",
    "resnet18",
    "resnet50",
    "segformer_b0",
    "segformer_b1",
    "ghostnetv3_100",
)
#: Table 4's names of the Mix Transformers.
MIT_ALIASES = {"segformer_b0": "mit_b0", "segformer_b1": "mit_b1"}
_MIT_HUB = {"mit_b0": "nvidia/mit-b0", "mit_b1": "nvidia/mit-b1"}

#: Published key (``transformers``' names, as stored on the hub) -> key of ``MiT``, in this order.
_MIT_KEYS = (
    (r"^segformer\.", ""),
    (r"^encoder\.patch_embeddings\.(\d)\.layer_norm\.", r"stages.\1.embed.norm."),
    (r"^encoder\.patch_embeddings\.(\d)\.", r"stages.\1.embed."),
    (r"^encoder\.layer_norm\.(\d)\.", r"stages.\1.norm."),
    (r"^encoder\.block\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.attention\.self\.query\.", ".attention.q."),
    (r"\.attention\.self\.key\.", ".attention.k."),
    (r"\.attention\.self\.value\.", ".attention.v."),
    (r"\.attention\.self\.sr\.", ".attention.reduce."),
    (r"\.attention\.self\.layer_norm\.", ".attention.norm."),
    (r"\.attention\.output\.dense\.", ".attention.proj."),
    (r"\.layer_norm_(\d)\.", r".norm\1."),
    (r"\.mlp\.dense(\d)\.", r".ffn.fc\1."),
    (r"\.mlp\.dwconv\.dwconv\.", ".ffn.depthwise."),
)


def build_encoder(
    backbone: str, *, pretrained: bool | str | Path = False
) -> tuple[nn.Module, tuple[int, ...]]:
    """Return the encoder named ``backbone`` and its channels (C1, C2, C3, C4).

    ``segformer_b0`` and ``segformer_b1`` (or ``mit_b0``, ``mit_b1``), or any timm backbone whose
    ``features_only`` model has strides 4..32, by its timm name. ``pretrained``: True reads the
    weights from the Hugging Face hub or its cache, a path reads them from that file.
    """
    name = MIT_ALIASES.get(backbone, backbone)
    if name in MIT:
        mit = MiT(MIT[name])
        if pretrained is not False:
            path = _fetch_mit(name) if pretrained is True else Path(pretrained)
            load_mit(mit, path)
        return mit, MIT[name].widths
    encoder: Any = _timm_encoder(name, pretrained)
    reductions = tuple(encoder.feature_info.reduction())
    if reductions != STRIDES:
        raise InputError(
            f"backbone {backbone!r} has features at strides {reductions} instead of {STRIDES}; {_allowed()}"
        )
    return encoder, tuple(encoder.feature_info.channels())


def _allowed() -> str:
    return f"use {', '.join(PAPER_BACKBONES)}, or any timm backbone with features at strides 4, 8, 16, 32"


def _timm_encoder(name: str, pretrained: bool | str | Path) -> Any:
    """Return a timm encoder; four-stage backbones have levels (0, 1, 2, 3), as timm counts stem and stages alike."""
    import timm  # noqa: PLC0415 - slow to import, and an extra

    if not timm.is_model(name):
        raise InputError(f"backbone {name!r}: unknown; {_allowed()}")
    try:
        probe: Any = timm.create_model(name, features_only=True, pretrained=False)
        levels = probe.feature_info.reduction()
    except (AssertionError, RuntimeError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"backbone {name!r} has no feature maps ({error}); {_allowed()}") from error
    indices = tuple(i for i, stride in enumerate(levels) if stride in STRIDES)
    if len(indices) != len(STRIDES):
        raise InputError(f"backbone {name!r} has features at strides {tuple(levels)}; {_allowed()}")
    options: dict[str, Any] = {"features_only": True, "out_indices": indices}
    if isinstance(pretrained, str | Path):
        if not Path(pretrained).is_file():
            raise ModelError(f"{pretrained} not found. Give a timm checkpoint of {name!r}")
        state, used = fit_state(Path(pretrained), name), probe.state_dict()
        # timm warns of unused tensors; encoders whose tensors timm renames get all of them.
        kept = {key: value for key, value in state.items() if key in used}
        options["pretrained_cfg_overlay"] = {"state_dict": kept if "conv_stem.weight" in used else state}
    try:
        return timm.create_model(name, pretrained=pretrained is not False, **options)
    except Exception as error:
        if pretrained is False:
            raise
        raise ModelError(
            f"cannot fetch weights for {name!r} (is this machine offline?): {error}. Use pretrained=False, give the "
            "path of a checkpoint, or fetch the weights once on a machine that reaches the Hugging Face hub "
            "(they are cached under HF_HOME)"
        ) from error


def _fetch_mit(name: str) -> Path:
    from huggingface_hub import hf_hub_download  # noqa: PLC0415

    try:
        return Path(hf_hub_download(_MIT_HUB[name], "pytorch_model.bin"))
    except Exception as error:
        raise ModelError(
            f"cannot fetch pytorch_model.bin from {_MIT_HUB[name]} (is this machine offline?): {error}. Use "
            "pretrained=False, or give the path of that file"
        ) from error


def load_mit(mit: MiT, path: Path) -> None:
    """Load published MiT weights (``nvidia/mit-b0``: ``.bin`` or ``.safetensors``) into ``mit``.

    The weights carry NVIDIA's own licence; check that licence before training with them. Only the code
    in this module is ours.
    """
    if not path.is_file():
        raise ModelError(f"{path} not found. Give pytorch_model.bin or model.safetensors of a MiT")
    state = read_state(path)
    found = {}
    for key, value in state.items():
        if key.startswith(("classifier.", "decode_head.")):
            continue
        new = key
        for pattern, replacement in _MIT_KEYS:
            new = re.sub(pattern, replacement, new)
        found[new] = value
    try:
        mit.load_state_dict(found)
    except RuntimeError as error:
        raise ModelError(
            f"{path} does not match this MiT (b0 for b1, or a truncated file?): {error}"
        ) from error
