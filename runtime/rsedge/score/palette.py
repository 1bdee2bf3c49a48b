"""Palettes of label rasters: their use as class colours, and hidden pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from rsedge.raster import RasterReader
from rsedge.score.labels import pack_color, unpack_color

BLACK = 0


def read_palette(raster: RasterReader) -> dict[int, int] | None:
    """Return the packed colour 0xRRGGBB of each value of a raster's first band; None if no palette is of use.

    A palette is of no use if its greys equal their values, or if its several entries are all black.
    """
    if len(raster.dtypes) >= 3 or raster.dtypes[0] not in {"uint8", "uint16"}:
        return None
    listed = raster.colormap()
    if not listed:
        return None
    palette = {value: pack_color((c[0], c[1], c[2])) for value, c in listed.items()}
    is_lost = len(palette) > 1 and set(palette.values()) == {BLACK}
    is_plain = all(color == (value & 255) * 0x010101 for value, color in palette.items())
    return None if is_lost or (is_plain and len(palette) > 1) else palette


def implied_greys(raster: RasterReader) -> dict[int, int]:
    """Return the packed colour of each value of greys of 1, 2 or 4 bits without a palette; empty for others.

    PNG defines them as even steps from black to white. GDAL reads the steps' numbers and gives only TIFFs of one bit
    a palette.
    """
    bits = raster.stored_bits[0]
    if len(raster.dtypes) > 1 or bits not in {1, 2, 4} or raster.color_interp[0] != ColorInterp.gray:
        return {}
    most = 2**bits - 1
    return {value: value * 255 // most * 0x010101 for value in range(most + 1)}


def choose_palette(palette: Mapping[int, int], meaning: Mapping[int, int], nothing: int) -> bool:
    """Return True if values should be looked up by their palette colours.

    ``meaning``: class index by packed colour, ``nothing`` for unlabelled. The palette is used if it has the colours
    of all classes, or if most of its colours are known (a PNG lists only those that occur), or all of them although
    none is a class.
    """
    wanted = {color for color, index in meaning.items() if index != nothing}
    present = set(palette.values())
    if len(palette) > 1:
        present -= {BLACK} - wanted  # GDAL fills palettes with black
    known = present & set(meaning)
    return wanted <= present or known == present or bool(known & wanted and 2 * len(known) > len(present))


def is_ramp(palette: Mapping[int, int]) -> bool:
    """Return True for evenly spaced greys up from black, which programs assign to values without colours."""
    colors = np.array([unpack_color(palette.get(v, BLACK)) for v in range(max(palette) + 1)])
    last = int(np.flatnonzero(colors.any(1)).max(initial=0))  # the rest is padding
    colors = colors[: last + 1]
    even = np.linspace(0, colors[-1, 0], last + 1)
    return last > 0 and bool((np.abs(colors - even[:, None]) <= 1).all())


def palette_table(palette: Mapping[int, int], dtype: str) -> NDArray[np.uint32]:
    """Return the packed colour of every value of a ``dtype`` band, black if the palette lacks it."""
    table = np.full(int(np.iinfo(dtype).max) + 1, BLACK, np.uint32)
    for value, color in palette.items():
        table[value] = color
    return table


def find_hidden(
    raster: RasterReader, pixels: NDArray[Any], shown: NDArray[np.bool_] | None
) -> NDArray[np.bool_] | None:
    """Return a mask (h, w) of transparent or masked-out ``pixels`` (bands, h, w); None if there can be none.

    ``shown``: where the raster's mask, if any, has data. Alpha comes from a band tagged so, or from the palette.
    """
    hidden = None if shown is None or not raster.has_mask else ~shown
    alphas = [pixels[i] == 0 for i, kind in enumerate(raster.color_interp) if kind == ColorInterp.alpha and i]
    palette = (raster.colormap() or {}) if ColorInterp.palette == raster.color_interp[0] else {}
    if clear := [value for value, color in palette.items() if len(color) > 3 and color[3] == 0]:
        alphas.append(np.isin(pixels[0], clear))
    for transparent in alphas:
        hidden = transparent if hidden is None else hidden | transparent
    return hidden
