"""Bounds of GDAL's block cache, which by default takes 5 % of the machine's memory."""

from __future__ import annotations

import rasterio

LEAST_BYTES, MOST_BYTES = 8 << 20, 512 << 20


def bounded_cache(rows_of_blocks_bytes: int, *, most: int | None = MOST_BYTES) -> rasterio.Env:
    """Return a context in which GDAL caches two rows of blocks, to decode a block between two strips once.

    ``rows_of_blocks_bytes``: one row of blocks of every raster that is open. ``most``: upper limit in bytes,
    None for no limit. Use `exact_cache` if the need is known.
    """
    return exact_cache(2 * rows_of_blocks_bytes, most=most)


def exact_cache(needed_bytes: int, *, most: int | None = None) -> rasterio.Env:
    """Return a context in which GDAL caches ``needed_bytes``, at least 8 MiB, but no more than ``most``.

    ``needed_bytes``: the sum of `RasterReader.cache_bytes` and a writer's row of blocks.
    """
    wanted = max(LEAST_BYTES, needed_bytes)
    return rasterio.Env(GDAL_CACHEMAX=wanted if most is None else min(wanted, most))
