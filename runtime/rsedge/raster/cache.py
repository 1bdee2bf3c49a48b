"""GDAL's block cache, bounded. Left alone it takes 5 % of the machine's memory."""

from __future__ import annotations

import rasterio

LEAST_BYTES, MOST_BYTES = 32 << 20, 512 << 20


def bounded_cache(rows_of_blocks_bytes: int) -> rasterio.Env:
    """A context in which GDAL caches two rows of blocks, so that a block between two strips is decoded once.

    ``rows_of_blocks_bytes``: one row of blocks of every raster that is open.
    """
    wanted = max(LEAST_BYTES, min(2 * rows_of_blocks_bytes, MOST_BYTES))
    return rasterio.Env(GDAL_CACHEMAX=wanted)
