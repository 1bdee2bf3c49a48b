"""Procedural aerial scenes with exact labels, for tests, benchmarks and training.

A scene depends only on its seed and the position in metres. Any window shows the same pixels as the whole scene, so
scenes of any size are written strip by strip.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rsedge.errors import InputError
from rsedge.tiling.window import Window
from rsedge_sample._materials import Palette
from rsedge_sample._noise import Frame
from rsedge_sample._paint import render
from rsedge_sample._town import Town

CLASSES = ("building", "land", "road", "vegetation", "water")
"""Names of the label values 0..4."""

_TILE = 512  # pixels; the working set of a tile fits the cache and bounds the memory


@dataclass(frozen=True)
class SampleScene:
    """A town seen from above, ``height`` x ``width`` pixels of ``gsd_m`` metres.

    ``seed`` (any integer) selects the town and the look of the sensor. Positions are in metres from the upper left
    corner, so the same seed with another ``gsd_m`` is the same town at another resolution. The classes are those of
    ``CLASSES``.

    Raises InputError if a side is not a positive integer, the seed is not an integer, or ``gsd_m`` is not in 0.1 .. 5.
    """

    width: int
    height: int
    seed: int = 0
    gsd_m: float = 0.5

    def __post_init__(self) -> None:
        for name in ("width", "height", "seed"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise InputError(f"the {name} of a sample scene must be an integer, not {value!r}")
        if self.width < 1 or self.height < 1:
            raise InputError(f"a sample scene needs at least one pixel, not {self.width} x {self.height}")
        number = isinstance(self.gsd_m, (int, float, np.number)) and not isinstance(self.gsd_m, bool)
        if not number or not 0.1 <= self.gsd_m <= 5.0:
            raise InputError(f"the GSD of a sample scene must be 0.1 to 5 metres per pixel, not {self.gsd_m}")

    @cached_property
    def _town(self) -> Town:
        return Town(int(self.seed))

    @cached_property
    def _palette(self) -> Palette:
        return Palette(self._town)

    def render(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Render the image (3, h, w), RGB, and labels (h, w), indices into ``CLASSES``, of a window; both uint8.

        Any window gives the same bytes as a crop of the whole scene. Memory and time grow with the window's area.
        Raises InputError if the window exceeds the scene.
        """
        if window.row_end > self.height or window.col_end > self.width:
            raise InputError(
                f"the window ({window}) exceeds the scene of {self.height} rows and {self.width} columns"
            )
        image = np.empty((3, window.height, window.width), np.uint8)
        labels = np.empty((window.height, window.width), np.uint8)
        for row in range(0, window.height, _TILE):
            for col in range(0, window.width, _TILE):
                rows = slice(row, min(row + _TILE, window.height))
                cols = slice(col, min(col + _TILE, window.width))
                # The sensor's blur reads one more pixel on each side.
                frame = Frame(
                    window.row + row - 1, window.col + col - 1,
                    rows.stop - row + 2, cols.stop - col + 2, float(self.gsd_m),
                )  # fmt: skip
                image[:, rows, cols], labels[rows, cols] = render(self._town, self._palette, frame)
        return image, labels
