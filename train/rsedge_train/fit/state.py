"""State from which a run resumes, in one safetensors file written atomically.

Tensors: ``model/``, ``average/``, ``optimizer/<parameter>/<key>``. The header holds, as JSON, the step, the
best score, the gradient scaler and ``facts``: what must not differ when the run resumes. Random numbers
need no state of their own: data, augmentation and dropout of step n are seeded by the seed and n.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rsedge.documents import parse_json
from rsedge.errors import InputError, ModelError, OutputError
from rsedge.files import whole_or_nothing
from rsedge_train.fit.average import WeightAverage

log = logging.getLogger(__name__)

STATE_NAME = "state.safetensors"
LAST_NAME, BEST_NAME = "weights.safetensors", "best.safetensors"  # written by a finished run
HEADER_KEY = "rsedge_state"
MAY_DIFFER = frozenset(
    {"lr", "lr_encoder", "arithmetic", "compile"}
)  # after a divergence, or on another machine
SCHEMA = 1


@dataclass(frozen=True)
class Position:
    """Progress of a run."""

    step: int = 0  # steps done
    best_miou: float | None = None
    best_step: int | None = None
    seconds: float = 0.0  # trained so far, over all sessions


def save_weights(path: Path, model: nn.Module) -> None:
    """Write a state dict as safetensors, atomically. Raises OutputError if the file cannot be written."""
    _save(path, dict(model.state_dict()), {})


def save_state(
    path: Path,
    model: nn.Module,
    average: WeightAverage,
    optimizer: torch.optim.Optimizer,
    scaler: Mapping[str, Any],
    position: Position,
    facts: Mapping[str, Any],
) -> None:
    """Write the state of a run. Raises OutputError if it cannot be written; the last state is then kept."""
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average/{k}": v for k, v in average.state().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{name}/{key}"] = torch.as_tensor(value)
    header = {"schema": SCHEMA, "position": vars(position), "scaler": dict(scaler), "facts": dict(facts)}
    _save(path, tensors, {HEADER_KEY: json.dumps(header)})


def load_state(
    path: Path,
    model: nn.Module,
    average: WeightAverage,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    facts: Mapping[str, Any],
) -> Position:
    """Restore a saved state, changing all arguments in place.

    Raises InputError if the state is not found or belongs to a run with other ``facts``, ModelError if the
    file is damaged.
    """
    header, tensors = read_state(path)
    compare_facts(header["facts"], facts, path)
    model.load_state_dict(_part(tensors, "model/"))
    position = Position(**header["position"])
    average.load(_part(tensors, "average/"), position.step)
    _load_optimizer(optimizer, model, _part(tensors, "optimizer/"))
    if header["scaler"]:
        scaler.load_state_dict(header["scaler"])
    return position


def check_resumable(path: Path, facts: Mapping[str, Any] | None = None) -> Position:
    """Return the position of a saved run. Raises InputError if ``facts`` are given and differ."""
    header = read_state(path, tensors=False)[0]
    if facts is not None:
        compare_facts(header["facts"], facts, path)
    return Position(**header["position"])


def read_state(path: Path, *, tensors: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read header and tensors of a state file. Raises InputError if not found, ModelError if damaged."""
    if not path.is_file():
        raise InputError(f"{path} not found: nothing to resume. Leave out --resume to start")
    try:
        # "pt" opens the path a second time to map it: while a training renames a new state into
        # place, header and tensors could come from two files. The header alone needs a single opening.
        with safe_open(path, "pt" if tensors else "np") as file:
            header = parse_json(file.metadata()[HEADER_KEY])
            _check_header(header)
            names = file.keys() if tensors else ()
            return header, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path} is not a complete state of a run: {error}. Start over without --resume"
        ) from error


def _check_header(header: Any) -> None:
    """Raise TypeError or KeyError if ``header`` is not that of a state file."""
    if not isinstance(header, dict) or not all(
        isinstance(header[k], dict) for k in ("facts", "position", "scaler")
    ):
        raise TypeError("the header is not that of a run")
    place = vars(Position(**header["position"]))
    wrong = [k for k, v in place.items() if isinstance(v, bool) or not isinstance(v, float | int | None)]
    if wrong or not isinstance(place["step"], int):
        raise TypeError(f"invalid position {place}")


def compare_facts(saved: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    """Raise InputError naming the differences between a saved run and the one that would resume it.

    Differences in ``MAY_DIFFER`` only cause a warning: the weights will differ from an uninterrupted run's.
    """
    was, now = _flat(saved), _flat(json.loads(json.dumps(wanted)))
    differ = sorted(k for k in was.keys() | now.keys() if was.get(k) != now.get(k))
    listed = {k: f"{k} was {was.get(k)!r}, is now {now.get(k)!r}" for k in differ}
    if wrong := [text for k, text in listed.items() if k.rpartition(".")[2] not in MAY_DIFFER]:
        raise InputError(
            f"{path} belongs to another run: {'; '.join(wrong)}. Use the same settings and data to resume, or "
            "another --out to start over"
        )
    if listed:
        log.warning("resumed with other settings: %s", "; ".join(listed.values()))


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _save(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_or_nothing(path) as partial:
            save_file({name: value.detach().contiguous() for name, value in tensors.items()}, partial, header)
            partial.chmod(0o644)  # safetensors makes the file private
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"{path} cannot be written: {error}. Free disk space or check permissions, then resume with --resume"
        ) from error


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _load_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Restore the optimizer's state with the memory layout of its parameters."""
    places = [p for group in optimizer.param_groups for p in group["params"]]
    index = {id(p): i for i, p in enumerate(places)}
    parameters = dict(model.named_parameters())
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in saved.items():
        parameter, _, key = name.rpartition("/")
        like = parameters[parameter]
        if value.shape == like.shape and value.ndim:
            value = torch.empty_like(like, dtype=value.dtype).copy_(value)  # noqa: PLW2901
        state.setdefault(index[id(like)], {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
