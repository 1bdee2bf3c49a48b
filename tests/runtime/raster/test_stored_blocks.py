"""Blocks copied as stored, against GDAL's own copy and GDAL's word on where blocks lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from rsedge.raster import parts as module
from rsedge.raster import stored_blocks
from rsedge.raster.grid import Grid, unreferenced_allowed
from rsedge.raster.parts import Finish, Layer, assemble, part_areas, write_part
from rsedge.raster.stored_blocks import Placed, fits, read_levels
from rsedge.tiling.window import Window

FORMATS = ("gtiff", "cog")


def put(folder: Path, bands: int, height: int, width: int) -> list[tuple[Window, Path, object]]:
    pixels = np.random.default_rng(1).integers(0, 9, (bands, height, width), np.uint8).repeat(1, 0)
    pixels[:, : height // 2] = 3
    placed = []
    for area in part_areas(Window(0, 0, height, width)):
        path = folder / f"{area.row}.tif"
        placed.append((area, path, write_part(path, "mask", pixels[:, area.row : area.row_end])))
    return placed


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("bands", "height", "width"), [(1, 1300, 1100), (3, 700, 2000), (1, 100, 90), (1, 2100, 4200)]
)
def test_the_file_is_byte_for_byte_the_one_that_gdal_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, bands: int, height: int, width: int
) -> None:
    monkeypatch.setattr(module, "PART_PIXELS", 512 * 2000)
    parts, layer, grid = put(tmp_path, bands, height, width), Layer("mask", bands), Grid(height, width)
    ours, gdal = tmp_path / "ours.tif", tmp_path / "gdal.tif"
    assemble(ours, grid, layer, parts, Finish(format, "zstd", {"A": "b"}))
    assert b"GDAL" in ours.read_bytes()[:40] or format == "gtiff"
    monkeypatch.setattr(module, "_joined", lambda *_: False)
    assemble(gdal, grid, layer, parts, Finish(format, "zstd", {"A": "b"}))
    with unreferenced_allowed(), rasterio.open(ours) as a, rasterio.open(gdal) as b:
        np.testing.assert_array_equal(a.read(), b.read())
        assert a.overviews(1) == b.overviews(1)
    assert ours.read_bytes() == gdal.read_bytes()


@pytest.mark.parametrize("big", ["YES", "NO"])
def test_blocks_lie_where_gdal_says(tmp_path: Path, big: str) -> None:
    path = tmp_path / "a.tif"
    profile = {
        "driver": "GTiff",
        "count": 1,
        "dtype": "uint8",
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 512,
        "compress": "zstd",
    }
    with (
        unreferenced_allowed(),
        rasterio.open(path, "w", height=1100, width=700, bigtiff=big, **profile) as dst,
    ):
        dst.write(np.random.default_rng(2).integers(0, 255, (1, 1100, 700), np.uint8))
    (level,) = read_levels(path)
    assert (level.size, level.block, level.offsets.shape) == ((1100, 700), (512, 256), (3, 3))
    with unreferenced_allowed(), rasterio.open(path) as src:
        for (row, col), at in np.ndenumerate(level.offsets):
            facts = [
                src.get_tag_item(f"BLOCK_{what}_{col}_{row}", "TIFF", bidx=1) for what in ("OFFSET", "SIZE")
            ]
            assert facts == [str(at), str(level.counts[row, col])]


def test_only_blocks_alike_that_cover_the_target_once_fit(tmp_path: Path) -> None:
    files = {}
    for name, compress, width in (("a", "zstd", 1024), ("b", "zstd", 512), ("c", "deflate", 512)):
        files[name] = tmp_path / name
        with module.create(files[name], Grid(512, width), {"count": 1, "compress": compress}) as dst:
            dst.write(np.ones((1, 512, width), np.uint8))
    (target,), (half,), (other,) = (read_levels(files[name]) for name in "abc")
    whole = [Placed(half), Placed(half, 0, 1)]
    assert fits([target], [whole])
    for wrong in (
        [Placed(half)],
        [*whole, Placed(half)],
        [Placed(half), Placed(other, 0, 1)],
        [Placed(half, 1)],
    ):
        assert not fits([target], [wrong])
    assert not fits([target, target], [whole])


def test_another_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"MM\x00\x2a" + bytes(100))
    with pytest.raises(ValueError, match="little-endian"):
        read_levels(path)


def test_a_part_that_ends_early_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((_, path, _),) = put(tmp_path, 1, 600, 600)
    levels = stored_blocks.read_levels(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(OSError, match="ends before its blocks do"):
        list(stored_blocks._in_rows(levels[0], [Placed(levels[0])]))
