"""Rasters that appear in two splits, or twice in one."""

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
    """A labelled raster with a footprint."""

    @property
    def files(self) -> SceneFiles:
        """Return the raster's files."""

    @property
    def footprint(self) -> Footprint | None:
        """Return the raster's footprint, or None if unknown."""


PIECE = 1 << 16  # bytes compared of a file's head, middle and tail before comparing all of it


def identical_images(sides: dict[str, Sequence[Facts]]) -> tuple[list[str], list[str]]:
    """Return (problems, warnings): byte-identical images in two splits, and within one split."""
    where = {f.files.image: (side, f.files.name) for side, facts in sides.items() for f in facts}
    problems, warnings = [], []
    for group in _identical([p for p in where if p.is_file()]):
        members = sorted(where[p] for p in group)
        listed = ", ".join(f"{side} {name}" for side, name in members[:4])
        more = f" and {len(members) - 4} more" if len(members) > 4 else ""
        if len({side for side, _ in members}) > 1:
            problems.append(f"the same image file is in two splits: {listed}{more}")
        else:
            warnings.append(f"the same image file occurs {len(members)} times: {listed}{more}")
    return problems, warnings


def shared_scenes(sides: dict[str, Sequence[Facts]]) -> list[str]:
    """Return a problem for each scene in two splits."""
    names = {side: {f.files.scene for f in facts} for side, facts in sides.items()}
    order = list(names)
    return [
        f"scene {scene} is in both {a} and {b}. Assign each scene to one split"
        for i, a in enumerate(order)
        for b in order[i + 1 :]
        for scene in sorted(names[a] & names[b])
    ]


def overlapping(sides: Mapping[str, Sequence[Placed]]) -> list[str]:
    """Return problems: training rasters that overlap a raster of another split, in the same CRS."""
    problems = []
    for side in ("val", "test"):
        found = [(t.files.name, names) for t in sides["train"] if (names := _overlaps(t, sides[side]))]
        pairs = [f"{name} and {other}" for name, others in found for other in others]
        if pairs:
            more = f" and {len(pairs) - 4} more pairs" if len(pairs) > 4 else ""
            problems.append(f"train and {side} overlap on the ground: {'; '.join(pairs[:4])}{more}")
    return problems


def _overlaps(one: Placed, others: Sequence[Placed]) -> list[str]:
    """Return names of the rasters that overlap ``one`` by more than half a pixel in both directions."""
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
    """Group equal files by size, then by three pieces, then by all bytes."""
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
