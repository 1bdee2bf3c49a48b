"""Outlines of areas of equal value."""

from __future__ import annotations

from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray
from rasterio.features import shapes

from rsedge.vector.rings import Rings, offsets

CHUNK = 10_000  # areas held as Python lists of tuples, which take ten times the memory of arrays


def trace(values: NDArray[np.uint8], nodata: int) -> tuple[NDArray[np.uint8], Rings]:
    """Trace the 4-connected areas of equal value in ``values`` (h, w), except ``nodata``.

    Returns the value of each area, and their rings, owned by the areas' indexes, with corners in pixels.
    """
    found = shapes(values, mask=values != nodata, connectivity=4)
    value: list[float] = []
    parts: list[Rings] = []
    while chunk := list(islice(found, CHUNK)):
        first = len(value)
        value += [v for _, v in chunk]
        counts = [len(g["coordinates"]) for g, _ in chunk]
        rings = list(chain.from_iterable(g["coordinates"] for g, _ in chunk))
        parts.append(_flat(rings, np.repeat(np.arange(first, len(value)), counts)))
    return np.array(value, np.uint8), Rings.joined(parts)


def _flat(rings: list[list[tuple[float, float]]], owner: NDArray[np.int64]) -> Rings:
    closed = offsets(np.fromiter(map(len, rings), np.int64, len(rings)))
    numbers = chain.from_iterable(chain.from_iterable(rings))
    xy = np.fromiter(numbers, np.int32, 2 * int(closed[-1])).reshape(-1, 2)
    kept = np.ones(len(xy), np.bool_)
    kept[closed[1:] - 1] = False  # GDAL repeats the first corner
    return Rings(xy[kept], closed - np.arange(len(closed)), owner)
