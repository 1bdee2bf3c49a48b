"""Small labelled rasters for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image
from rasterio.crs import CRS
from rasterio.transform import Affine

from rsedge.model.manifest import NODATA
from rsedge.score.labels import ClassTable


def pixels(height: int, width: int, seed: int = 0, bands: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 255, (bands, height, width)).astype(np.uint8)


def indices(height: int, width: int, classes: int, seed: int = 0) -> np.ndarray:
    """Random class indices in blocks of 8 pixels, every class among them."""
    coarse = np.random.default_rng(seed).permutation(np.arange(-(-height // 8) * -(-width // 8)) % classes)
    blocks = coarse.reshape(-(-height // 8), -(-width // 8)).astype(np.uint8)
    return np.kron(blocks, np.ones((8, 8), np.uint8))[:height, :width]


def paint(labels: np.ndarray, table: ClassTable, unlabelled: int = 0) -> np.ndarray:
    """Class indices (h, w) in the table's colours, (3, h, w)."""
    palette = np.zeros((256, 3), np.uint8)
    palette[NODATA] = [unlabelled >> 16, unlabelled >> 8 & 255, unlabelled & 255]
    palette[: len(table.classes)] = [c.color for c in table.classes]
    return palette[labels].transpose(2, 0, 1)


def save(path: Path, array: np.ndarray) -> Path:
    """(3, h, w) or (h, w) as PNG, JPEG or plain TIFF, by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.moveaxis(array, 0, 2) if array.ndim == 3 else array).save(path)
    return path


def save_palette(path: Path, values: np.ndarray, colors: Sequence[int]) -> Path:
    """One band of ``values`` with a palette of packed colours, as a PNG that holds no more than these."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.frombytes("P", values.shape[::-1], values.tobytes())
    image.putpalette([c >> s & 255 for c in colors for s in (16, 8, 0)])
    image.save(path)
    return path


def save_tif(
    path: Path, array: np.ndarray, east: float = 300000, gsd_m: float = 0.5, **profile: object
) -> Path:
    """(bands, h, w) as a GeoTIFF in UTM."""
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "driver": "GTiff",
        "count": len(array),
        "height": array.shape[1],
        "width": array.shape[2],
        "dtype": array.dtype.name,
        "crs": CRS.from_epsg(32633),
        "transform": Affine(gsd_m, 0, east, 0, -gsd_m, 5200000),
    }
    with rasterio.open(path, "w", **{**facts, **profile}) as dst:
        dst.write(array)
    return path


def scene_folder(
    root: Path, scenes: Sequence[str], table: ClassTable, parts: int = 2, side: int = 48
) -> None:
    """``root/SCENE/images/pN.png`` with painted masks; every raster another one."""
    for number, scene in enumerate(scenes):
        for part in range(parts):
            seed = 100 * number + part
            save(root / scene / "images" / f"p{part}.png", pixels(side, side, seed))
            labels = indices(side, side, len(table.classes), seed)
            save(root / scene / "masks" / f"p{part}.png", paint(labels, table))
