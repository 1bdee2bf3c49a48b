"""Decoders that hold more than GDAL's blocks: the bound against measured memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.shutil import copy

from rsedge.machine import STATUS
from rsedge.raster import RasterReader
from rsedge.raster.buffers import _jpeg2000_tile, decoder_bytes, decodes_from_start

Write = Callable[..., Path]
JPEG2000 = {"QUALITY": "100", "REVERSIBLE": "YES", "YCC": "NO", "YCBCR420": "NO"}
MIB = 1 << 20
# What reading every strip takes beside what was there, and what was promised of it.
READING = """
import sys
import numpy as np
from rsedge.machine import begin_peak, peak_rss_bytes, rss_bytes, return_large_arrays
from rsedge.raster import BandPlan, RasterReader, exact_cache
from rsedge.raster.cache import LEAST_BYTES
from rsedge.tiling.window import Window
return_large_arrays()
with RasterReader(sys.argv[1]) as reader:
    plan = BandPlan(tuple(range(1, len(reader.dtypes) + 1)), reader.dtypes[0])
    area = Window(0, 0, reader.grid.height, reader.grid.width)
    held = reader.cache_bytes(area, plan)
    strips = reader.row_strips(area)
    image = np.ones((plan.outputs, strips[0].height, area.width), plan.dtype)
    valid = np.ones((strips[0].height, area.width), bool)
    promised = reader.extra_bytes(area, plan) + max(LEAST_BYTES, held) + LEAST_BYTES
    before = rss_bytes()
    begin_peak()
    with exact_cache(held):
        for strip in strips:
            part = np.empty((plan.outputs, strip.height, area.width), plan.dtype)
            reader.read_into(strip, plan, part, valid[:strip.height])
    print(peak_rss_bytes() - before, promised + part.nbytes + image.nbytes)
"""
FORMATS = [
    ("one_tile.jp2", 8, {"driver": "JP2OpenJPEG", "blockxsize": 4096, "blockysize": 4096, **JPEG2000}),
    ("large_tiles.jp2", 8, {"driver": "JP2OpenJPEG", "blockxsize": 1100, "blockysize": 1100, **JPEG2000}),
    ("whole.webp", 3, {"driver": "WEBP", "LOSSLESS": "YES"}),
    ("strip.tif", 3, {"driver": "GTiff", "compress": "WEBP", "WEBP_LOSSLESS": "YES", "blockysize": 2200}),
    (
        "tile.tif",
        3,
        {"driver": "GTiff", "compress": "LERC", "tiled": True, "blockxsize": 2048, "blockysize": 2048},
    ),
    ("page.mrf", 3, {"driver": "MRF", "BLOCKSIZE": 2048}),
]


def make(path: Path, bands: int, profile: dict[str, object], write_raster: Write, side: int) -> Path:
    with rasterio.Env() as env:
        if profile["driver"] not in env.drivers():
            pytest.skip(f"this GDAL has no {profile['driver']}")
    small = np.random.default_rng(1).integers(0, 200, (bands, side // 20 + 1, side // 20 + 1), np.uint8)
    pixels = np.kron(small, np.ones((20, 20), np.uint8))[:, :side, :side]
    pixels += np.random.default_rng(2).integers(0, 9, pixels.shape, np.uint8)
    options = {key: str(value) for key, value in profile.items()}
    source = write_raster(pixels, "source.tif", photometric="minisblack" if bands > 3 else "RGB")
    copy(source, path, **options)
    source.unlink()
    return path


@pytest.mark.skipif(not STATUS.exists(), reason="the system does not tell how much memory a process has")
@pytest.mark.parametrize(
    ("name", "bands", "profile"),
    [pytest.param(*f, id=f[0], marks=pytest.mark.slow if f[0] == "one_tile.jp2" else ()) for f in FORMATS],
)
def test_a_decoder_takes_no_more_than_was_promised(
    tmp_path: Path, write_raster: Write, name: str, bands: int, profile: dict[str, object]
) -> None:
    path = make(tmp_path / name, bands, profile, write_raster, side=2200)
    done = subprocess.run([sys.executable, "-c", READING, path], capture_output=True, text=True, check=True)
    taken, promised = map(int, done.stdout.split())
    assert taken <= promised * 1.1 + 12 * MIB  # what a plan adds is twice that


@pytest.mark.parametrize(
    ("side", "asked", "tile"), [(300, 128, (128, 128)), (300, 4096, (300, 300)), (1300, 2048, (1300, 1300))]
)
def test_the_true_tile_of_a_jpeg_2000_is_found(
    tmp_path: Path, write_raster: Write, side: int, asked: int, tile: tuple[int, int]
) -> None:
    profile = {"driver": "JP2OpenJPEG", "blockxsize": asked, "blockysize": asked}
    path = make(tmp_path / "a.jp2", 3, profile, write_raster, side)
    found = _jpeg2000_tile(str(path))
    assert found is not None
    assert (min(found[0], side), min(found[1], side)) == tile
    with rasterio.open(path) as src:
        assert decoder_bytes(src) >= 4 * 3 * min(tile[0], 1024) * min(tile[1], 1024)
    with RasterReader(path) as reader:
        assert not reader.decodes_from_start


def test_a_file_that_says_nothing_of_its_tiles_is_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "a.jp2").write_bytes(b"\xff\x4f\xff\x51\0\0")
    assert _jpeg2000_tile(str(tmp_path / "a.jp2")) is None
    assert _jpeg2000_tile(str(tmp_path / "not there.jp2")) is None


@pytest.mark.parametrize(
    ("profile", "from_start"),
    [
        ({}, False),
        ({"blockysize": 2100}, False),
        ({"compress": "deflate"}, False),
        ({"compress": "deflate", "blockysize": 2100}, True),
        ({"tiled": True, "compress": "deflate"}, False),
    ],
)
def test_what_decodes_from_the_start_is_known(
    write_raster: Write, profile: dict[str, object], from_start: bool
) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (3, 2100, 400), np.uint8)
    with rasterio.open(write_raster(pixels, **profile)) as src:
        assert decodes_from_start(src) is from_start
