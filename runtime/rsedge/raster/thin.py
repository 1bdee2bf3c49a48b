"""Rasters thinned to the size of a picture, in bounded memory; GDAL reads overviews if there are any."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from rasterio.enums import ColorInterp

from rsedge.errors import InputError
from rsedge.raster.cache import bounded_cache
from rsedge.raster.reader import RasterReader
from rsedge.raster.values import Pixels, Valid
from rsedge.tiling.window import Window

STRIP_ROWS = 64  # rows of the picture read at a time
RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
Report = Callable[[int], None]


def thinned(
    reader: RasterReader,
    longest: int,
    bands: Sequence[int] | None = None,
    smooth: bool = False,
    progress: Report | None = None,
) -> tuple[Pixels, Valid]:
    """Return the raster as stored, (bands, h, w) of at most ``longest`` pixels a side, and its valid pixels (h, w).

    Rasters of one size are thinned alike. ``bands``: 1-based, None: all. ``smooth``: means of pixels, else the
    nearest pixel, as labels need. ``progress`` is called with the raster's rows read so far.

    Raises InputError if the raster is damaged.
    """
    grid = reader.grid
    step = max(1, -(-max(grid.height, grid.width) // longest))
    indexes = tuple(range(1, len(reader.dtypes) + 1) if bands is None else bands)
    width, strips = -(-grid.width // step), list[tuple[Pixels, Valid]]()
    with bounded_cache(reader.row_of_blocks_bytes):
        for row in range(0, grid.height, STRIP_ROWS * step):
            window = Window(row, 0, min(STRIP_ROWS * step, grid.height - row), grid.width)
            strips.append(reader.read_thinned(window, (-(-window.height // step), width), indexes, smooth))
            if progress:
                progress(window.row_end)
    stored, valid = np.concatenate([s for s, _ in strips], 1), np.concatenate([v for _, v in strips])
    if stored.dtype.kind == "f":
        valid &= np.isfinite(stored).all(0)
        stored[:, ~valid] = 0
    return stored, valid


def thinned_rgb(reader: RasterReader, longest: int, progress: Report | None = None) -> tuple[Pixels, Valid]:
    """Return `thinned` pixels of the bands to show: red, green and blue if they are tagged, else the first three,
    else the first; for a palette its colours. Raises InputError for complex numbers."""
    kinds = reader.color_interp
    palette = reader.colormap() if kinds[0] == ColorInterp.palette else None
    if palette:
        stored, valid = thinned(reader, longest, (1,), progress=progress)
        table = np.zeros((max(palette) + 2, 4), np.uint8)  # the last row is for values not listed
        for value, color in palette.items():
            table[value] = (*color, 255)[:4]
        colors = np.take(table, stored[0], axis=0, mode="clip").transpose(2, 0, 1)
        return colors[:3], valid & (colors[3] > 0)
    if any(dtype.startswith("complex") for dtype in reader.dtypes):
        raise InputError(f"{reader.path} holds complex numbers, which cannot be drawn")
    usable = [i for i, kind in enumerate(kinds, 1) if kind != ColorInterp.alpha] or [1]
    chosen = (
        [kinds.index(c) + 1 for c in RGB] if set(RGB) <= set(kinds) else usable[: 3 if len(usable) > 2 else 1]
    )
    return thinned(reader, longest, chosen, smooth=True, progress=progress)
