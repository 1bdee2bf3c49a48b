"""What becomes of finished strips: a file, counts, a picture, a score."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rsedge.engine import Strip
from rsedge.manifest import NODATA
from rsedge.metrics import Confusion
from rsedge.preview import Picture
from rsedge.raster import Grid, RasterWriter
from rsedge.truth import LabelReader
from rsedge.window import Window


class MaskSink:
    """Writes the mask."""

    def __init__(self, writer: RasterWriter) -> None:
        self._writer = writer

    def take(self, strip: Strip) -> None:
        """Append the strip's rows."""
        self._writer.write(strip.mask[None])


class AreaSink:
    """Counts pixels and square metres of every class."""

    def __init__(self, grid: Grid, classes: int) -> None:
        self._row_area_m2 = grid.row_area_m2()
        self.pixels = np.zeros(classes, np.int64)
        self._area_m2 = np.zeros(classes)

    def take(self, strip: Strip) -> None:
        """Count the strip row by row: a pixel's area may change with latitude."""
        for offset, row in enumerate(strip.mask):
            counts = np.bincount(row, minlength=NODATA + 1)[: len(self.pixels)]
            self.pixels += counts
            if self._row_area_m2 is not None:
                self._area_m2 += counts * self._row_area_m2[strip.row + offset]

    @property
    def area_m2(self) -> NDArray[np.float64] | None:
        """Area of every class; None where the grid has no known area."""
        return None if self._row_area_m2 is None else self._area_m2


class PreviewSink:
    """Keeps every n-th pixel of image and mask for a picture at most ``longest`` pixels a side."""

    def __init__(self, grid: Grid, bands: int, dtype: str, longest: int = 1024) -> None:
        self._step = max(1, -(-max(grid.height, grid.width) // longest))
        shape = -(-grid.height // self._step), -(-grid.width // self._step)
        self._mask = np.full(shape, NODATA, np.uint8)
        self._image = np.zeros((bands, *shape), dtype)

    def take(self, strip: Strip) -> None:
        """Take the strip's share of the sampled rows."""
        first = -strip.row % self._step
        mask = strip.mask[first :: self._step, :: self._step]
        top = (strip.row + first) // self._step
        self._mask[top : top + len(mask)] = mask
        self._image[:, top : top + len(mask)] = strip.image[:, first :: self._step, :: self._step]

    def picture(self) -> Picture:
        """What was kept."""
        return Picture(self._image, self._mask)


class ScoreSink:
    """Compares the mask with the truth as it comes."""

    def __init__(self, truth: LabelReader, width: int, classes: int) -> None:
        self._truth, self._width, self._classes = truth, width, classes
        self.confusion = Confusion(np.zeros((classes, classes), np.int64))

    def take(self, strip: Strip) -> None:
        """Add the strip's confusion."""
        truth = self._truth.read(Window(strip.row, 0, len(strip.mask), self._width))
        self.confusion += Confusion.of(truth, strip.mask, self._classes)
