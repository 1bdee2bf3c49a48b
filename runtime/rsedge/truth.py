"""Label rasters read as class indices, whatever they store: indices, a palette or colours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.errors import InputError
from rsedge.labels import LabelColors, describe_colors, pack, pack_color
from rsedge.manifest import NODATA
from rsedge.raster import RasterReader
from rsedge.raster.values import is_nodata, stored_nodata
from rsedge.window import Window


@dataclass(frozen=True)
class Decoded:
    """What a window of a label raster says, each (h, w)."""

    labels: NDArray[np.uint8]  # class indices, NODATA where unlabelled or unknown
    stored: NDArray[Any]  # packed colours 0xRRGGBB, or the values themselves
    unknown: NDArray[np.bool_]  # colours or values that are no class


class LabelReader:
    """A label raster opened for reading by window; not safe for two threads at once.

    Three bands hold colours. One band holds class indices, with 255 or its own nodata value where
    unlabelled. A palette counts as colours where it has those of all classes, or where most of its
    colours are known: a palette PNG holds only the colours that occur in it.

    Raises InputError when it cannot be opened.
    """

    def __init__(self, path: Path | str, colors: LabelColors, classes: int) -> None:
        self.raster = RasterReader(path)
        self._colors, self._classes = colors, classes
        self._palette = self._palette_colors()

    @property
    def holds_colors(self) -> bool:
        """Whether pixels are looked up by colour; else they are class indices."""
        return len(self.raster.dtypes) >= 3 or self._palette is not None

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
        decoded = self.decode(window)
        if decoded.unknown.any():
            raise InputError(self._complaint(decoded, window))
        return decoded.labels

    def decode(self, window: Window) -> Decoded:
        """What the window says, unknown values included; see ``read``."""
        return self.interpret(self.raster.read_raw(window))

    def interpret(self, pixels: NDArray[Any]) -> Decoded:
        """What stored pixels of this raster say, (bands, h, w), however they were read."""
        if len(pixels) >= 3:
            packed = pack(pixels[:3])
            labels, unknown = self._colors.lookup(packed)
            return Decoded(labels, packed, unknown)
        values = pixels[0]
        ignored = np.isnan(values)
        if (nodata := stored_nodata(self.raster.nodata, values.dtype.name)) is not None:
            ignored |= is_nodata(values, nodata)
        if self._palette is not None:
            packed = self._palette[values]
            labels, unknown = self._colors.lookup(packed)
            labels[ignored] = NODATA
            return Decoded(labels, packed, unknown & ~ignored & (values != NODATA))
        ignored |= values == NODATA
        known = (values >= 0) & (values < self._classes) & (values == np.floor(values))
        labels = np.where(known & ~ignored, values, NODATA).astype(np.uint8)
        return Decoded(labels, values, ~known & ~ignored)

    def _palette_colors(self) -> NDArray[np.uint32] | None:
        """Packed colour of each of 256 values; None without a palette that shows the classes."""
        palette = self.raster.colormap() if self.raster.dtypes == ("uint8",) else None
        if palette is None:
            return None
        table = np.zeros(256, np.uint32)
        for value, rgba in palette.items():
            table[value] = pack_color((rgba[0], rgba[1], rgba[2]))
        wanted = {color for color, index in self._colors.index.items() if index != NODATA}
        present = {int(color) for color in table} - ({0} - wanted)  # GDAL fills palettes up with black
        known = present & set(self._colors.index)
        return table if wanted <= present or (known & wanted and 2 * len(known) > len(present)) else None

    def _complaint(self, decoded: Decoded, window: Window) -> str:
        origin = (window.row, window.col)
        if self.holds_colors:
            return (
                f"{self.raster.path}: {describe_colors(decoded.stored, decoded.unknown, origin)}; name them "
                "in a class table (--classes FILE), under [classes] or ignore"
            )
        rows, cols = np.nonzero(decoded.unknown)
        values = ", ".join(f"{v:g}" for v in np.unique(decoded.stored[decoded.unknown])[:5])
        return (
            f"{self.raster.path} holds label values {values} ({rows.size} px, first at row "
            f"{window.row + rows[0]}, column {window.col + cols[0]}); the classes are 0 to "
            f"{self._classes - 1}, {NODATA} is unlabelled"
        )
