"""A run's folder: what was trained, its weights, and how it went.

runs/student/
  run.json                what it is: network, classes, bands, data, settings, teacher, scores
  weights.safetensors     the averaged weights of the end; not there before it
  best.safetensors        those with the best validation mIoU, where one was measured
  state.safetensors       everything needed to go on (see ``state``)
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
from rsedge_train.nets.deploy import fold_dilations
from rsedge_train.nets.network import SegNet
from rsedge_train.nets.registry import build

SCHEMA = 1
RUN_NAME = "run.json"
TILE = 512  # of validation and export, unless crops were larger


@dataclass(frozen=True)
class Run:
    """What a run folder holds, as far as others need it."""

    role: str  # "teacher" or "student"
    network: str  # name in the registry
    classes: tuple[ClassInfo, ...]
    bands: tuple[str, ...]
    crop: int  # pixels, side of the training crops
    gsd_m: tuple[float, float] | None = None
    unlabelled: tuple[tuple[int, int, int], ...] = ()  # colours of label pixels without a class
    uncounted: tuple[str, ...] = ()  # classes left out of mean scores
    rehearsal: bool = False  # --quick: the weights are not meant for use
    data: Mapping[str, Any] = field(default_factory=dict)  # name, splits, shares, hash
    settings: Mapping[str, Any] = field(default_factory=dict)
    teacher: Mapping[str, Any] | None = None  # folder, network, weights' hash, params, macs
    progress: Mapping[str, Any] = field(default_factory=dict)  # steps, seconds, scores

    @property
    def tile(self) -> int:
        """The tile that validation and export use, pixels."""
        return max(TILE, self.crop)

    def manifest(self, name: str) -> Manifest:
        """The contract of the trained network."""
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
        """Plain JSON values."""
        return asdict(self)

    def write(self, folder: Path) -> None:
        """Write ``run.json``, whole or not at all."""
        with whole_or_nothing(folder / RUN_NAME) as partial:
            facts = {"rsedge_run_schema": SCHEMA, **asdict(self)}
            partial.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read ``run.json``. Raises InputError when the folder is no run."""
        path = folder / RUN_NAME
        try:
            facts = without_schema(parse_json(read_bytes(path)), "rsedge_run_schema", SCHEMA)
            run = from_json(cls, facts, exact=True)
            run.manifest("run")  # checks names, colours and distances
        except OtherSchemaError:
            raise InputError(
                f"{path} is of another version of rsedge; train again or use that version"
            ) from None
        except FileNotFoundError:
            raise InputError(
                f"no run at {folder} (it has no {RUN_NAME}); `rsedge train-teacher` writes runs/teacher, "
                "`rsedge distill` runs/student; "
                "`rsedge distill --alone` needs no teacher"
            ) from None
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read ({error}); it may be damaged: train again") from error
        return run


def weights_path(folder: Path, which: str = "best") -> Path:
    """``best`` or ``last`` weights of a run; best falls back to last where nothing was validated.

    Raises InputError when the run is not finished.
    """
    if which not in {"best", "last"}:
        raise InputError(f"weights {which!r}: choose best or last")
    if not (folder / LAST_NAME).is_file():
        raise InputError(
            f"the run in {folder} is not finished; go on with it with `rsedge distill --resume` or "
            "`rsedge train-teacher --resume`, whichever began it"
        )
    name = BEST_NAME if which == "best" and (folder / BEST_NAME).is_file() else LAST_NAME
    return folder / name


def load_network(folder: Path, which: str = "best", *, fold: bool = True) -> tuple[SegNet, Run]:
    """The trained network of a run, in eval mode on the CPU.

    ``fold``: drop taps of dilated convolutions that no training crop reached; they are random numbers
    still, and noise on a larger tile. Raises InputError or ModelError when something does not fit.
    """
    run = Run.read(folder)
    net = build(run.network, len(run.classes))
    load_weights(net, weights_path(folder, which), run.network)
    net.eval()
    return (fold_dilations(net, run.crop) if fold else net), run


def load_weights(net: SegNet, path: Path, network: str) -> None:
    """Load safetensors into ``net``. Raises ModelError naming the first tensor that does not fit."""
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is no whole safetensors file ({error}); copy or train it again") from error
    own = net.state_dict()
    wrong = sorted(
        k
        for k in own.keys() | state.keys()
        if k not in own or k not in state or own[k].shape != state[k].shape
    )
    if wrong:
        shapes = [tuple(s[wrong[0]].shape) if wrong[0] in s else "nothing" for s in (state, own)]
        raise ModelError(
            f"{path} is not of {network}: {len(wrong)} of {len(own)} tensors differ, first {wrong[0]}: "
            f"{shapes[0]} where {shapes[1]} is needed"
        )
    net.load_state_dict(state)
