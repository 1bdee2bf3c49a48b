"""Label rasters read as class indices, whatever they store: indices, a palette or colours."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.errors import InputError
from rsedge.labels import LabelColors, pack_color
from rsedge.manifest import NODATA
from rsedge.raster import RasterReader
from rsedge.window import Window


class LabelReader:
    """A label raster opened for reading by window; not safe for two threads at once.

    Three bands hold colours. One band holds class indices, with 255 or its own nodata value where
    unlabelled; if it has a palette with the colours of the classes, the palette counts.

    Raises InputError when it cannot be opened.
    """

    def __init__(self, path: Path | str, colors: LabelColors, classes: int) -> None:
        self.raster = RasterReader(path)
        self._colors, self._classes = colors, classes
        self._palette = self._palette_indices()

    def __enter__(self) -> LabelReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.raster.__exit__(kind, error, trace)

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Class indices (h, w), NODATA where unlabelled.

        Raises InputError when the window holds values or colours that are no class.
        """
        pixels = self.raster.read_raw(window)
        if len(pixels) >= 3:
            return self._colors.encode(pixels[:3], self.raster.path, (window.row, window.col))
        labels = pixels[0]
        ignored = np.asarray(labels == self.raster.nodata)
        if self._palette is not None and labels.dtype == np.uint8:
            labels = self._palette[labels]
        return self._checked(labels, ignored | (labels == NODATA), window)

    def _palette_indices(self) -> NDArray[np.int64] | None:
        """Class index of every palette entry, -1 where it is none; None without a palette of classes."""
        palette = self.raster.colormap()
        if palette is None:
            return None
        colors = {value: pack_color((rgba[0], rgba[1], rgba[2])) for value, rgba in palette.items()}
        wanted = {color for color, index in self._colors.index.items() if index != NODATA}
        if not wanted <= set(colors.values()):
            return None
        table = np.full(256, -1)
        for value, color in colors.items():
            table[value] = self._colors.index.get(color, -1)
        # The sample's palettes (and ours) leave unlabelled values transparent black.
        if table[NODATA] == -1:
            table[NODATA] = NODATA
        return table

    def _checked(self, labels: NDArray[Any], ignored: NDArray[np.bool_], window: Window) -> NDArray[np.uint8]:
        outside = ~ignored & ((labels < 0) | (labels >= self._classes))
        if outside.any():
            rows, cols = np.nonzero(outside)
            values = ", ".join(f"{v:g}" for v in np.unique(labels[outside])[:5])
            raise InputError(
                f"{self.raster.path} holds label values {values} ({rows.size} px, first at row "
                f"{window.row + rows[0]}, column {window.col + cols[0]}); the classes are 0 to "
                f"{self._classes - 1}, {NODATA} is unlabelled"
            )
        return np.where(ignored, NODATA, labels).astype(np.uint8)
