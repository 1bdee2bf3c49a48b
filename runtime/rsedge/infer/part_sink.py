"""Consumers of finished mask strips: part files, class counts, thumbnail."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rsedge.engine.sliding_window import Pixels, Strip
from rsedge.files import describe, writing
from rsedge.infer.journal import Part
from rsedge.model.manifest import NODATA
from rsedge.raster import Grid
from rsedge.raster.ground import PixelAreas
from rsedge.raster.part_file import PartFile
from rsedge.raster.parts import write_part
from rsedge.tiling.window import Window

if TYPE_CHECKING:
    from rsedge.infer.preview import Picture

COUNTED_ROWS = 64
EVEN = 2e-4  # relative difference between pixel areas that may be counted as equal
LEAST_PIECE = 2048  # pixels; with smaller pieces, weighting each pixel is faster
MASK, CONFIDENCE, PROBABILITIES, PREVIEW = "mask", "confidence", "probabilities", "preview"


@dataclass(frozen=True)
class Wanted:
    """Layers to keep of a part; ``path`` names the file of an area and a layer."""

    path: Callable[[Window, str], Path]
    layers: tuple[str, ...]  # MASK, CONFIDENCE, PROBABILITIES
    classes: int
    ground: PixelAreas | None


class PartSink:
    """Consumer that cuts strips into parts, writes each complete part and passes it to ``done``.

    ``parts``: the areas that the strips will fill, from the top down.
    """

    def __init__(
        self,
        parts: Sequence[Window],
        wanted: Wanted,
        done: Callable[[Part], None],
        thumbnail: Thumbnail | None = None,
    ) -> None:
        self._parts, self._wanted, self._done = list(parts), wanted, done
        self._thumbnail = thumbnail
        most = max(p.height for p in parts), parts[0].width
        bands = {MASK: 1, CONFIDENCE: 1, PROBABILITIES: wanted.classes}
        self._rows = {name: np.empty((bands[name], *most), np.uint8) for name in wanted.layers}
        self._held = 0

    def take(self, strip: Strip) -> None:
        """Add the strip's rows, and write the parts that they complete."""
        taken, rows = 0, len(strip.mask)
        while taken < rows:
            part = self._parts[0]
            count = min(part.height - self._held, rows - taken)
            here, there = slice(self._held, self._held + count), slice(taken, taken + count)
            self._rows[MASK][0, here] = strip.mask[there]
            if strip.percent is not None:
                percent = strip.percent[:, there]
                if CONFIDENCE in self._rows:
                    # Nodata is 255 in all classes, so it stays.
                    self._rows[CONFIDENCE][0, here] = percent.max(0)
                if PROBABILITIES in self._rows:
                    self._rows[PROBABILITIES][:, here] = percent
            self._held, taken = self._held + count, taken + count
            if self._held == part.height:
                self._finish(self._parts.pop(0))

    def _finish(self, area: Window) -> None:
        wanted, files = self._wanted, list[PartFile]()
        for name, rows in self._rows.items():
            files.append(write_part(wanted.path(area, name), name, rows[:, : area.height]))
        mask = self._rows[MASK][0, : area.height]
        if self._thumbnail is not None:
            files.append(self._thumbnail.save(wanted.path(area, PREVIEW), area, mask))
        pixels, area_m2 = count_classes(mask, area, wanted.classes, wanted.ground)
        self._held = 0
        self._done(Part(area, tuple(files), pixels, area_m2))


def count_classes(
    mask: NDArray[np.uint8], area: Window, classes: int, ground: PixelAreas | None
) -> tuple[tuple[int, ...], tuple[float, ...] | None]:
    """Count pixels and square metres of each class in a mask (h, w) at ``area`` of the raster of ``ground``."""
    pixels, area_m2 = np.zeros(classes, np.int64), np.zeros(classes)
    for row in range(0, len(mask), COUNTED_ROWS):  # limits the size of the comparison's temporary array
        rows = mask[row : row + COUNTED_ROWS]
        if ground is None:
            pixels += _counts(rows, classes)
        else:
            found, m2 = _areas(rows, Window(area.row + row, area.col, *rows.shape), ground, classes)
            pixels, area_m2 = pixels + found, area_m2 + m2
    return tuple(pixels.tolist()), None if ground is None else tuple(area_m2.tolist())


def _counts(mask: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    return np.array([np.count_nonzero(mask == k) for k in range(classes)])


def _areas(
    mask: NDArray[np.uint8], window: Window, ground: PixelAreas, classes: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Count pixels and square metres of the classes in a mask at ``window``.

    The mask is cut into pieces in which the pixel area hardly changes; if those were small, pixels are weighted singly.
    """
    sides = (window.row, window.height), (window.col, window.width)
    sample = ground.at(*(np.array([at + 0.5, at + size / 2, at + size - 0.5]) for at, size in sides))
    change = np.array([np.ptp(sample, axis).max() for axis in (0, 1)]) / (EVEN * sample.mean())
    pieces = np.minimum(np.ceil(np.maximum(change, 1)), mask.shape).astype(int)
    pixels, area_m2 = np.zeros(classes, np.int64), np.zeros(classes)
    if mask.size < LEAST_PIECE * pieces.prod():
        for value, m2 in zip(mask, _by_row(ground, window), strict=True):
            pixels += np.bincount(value, minlength=NODATA + 1)[:classes]
            area_m2 += np.bincount(value, m2, NODATA + 1)[:classes]
        return pixels, area_m2
    rows, cols = (np.linspace(0, size, n + 1).astype(int) for size, n in zip(mask.shape, pieces, strict=True))
    levels = ground.at(window.row + (rows[:-1] + rows[1:]) / 2, window.col + (cols[:-1] + cols[1:]) / 2)
    for (i, j), level in np.ndenumerate(levels):
        found = _counts(mask[rows[i] : rows[i + 1], cols[j] : cols[j + 1]], classes)
        pixels, area_m2 = pixels + found, area_m2 + found * level
    return pixels, area_m2


def _by_row(ground: PixelAreas, window: Window) -> Iterator[NDArray[np.float64]]:
    """Yield the pixel areas of a window row by row, because a window may be as large as a strip."""
    for row in range(window.row, window.row_end):
        yield ground.of(Window(row, window.col, 1, window.width))[0]


class Thumbnail:
    """Every n-th pixel of image and mask, for a picture at most ``longest`` pixels a side.

    Watches what is read and saves each part's share beside the part, so that a resumed run has all of them.
    """

    def __init__(self, grid: Grid, bands: int, dtype: str, longest: int = 1024) -> None:
        self._step = max(1, -(-max(grid.height, grid.width) // longest))
        shape = -(-grid.height // self._step), -(-grid.width // self._step)
        self._mask = np.full(shape, NODATA, np.uint8)
        self._image = np.zeros((bands, *shape), dtype)

    def watch(self, strip: Pixels) -> None:
        """Keep the strip's share of the image. Call before the mask of these rows can be finished."""
        at, first = self._share(strip.window)
        self._image[:, at[0], at[1]] = strip.image[:, first[0] :: self._step, first[1] :: self._step]

    def save(self, path: Path, area: Window, mask: NDArray[np.uint8]) -> PartFile:
        """Keep a part's share of the mask, and write its image and mask beside the part."""
        at, first = self._share(area)
        self._mask[at] = mask[first[0] :: self._step, first[1] :: self._step]
        with writing(path):
            with path.open("wb") as file:
                np.savez(file, self._image[:, at[0], at[1]], self._mask[at])
            return PartFile(PREVIEW, *describe(path))

    def load(self, path: Path, area: Window) -> None:
        """Load a part's share that an earlier run saved."""
        at, _ = self._share(area)
        with np.load(path) as arrays:
            self._image[:, at[0], at[1]], self._mask[at] = arrays["arr_0"], arrays["arr_1"]

    def picture(self) -> Picture:
        """Return the thinned image and mask."""
        from rsedge.infer.preview import Picture  # noqa: PLC0415 - Pillow is seldom needed

        return Picture(self._image, self._mask)

    def _share(self, area: Window) -> tuple[tuple[slice, slice], tuple[int, int]]:
        """Return the thumbnail pixels inside an area, and the offset of the first in the area."""
        first = -area.row % self._step, -area.col % self._step
        rows = slice((area.row + first[0]) // self._step, -(-area.row_end // self._step))
        cols = slice((area.col + first[1]) // self._step, -(-area.col_end // self._step))
        return (rows, cols), first
