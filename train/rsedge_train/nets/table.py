"""Table of ``rsedge models``: every registered network, with the papers' figures."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from rsedge.errors import InputError
from rsedge.text import columns

from . import registry
from .authors import MEBIBYTE, TABLE_4, Printed, authors_count, unused_projection
from .complexity import PAPER_CLASSES, Complexity, build_weightless, measure, on_meta, state_bytes


@dataclass(frozen=True)
class PaperRow:
    """The authors' columns computed from the network, their printed values, and computed - printed."""

    params_m: float
    flops_g: float
    size_mb: float
    printed: Printed

    def __post_init__(self) -> None:
        if min(self.params_m, self.flops_g, self.size_mb) <= 0:
            raise InputError("computed columns must be positive")

    @property
    def differences(self) -> tuple[float, float, float]:
        """Return computed minus printed: M parameters, G operations (of eight tiles), MiB."""
        return (
            self.params_m - self.printed.params_m,
            self.flops_g - self.printed.flops_g,
            self.size_mb - self.printed.size_mb,
        )


@dataclass(frozen=True)
class ModelRow:
    """One network of the table."""

    role: str
    network: str
    backbone: str
    counts: Complexity
    paper: PaperRow | None

    def __post_init__(self) -> None:
        if self.role not in registry.ROLES:
            raise InputError(f"role {self.role!r}: unknown. Choose one of {', '.join(registry.ROLES)}")


@lru_cache(maxsize=64)
def model_row(name: str) -> ModelRow:
    """Build ``name`` with random weights at six classes, and count it."""
    spec = registry.entry(name)
    net = build_weightless(name, PAPER_CLASSES)
    counts = measure(net, name)
    paper = None
    if name in TABLE_4:
        authors = authors_count(on_meta(net))
        # The authors' teacher checkpoint carries the auxiliary head, as ours does.
        size = state_bytes(net, unused_projection(counts.channels[3])) / MEBIBYTE
        paper = PaperRow(authors.params_m, authors.flops_g, size, TABLE_4[name])
    return ModelRow(spec.role, spec.network, spec.backbone, counts, paper)


def _as_dict(row: ModelRow) -> dict[str, Any]:
    paper = None
    if row.paper is not None:
        params, flops, size = row.paper.differences
        paper = {**asdict(row.paper), "difference": {"params_m": params, "flops_g": flops, "size_mb": size}}
    return {
        "name": row.counts.name,
        "role": row.role,
        "network": row.network,
        "backbone": row.backbone,
        **{key: value for key, value in asdict(row.counts).items() if key != "name"},
        "num_classes": PAPER_CLASSES,
        "paper": paper,
    }


_HEADER = (
    "model",
    "role",
    "params M",
    "trainable",
    "MACs G",
    "size MiB",
    "strides",
    "paper: params M",
    "G x8",
    "MiB",
)


def _cells(row: ModelRow) -> tuple[str, ...]:
    counts = row.counts
    true = (
        counts.name,
        row.role,
        f"{counts.params / 1e6:.3f}",
        f"{counts.params_trainable / 1e6:.3f}",
        f"{counts.macs / 1e9:.2f}",
        f"{counts.size_bytes / MEBIBYTE:.2f}",
        "/".join(map(str, counts.strides)),
    )
    if row.paper is None:
        return (*true, "", "", "")
    paper, printed = row.paper, row.paper.printed
    params, flops, size = paper.differences
    return (
        *true,
        f"{paper.params_m:.2f} / {printed.params_m:.2f} ({params:+.3f})",
        f"{paper.flops_g:.2f} / {printed.flops_g:.2f} ({flops:+.3f})",
        f"{paper.size_mb:.2f} / {printed.size_mb:.2f} ({size:+.3f})",
    )


def models_table(as_json: bool, names: tuple[str, ...] | None = None) -> str:
    """Return all registered networks (or ``names``), as JSON or as a table for a terminal."""
    rows = [model_row(name) for name in (registry.names() if names is None else names)]
    if as_json:
        return json.dumps([_as_dict(row) for row in rows], indent=2)
    text = [*columns([_HEADER, *(_cells(row) for row in rows)]), ""]
    text.append(
        f"One 512 x 512 tile, {PAPER_CLASSES} classes; MAC: multiply-accumulate (FLOPs are twice); a teacher's "
        "params include its auxiliary head, used in training only."
    )
    text.append(
        "paper: computed under the authors' convention / printed in ARAFNet Table 4 (difference); G x8: "
        "thop's operations of eight tiles."
    )
    return "\n".join(text)
