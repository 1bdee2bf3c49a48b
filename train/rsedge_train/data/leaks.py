"""Rasters that stand on two sides of a split, or twice on one."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from rsedge.model.bundle import file_sha256
from rsedge_train.data.base import SceneFiles
from rsedge_train.data.examine import Facts
from rsedge_train.data.footprint import Footprint


class Placed(Protocol):
    """A labelled raster of which one knows where it lies."""

    @property
    def files(self) -> SceneFiles:
        """Its name."""

    @property
    def footprint(self) -> Footprint | None:
        """Its place, where it says it."""


PIECE = 1 << 16  # bytes read of the head, the middle and the tail of a file before all of it


def identical_images(sides: dict[str, Sequence[Facts]]) -> tuple[list[str], list[str]]:
    """(problems, warnings): byte-identical images on two sides, and within one side."""
    where = {f.files.image: (side, f.files.name) for side, facts in sides.items() for f in facts}
    problems, warnings = [], []
    for group in _identical([p for p in where if p.is_file()]):
        members = sorted(where[p] for p in group)
        listed = ", ".join(f"{side} {name}" for side, name in members[:4])
        more = f" and {len(members) - 4} more" if len(members) > 4 else ""
        if len({side for side, _ in members}) > 1:
            problems.append(f"the same image file on two sides of the split: {listed}{more}")
        else:
            warnings.append(f"the same image file {len(members)} times: {listed}{more}")
    return problems, warnings


def shared_scenes(sides: dict[str, Sequence[Facts]]) -> list[str]:
    """Problems: scenes that stand on two sides."""
    names = {side: {f.files.scene for f in facts} for side, facts in sides.items()}
    order = list(names)
    return [
        f"scene {scene} is in {a} and in {b}; a scene belongs to one side only"
        for i, a in enumerate(order)
        for b in order[i + 1 :]
        for scene in sorted(names[a] & names[b])
    ]


def overlapping(sides: Mapping[str, Sequence[Placed]]) -> list[str]:
    """Problems: rasters of train that share ground with one of another side, in the same CRS."""
    problems = []
    for side in ("val", "test"):
        found = [(t.files.name, names) for t in sides["train"] if (names := _overlaps(t, sides[side]))]
        pairs = [f"{name} and {other}" for name, others in found for other in others]
        if pairs:
            more = f" and {len(pairs) - 4} pairs more" if len(pairs) > 4 else ""
            problems.append(f"train and {side} share ground: {'; '.join(pairs[:4])}{more}")
    return problems


def _overlaps(one: Placed, others: Sequence[Placed]) -> list[str]:
    """Names of the rasters that cover more than half a pixel of ``one`` in both directions."""
    mine = one.footprint
    if mine is None:
        return []
    near = [(f.files.name, f.footprint) for f in others if f.footprint and f.footprint.crs == mine.crs]
    if not near:
        return []
    boxes = np.array([place.box for _, place in near])
    width = np.minimum(boxes[:, 2], mine.box[2]) - np.maximum(boxes[:, 0], mine.box[0])
    height = np.minimum(boxes[:, 3], mine.box[3]) - np.maximum(boxes[:, 1], mine.box[1])
    return [near[i][0] for i in np.flatnonzero((width > mine.slack) & (height > mine.slack))]


def _identical(paths: Sequence[Path]) -> list[list[Path]]:
    """Groups of equal files: by size, then by three pieces, then by all their bytes."""
    groups = [list(paths)]
    keys: tuple[Callable[[Path], Hashable], ...] = (lambda p: p.stat().st_size, _pieces, file_sha256)
    for key in keys:
        groups = [part for group in groups for part in _parted(group, key)]
    return groups


def _parted(paths: Sequence[Path], key: Callable[[Path], Hashable]) -> list[list[Path]]:
    parts: dict[Hashable, list[Path]] = defaultdict(list)
    for path in paths:
        parts[key(path)].append(path)
    return [part for part in parts.values() if len(part) > 1]


def _pieces(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = file.seek(0, 2)
        for start in (0, size // 2, max(0, size - PIECE)):
            file.seek(start)
            digest.update(file.read(PIECE))
    return digest.hexdigest()
