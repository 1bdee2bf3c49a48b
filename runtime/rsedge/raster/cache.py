"""GDAL's block cache, bounded. Left alone it takes 5 % of the machine's memory."""

from __future__ import annotations

import rasterio

LEAST_BYTES, MOST_BYTES = 8 << 20, 512 << 20


def bounded_cache(rows_of_blocks_bytes: int, *, most: int | None = MOST_BYTES) -> rasterio.Env:
    """A context in which GDAL caches two rows of blocks, so that a block between two strips is decoded once.

    ``rows_of_blocks_bytes``: one row of blocks of every raster that is open. ``most``: never more bytes than
    these; None for no cap. See `exact_cache` where the need is known.
    """
    return exact_cache(2 * rows_of_blocks_bytes, most=most)


def exact_cache(needed_bytes: int, *, most: int | None = None) -> rasterio.Env:
    """A context in which GDAL caches ``needed_bytes``, or a floor of 8 MiB, or ``most`` where it is less.

    ``needed_bytes``: the sum of `RasterReader.cache_bytes` and of a writer's row of blocks.
    """
    wanted = max(LEAST_BYTES, needed_bytes)
    return rasterio.Env(GDAL_CACHEMAX=wanted if most is None else min(wanted, most))
