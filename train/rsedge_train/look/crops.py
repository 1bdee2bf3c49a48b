"""Which crops to show: a few windows that together hold all classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from rsedge.errors import InputError
from rsedge.tiling.window import Window
from rsedge_train.data.base import SceneFiles
from rsedge_train.data.scan import BLOCK, SceneScan

EQUAL = 1e-9  # values no further apart are a tie
Chosen = list[tuple[int, int, int]]  # scene, row and column of blocks


def choose_crops(
    scans: Sequence[SceneScan], num_classes: int, count: int, side: int, seed: int
) -> list[tuple[SceneFiles, Window]]:
    """Choose windows of ``side`` pixels (or a whole smaller raster) inside it, starting on the BLOCK grid.

    Each next window shows the most classes not shown yet; among equals, many classes, above all rarely shown
    ones, in an unused scene and clear of the earlier windows. Remaining ties are broken at random.
    Returns fewer than ``count`` if there are no more labelled windows. For a ``side`` below BLOCK,
    only the window's block is known to hold the classes. Raises InputError if ``count`` or ``side`` is not
    positive.
    """
    if count < 1 or side < 1:
        raise InputError(f"{count} crops of {side} pixels: too small. Both numbers must be at least 1")
    rng, shown = np.random.default_rng(seed), np.zeros(num_classes, np.int64)
    held = [_held(scan, side) for scan in scans]
    chosen: Chosen = []
    for _ in range(count):
        values = [_values(h, shown, _of_scene(chosen, i), side) for i, h in enumerate(held)]
        best = max((float(v.max()) for v in values), default=-np.inf)
        if best == -np.inf:
            break
        # Draw the scene first, because otherwise the largest would win nearly always.
        i = int(rng.choice([i for i, v in enumerate(values) if v.max() > best - EQUAL]))
        flat = int(rng.choice(np.flatnonzero(values[i] > best - EQUAL)))
        row, col = divmod(flat, values[i].shape[1])
        shown += held[i][:, row, col]
        chosen.append((i, row, col))
    return [(scans[i].files, _window(scans[i], row, col, side)) for i, row, col in chosen]


def _window(scan: SceneScan, row: int, col: int, side: int) -> Window:
    return Window(row * BLOCK, col * BLOCK, min(side, scan.height), min(side, scan.width))


def _held(scan: SceneScan, side: int) -> NDArray[np.bool_]:
    """Return which classes the window at each block certainly holds: (classes, rows, columns) of windows."""
    held = scan.present
    for axis, length in ((1, scan.height), (2, scan.width)):
        whole = side >= length
        # A block that the window only cuts may hold its classes in the part outside.
        span = held.shape[axis] if whole else max(1, side // BLOCK)
        starts = 1 if whole else (length - side) // BLOCK + 1
        held = sliding_window_view(held, span, axis).any(-1).take(range(starts), axis)
    return held


def _of_scene(chosen: Chosen, scene: int) -> list[tuple[int, int]]:
    return [(row, col) for i, row, col in chosen if i == scene]


def _values(
    held: NDArray[np.bool_], shown: NDArray[np.int64], taken: list[tuple[int, int]], side: int
) -> NDArray[np.float64]:
    """Return a score for each window of a scene: (rows, columns); -inf without labels or if already taken."""
    new = held[shown == 0].sum(0)
    # Below 1 in total, so that the sum never outweighs a new class.
    wealth = np.tensordot(1.0 / (1 + shown), held, 1) / ((1 + len(taken)) * (1 + len(shown)))
    reach = -(-side // BLOCK)
    for row, col in taken:
        wealth[max(0, row - reach + 1) : row + reach, max(0, col - reach + 1) : col + reach] = 0
    values = np.where(held.any(0), new + wealth, -np.inf)
    for row, col in taken:
        values[row, col] = -np.inf
    return np.asarray(values, np.float64)
