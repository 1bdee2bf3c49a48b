"""Fixtures of several test modules."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # before numpy and torch: workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import settings
from rasterio.crs import CRS
from rasterio.transform import Affine

from rsedge import open_model
from rsedge.backends import Backend
from rsedge.backends.ort_module import TELEMETRY_OFF
from rsedge.cli import main
from rsedge.tiling.kernels import compiled
from toys import make_bundle, pointwise_graph, pointwise_manifest

os.environ.setdefault(TELEMETRY_OFF, "1")  # tests import onnxruntime themselves
# How long an example takes says more of the machine than of the code.
settings.register_profile("rsedge", deadline=None)
settings.load_profile("rsedge")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked ``fuzz`` take minutes, so they run only where they are asked for."""
    if "fuzz" in (config.getoption("-m") or ""):
        return
    for item in items:
        if item.get_closest_marker("fuzz"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with `-m fuzz`"))


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What `rsedge verify` measured on this machine must not change what tests pick. The compiled kernels stay."""
    compiled()
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


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


@pytest.fixture
def call_rsedge(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Runs ``rsedge ARGS`` in this process: (exit code, standard output, standard error)."""

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rsedge", *map(str, args)])
        before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return (code, *capsys.readouterr())

    return call
