"""Fixtures of several test modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import Affine

from rsedge import open_model
from rsedge.backends import Backend
from toys import make_bundle, pointwise_graph, pointwise_manifest


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose mask is each pixel's strongest band; tile 64."""
    manifest = pointwise_manifest()
    return make_bundle(
        tmp_path_factory.mktemp("models") / "strongest.rsedge", manifest, pointwise_graph(manifest)
    )


@pytest.fixture(scope="session")
def model(bundle: Path) -> Iterator[Backend]:
    """That bundle, opened."""
    with open_model(bundle, threads=1) as backend:
        yield backend


@pytest.fixture
def write_raster(tmp_path: Path) -> Callable[..., Path]:
    """Writes (bands, h, w) as a GeoTIFF; keyword arguments go to rasterio."""

    def write(pixels: np.ndarray, name: str = "raster.tif", **profile: object) -> Path:
        path = tmp_path / name
        facts = {
            "driver": "GTiff",
            "count": len(pixels),
            "height": pixels.shape[1],
            "width": pixels.shape[2],
            "dtype": pixels.dtype.name,
            "crs": CRS.from_epsg(32631),
            "transform": Affine(0.5, 0, 500000, 0, -0.5, 5400000),
        }
        with rasterio.open(path, "w", **{**facts, **profile}) as dst:
            dst.write(pixels)
        return path

    return write


@pytest.fixture
def noise() -> Callable[..., np.ndarray]:
    """Random uint8 pixels (3, h, w) without ties for the strongest band and without zeros."""

    def make(height: int, width: int, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        base = rng.integers(1, 84, (3, height, width)) * 3
        return (base + np.arange(3)[:, None, None]).astype(np.uint8)

    return make
