"""Input of a bench: one tile, and a raster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.model.manifest import Manifest
from rsedge.tiling.window import Window
from rsedge_sample import SampleScene
from rsedge_sample.files import write_sample

SEED = 21
BLOCK = 16  # pixels between the support points of smooth noise


def example_tile(manifest: Manifest) -> tuple[NDArray[Any], str]:
    """Return a batch of one tile (1, bands, tile, tile) in the manifest's dtype, and its description.

    The tile is a sample scene if the model takes 8-bit RGB; else smooth noise of 0.5 to 1.5 times the training
    mean.
    """
    tile = manifest.tile
    if manifest.takes_rgb8:
        return SampleScene(tile, tile, SEED).render(Window(0, 0, tile, tile))[0][None], "sample scene"
    supports = np.random.default_rng(SEED).random((len(manifest.bands), *[tile // BLOCK + 2] * 2))
    at = np.arange(tile) / BLOCK
    index, part = at.astype(int), at % 1
    rows = supports[:, index] * (1 - part)[:, None] + supports[:, index + 1] * part[:, None]
    smooth = rows[:, :, index] * (1 - part) + rows[:, :, index + 1] * part
    pixels = np.array(manifest.fill)[:, None, None] * (0.5 + smooth)
    if manifest.dtype != "float32":
        pixels = pixels.clip(0, np.iinfo(manifest.dtype).max).round()
    return pixels.astype(manifest.dtype)[None], "smooth noise around the training mean"


def example_raster(folder: Path, side: int) -> Path:
    """Return the path of a sample scene of ``side`` px in ``folder``; draw the scene if it is missing."""
    path = folder / f"sample{side}.tif"
    if not path.exists():
        write_sample(path, side, side, seed=SEED)
    return path
