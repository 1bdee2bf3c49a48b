"""One or more teachers, answering with their mean probability over several views of a crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rsedge.errors import InputError
from rsedge.model.bundle import file_sha256
from rsedge_train.data import Dataset
from rsedge_train.nets.complexity import macs, parameters
from rsedge_train.nets.deploy import fold_dilations
from rsedge_train.nets.network import SegNet
from rsedge_train.run.folder import Run, load_network, weights_path

VIEWS = (1, 2, 4, 8)
_QUARTERS = (0, 2, 1, 3)
EPSILON = 1e-7  # keeps the logarithm of a probability finite


class Teachers(nn.Module):
    """Several networks as one: ``(N, 3, H, W)`` normalised -> float32 scores ``(N, K, H, W)``.

    With one network and one view, the scores are the logits. Otherwise they are the logarithm of the mean
    probability over networks and views, so their softmax is that mean. Views are the first ``views`` of a
    square's eight: unchanged, turned by 180, 90 and 270 degrees, and the same four mirrored.
    """

    def __init__(self, nets: Sequence[nn.Module], views: int = 1) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)
        self.views = views

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return the scores averaged over all networks and views."""
        if len(self.nets) * self.views == 1:
            logits: Tensor = self.nets[0](images)
            return logits.float()
        total: Tensor | None = None
        for net in self.nets:
            for view in range(self.views):
                answer = turn_back(net(turn(images, view)), view).float().softmax(1)
                total = answer if total is None else total.add_(answer)
        assert total is not None
        return total.div_(len(self.nets) * self.views).clamp_(min=EPSILON).log_()


def turn(x: Tensor, view: int) -> Tensor:
    """Return view number ``view`` (0 to 7) of square maps ``(N, C, S, S)``."""
    if view >= 4:
        x = x.flip(-1)
    return torch.rot90(x, _QUARTERS[view % 4], (-2, -1))


def turn_back(x: Tensor, view: int) -> Tensor:
    """Undo ``turn``."""
    x = torch.rot90(x, -_QUARTERS[view % 4], (-2, -1))
    return x.flip(-1) if view >= 4 else x


@dataclass(frozen=True)
class Member:
    """One run in a lesson: its description, its network on the CPU with unreached taps folded, and its complexity."""

    folder: Path
    run: Run
    net: SegNet
    facts: Mapping[str, Any]


def load_member(folder: Path, weights: str, dataset: Dataset, what: str = "teacher") -> Member:
    """Load the ``best`` or ``last`` weights of a run and compute its complexity; ``what`` it is for messages.

    Raises InputError if classes or bands differ from the data's, or if the run was trained on scenes that the
    student is scored on.
    """
    net, run = load_network(folder, weights, fold=False)
    mine, theirs = dataset.table.names, tuple(c.name for c in run.classes)
    if mine != theirs:
        raise InputError(
            f"{folder}: the {what} has the classes {', '.join(theirs)}, but the data has {', '.join(mine)}. "
            f"Use data with the same classes, or another {what}"
        )
    if run.bands != dataset.bands.names:
        raise InputError(
            f"{folder}: the {what} reads {', '.join(run.bands)}, but the data gives "
            f"{', '.join(dataset.bands.names)}. Choose the same bands"
        )
    _check_apart(run, dataset, what)
    path = weights_path(folder, weights)
    facts = {
        "folder": str(folder),
        "network": run.network,
        "weights": path.name,
        "sha256": file_sha256(path),
        "params": parameters(net),
        "macs": macs(net, run.tile),
        "macs_tile": run.tile,
        "size_bytes": path.stat().st_size,
        "val": run.progress.get("val_best" if "best" in path.name else "val_last"),
    }
    return Member(folder, run, fold_dilations(net, run.crop), facts)


def teacher_facts(members: Sequence[Member]) -> Mapping[str, Any]:
    """Describe the teachers for a student's run: one directly, several by their sums and individually."""
    facts = [m.facts for m in members]
    if len(facts) == 1:
        return facts[0]
    sums = {key: sum(f[key] for f in facts) for key in ("params", "macs", "size_bytes")}
    names = {
        key: " + ".join(str(f[key]) for f in facts) for key in ("folder", "network", "weights", "sha256")
    }
    return {**names, **sums, "macs_tile": facts[0]["macs_tile"], "val": None, "members": facts}


def _check_apart(teacher: Run, dataset: Dataset, what: str) -> None:
    """Raise InputError if a run was trained on scenes that the student is scored on."""
    scored = {f.scene for f in (*dataset.val, *dataset.test)}
    seen = sorted(scored & set(teacher.data.get("train", ())))
    if seen and teacher.data.get("name") == dataset.name:
        raise InputError(
            f"the {what} was trained on {', '.join(seen)}, which the student would be scored on. Validate "
            f"on its own scenes: --val {','.join(teacher.data.get('val', ())) or 'none'}"
        )
