"""Rasters that appear in two splits, or twice in one."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from rsedge.model.bundle import file_sha256
from rsedge_train.data.base import SceneFiles
from rsedge_train.data.examine import Facts
from rsedge_train.data.footprint import Footprint

Item = TypeVar("Item")


class Placed(Protocol):
    """A raster with a footprint."""

    @property
    def files(self) -> SceneFiles:
        """Return the raster's files."""

    @property
    def footprint(self) -> Footprint | None:
        """Return the raster's footprint, or None if unknown."""


P = TypeVar("P", bound=Placed)
PIECE = 1 << 16  # bytes compared of a file's head, middle and tail before comparing all of it


def identical_images(sides: dict[str, Sequence[Facts]]) -> tuple[list[str], list[str]]:
    """Return (problems, warnings): byte-identical images in two splits, and within one split."""
    where = {f.files.image: (side, f.files.name) for side, facts in sides.items() for f in facts}
    problems, warnings = [], []
    for group in groups_of([p for p in where if p.is_file()], SAME_FILE):
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
    """Return problems: training rasters that overlap a raster of another split."""
    problems = []
    for side in ("val", "test"):
        pairs = [
            f"{t.files.name} and {other.files.name}"
            for t in sides["train"]
            for other in overlaps(t, sides[side])
        ]
        if pairs:
            more = f" and {len(pairs) - 4} more pairs" if len(pairs) > 4 else ""
            problems.append(f"train and {side} overlap on the ground: {'; '.join(pairs[:4])}{more}")
    return problems


def overlaps(one: Placed, others: Sequence[P]) -> list[P]:
    """Return the rasters that overlap ``one`` by more than half a pixel in both directions, in any CRS."""
    mine = one.footprint
    by_crs: dict[str, list[tuple[P, Footprint]]] = defaultdict(list)
    for other in others if mine else ():
        if other.footprint:
            by_crs[other.footprint.crs].append((other, other.footprint))
    found = list[P]()
    for crs, near in by_crs.items():
        assert mine is not None
        same = crs == mine.crs
        box, slack = (mine.box, mine.slack) if same else (mine.box_in(crs), 0.0)
        if box is None:
            continue
        boxes = np.array([place.box for _, place in near])
        width = np.minimum(boxes[:, 2], box[2]) - np.maximum(boxes[:, 0], box[0])
        height = np.minimum(boxes[:, 3], box[3]) - np.maximum(boxes[:, 1], box[1])
        hits = [near[i] for i in np.flatnonzero((width > slack) & (height > slack))]
        # In another CRS the box is larger than the footprint, so neighbours would seem to overlap.
        found += [other for other, place in hits if same or mine.shares_ground(place)]
    return found


def groups_of(
    items: Sequence[Item],
    keys: Sequence[Callable[[Item], Hashable]],
    matters: Callable[[Sequence[Item]], bool] = lambda _: True,
) -> list[list[Item]]:
    """Group items by one key after the other; a group of one, or that does not matter, goes no further."""
    groups = [list(items)]
    for key in keys:
        parts = [part for group in groups for part in _parted(group, key)]
        groups = [part for part in parts if len(part) > 1 and matters(part)]
    return groups


def _parted(items: Sequence[Item], key: Callable[[Item], Hashable]) -> list[list[Item]]:
    parts: dict[Hashable, list[Item]] = defaultdict(list)
    for item in items:
        parts[key(item)].append(item)
    return list(parts.values())


def _pieces(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = file.seek(0, 2)
        for start in (0, size // 2, max(0, size - PIECE)):
            file.seek(start)
            digest.update(file.read(PIECE))
    return digest.hexdigest()


SAME_FILE: tuple[Callable[[Path], Hashable], ...] = (lambda p: p.stat().st_size, _pieces, file_sha256)
"""Keys by which equal files are grouped: size, then three pieces, then all bytes."""
