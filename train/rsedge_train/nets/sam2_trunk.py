"""SAM2's Hiera trunk: its variants, and its official checkpoints (SAM 2 and SAM 2.1).

Only the trunk is used: no neck, prompt encoder, mask decoder or memory. SAM 2 and 2.1 share
the architecture and differ in weights. The ``sam2`` package is imported inside functions, because it is slow
and belongs to the train extra.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any
from zipfile import BadZipFile

import torch
from torch import Tensor, nn

from rsedge.errors import InputError, ModelError

TRUNK_PREFIX = "image_encoder.trunk."
INSTALL = 'pip install "rsedge[train]"'


@dataclass(frozen=True)
class SAM2Variant:
    """One official SAM2 model: the names of its file, its hub repository and its configuration."""

    size: str
    release: str
    suffix: str
    channels: tuple[int, int, int, int]

    def __post_init__(self) -> None:
        if self.release not in {"sam2", "sam2.1"}:
            raise InputError(f"SAM2 release {self.release!r}: unknown. Choose sam2 or sam2.1")

    @property
    def checkpoint(self) -> str:
        """Return the official file name, e.g. ``sam2.1_hiera_large.pt``."""
        return f"{self.release}_hiera_{self.size.replace('-', '_')}.pt"

    @property
    def repository(self) -> str:
        """Return the Hugging Face repository, e.g. ``facebook/sam2.1-hiera-large``."""
        return f"facebook/{self.release}-hiera-{self.size}"

    @property
    def config(self) -> str:
        """Return the configuration's path inside the sam2 package."""
        return f"{self.release}/{self.release}_hiera_{self.suffix}.yaml"


_SIZES: tuple[tuple[str, str, tuple[int, int, int, int]], ...] = (
    ("tiny", "t", (96, 192, 384, 768)),
    ("small", "s", (96, 192, 384, 768)),
    ("base-plus", "b+", (112, 224, 448, 896)),
    ("large", "l", (144, 288, 576, 1152)),
)

#: ``sam2-hiera-tiny`` ... ``sam2.1-hiera-large``
VARIANTS: Mapping[str, SAM2Variant] = MappingProxyType(
    {
        f"{release}-hiera-{size}": SAM2Variant(size, release, suffix, channels)
        for release in ("sam2", "sam2.1")
        for size, suffix, channels in _SIZES
    }
)


def variant(name: str) -> SAM2Variant:
    """Return the variant named ``name``; a leading ``facebook/``, as on the hub, is allowed."""
    key = name.removeprefix("facebook/")
    if key not in VARIANTS:
        raise InputError(f"SAM2 variant {name!r}: unknown. Choose one of {', '.join(VARIANTS)}")
    return VARIANTS[key]


def build_trunk(which: SAM2Variant) -> nn.Module:
    """Build SAM2's Hiera with random weights, with the architecture of its configuration."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # hydra and omegaconf deprecations, which we cannot fix
            from omegaconf import OmegaConf  # noqa: PLC0415
            from sam2.modeling.backbones.hieradet import Hiera  # noqa: PLC0415
    except ImportError as error:
        raise ModelError(f"the teacher needs the sam2 package ({error}). Install it: {INSTALL}") from error
    text = resources.files("sam2").joinpath("configs", *which.config.split("/")).read_text("utf-8")
    settings: Any = OmegaConf.to_container(OmegaConf.create(text))
    trunk = {k: v for k, v in settings["model"]["image_encoder"]["trunk"].items() if k != "_target_"}
    hiera: nn.Module = Hiera(**trunk)
    return hiera


def fetch_checkpoint(which: SAM2Variant) -> Path:
    """Return the official checkpoint from the Hugging Face hub's cache, downloading it if needed."""
    from huggingface_hub import hf_hub_download  # noqa: PLC0415

    try:
        return Path(hf_hub_download(which.repository, which.checkpoint))
    except Exception as error:
        raise ModelError(
            f"cannot fetch {which.checkpoint} from {which.repository} (is this machine offline?): {error}. "
            f"Download {which.checkpoint} elsewhere and give its path"
        ) from error


def _read(path: Path, expected: str) -> Mapping[str, Any]:
    if not path.is_file():
        raise ModelError(
            f"SAM2 checkpoint {path} not found. Give the official file {expected} (hub downloads it, none "
            "starts from random weights)"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, BadZipFile, OSError, ValueError) as error:
        raise ModelError(
            f"{path} is not a complete checkpoint (truncated download?). Give the official file "
            f"{expected} ({type(error).__name__})"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ModelError(f'{path} has no "model" state dict. Give the official file {expected}')
    state: Mapping[str, Any] = content["model"]
    return state


def load_trunk(trunk: nn.Module, path: Path | str, which: SAM2Variant) -> None:
    """Load the trunk's weights from an official checkpoint, ``{"model": state_dict}``.

    Raises ModelError naming the expected file if the file is missing, truncated or of another size.
    """
    path = Path(path)
    state = _read(path, which.checkpoint)
    own = trunk.state_dict()
    found: dict[str, Tensor] = {
        key.removeprefix(TRUNK_PREFIX): value
        for key, value in state.items()
        if key.startswith(TRUNK_PREFIX) and isinstance(value, Tensor)
    }
    if not found:
        raise ModelError(f"{path} has no keys {TRUNK_PREFIX}*. Give the official file {which.checkpoint}")
    wrong = sorted(key for key in own.keys() | found.keys() if _shape(own.get(key)) != _shape(found.get(key)))
    if wrong:
        key = wrong[0]
        raise ModelError(
            f"{path} has another size than {which.repository}: {len(wrong)} of {len(own)} tensors "
            f"differ, first {key}: {_shape(found.get(key))} instead of {_shape(own.get(key))}. "
            f"Give the official file {which.checkpoint}"
        )
    trunk.load_state_dict(found)


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)
