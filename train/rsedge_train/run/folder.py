"""A run folder: description, weights and progress of one training.

runs/student/
  run.json                network, classes, bands, data, settings, teacher, scores
  weights.safetensors     averaged weights, written at the end
  best.safetensors        weights with the best validation mIoU, if the run was validated
  state.safetensors       everything needed to resume (see ``state``)
  log.csv, tensorboard/, curves.png, sheet.png
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from rsedge.documents import OtherSchemaError, from_json, parse_json, read_bytes, without_schema
from rsedge.errors import InputError, ModelError
from rsedge.files import whole_or_nothing
from rsedge.model.manifest import ClassInfo, Manifest
from rsedge_train.data.pixels import MEAN
from rsedge_train.fit.state import BEST_NAME, LAST_NAME
from rsedge_train.nets.deploy import fold_dilations, folded
from rsedge_train.nets.network import SegNet
from rsedge_train.nets.registry import build

SCHEMA = 1
RUN_NAME = "run.json"
TILE = 512  # side in pixels for validation and export, unless crops were larger


@dataclass(frozen=True)
class Run:
    """Contents of ``run.json``."""

    role: str  # "teacher" or "student"
    network: str  # name in the registry
    classes: tuple[ClassInfo, ...]
    bands: tuple[str, ...]
    crop: int  # pixels, side of the training crops
    gsd_m: tuple[float, float] | None = None
    unlabelled: tuple[tuple[int, int, int], ...] = ()  # colours of label pixels without a class
    uncounted: tuple[str, ...] = ()  # classes left out of mean scores
    rehearsal: bool = False  # --quick: the weights are for testing only
    data: Mapping[str, Any] = field(default_factory=dict)  # name, splits, shares, hash
    settings: Mapping[str, Any] = field(default_factory=dict)
    teacher: Mapping[str, Any] | None = None  # folder, network, weights' hash, params, macs
    progress: Mapping[str, Any] = field(default_factory=dict)  # steps, seconds, scores

    @property
    def tile(self) -> int:
        """Return the tile side used by validation and export, in pixels."""
        return max(TILE, self.crop)

    def manifest(self, name: str) -> Manifest:
        """Return the manifest of the trained network."""
        return Manifest(
            name=name,
            bands=self.bands,
            dtype="uint8",
            tile=self.tile,
            classes=self.classes,
            fill=tuple(round(255 * m) for m in MEAN),
            unlabelled=self.unlabelled,
            gsd_m=self.gsd_m,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the run as plain JSON values."""
        return asdict(self)

    def write(self, folder: Path) -> None:
        """Write ``run.json`` atomically."""
        with whole_or_nothing(folder / RUN_NAME) as partial:
            facts = {"rsedge_run_schema": SCHEMA, **asdict(self)}
            partial.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read ``run.json``. Raises InputError if the folder is not a run."""
        path = folder / RUN_NAME
        try:
            facts = without_schema(parse_json(read_bytes(path)), "rsedge_run_schema", SCHEMA)
            run = from_json(cls, facts, exact=True)
            run.manifest("run")  # checks names, colours and distances
        except OtherSchemaError:
            raise InputError(
                f"{path} was written by another version of rsedge. Train again or use that version"
            ) from None
        except FileNotFoundError:
            raise InputError(
                f"{folder} is not a run folder: {RUN_NAME} not found. Train with `rsedge train-teacher` "
                "(runs/teacher), `rsedge distill` (runs/student) "
                "or, without a teacher, `rsedge distill --alone`"
            ) from None
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path} cannot be read: {error}. If the file is damaged, train again"
            ) from error
        return run


def weights_path(folder: Path, which: str = "best") -> Path:
    """Return the path of the ``best`` or ``last`` weights; best means last if the run was not validated.

    Raises InputError if the run is not finished.
    """
    if which not in {"best", "last"}:
        raise InputError(f"weights {which!r}: unknown. Choose best or last")
    if not (folder / LAST_NAME).is_file():
        raise InputError(
            f"{folder}: the run is not finished. Resume with `rsedge distill --resume` or "
            "`rsedge train-teacher --resume`, whichever started the run"
        )
    name = BEST_NAME if which == "best" and (folder / BEST_NAME).is_file() else LAST_NAME
    return folder / name


def load_network(folder: Path, which: str = "best", *, fold: bool = True) -> tuple[SegNet, Run]:
    """Return the trained network of a run, in eval mode on the CPU.

    ``fold``: drop taps of dilated convolutions that no training crop reached; such taps are still random
    and add noise on a larger tile. Raises InputError or ModelError if the weights cannot be loaded.
    """
    run = Run.read(folder)
    net = build(run.network, len(run.classes))
    if run.settings.get("quantization"):
        net = folded(net, run.crop)
    load_weights(net, weights_path(folder, which), run.network)
    net.eval()
    return (fold_dilations(net, run.crop) if fold else net), run


def load_weights(net: SegNet, path: Path, network: str) -> None:
    """Load safetensors into ``net``. Raises ModelError naming the first tensor that does not match."""
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is not a complete safetensors file: {error}. Copy or train again"
        ) from error
    own = net.state_dict()
    wrong = sorted(
        k
        for k in own.keys() | state.keys()
        if k not in own or k not in state or own[k].shape != state[k].shape
    )
    if wrong:
        shapes = [tuple(s[wrong[0]].shape) if wrong[0] in s else "nothing" for s in (state, own)]
        raise ModelError(
            f"{path} does not match {network}: {len(wrong)} of {len(own)} tensors differ, first {wrong[0]}: "
            f"{shapes[0]} instead of {shapes[1]}"
        )
    net.load_state_dict(state)
