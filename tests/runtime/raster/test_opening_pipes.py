"""Pipes in place of metadata files, for which GDAL would wait for ever, in all rasters of the folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from rsedge.errors import InputError
from rsedge.raster.trust import Check, Trust

WAITED_FOR = (
    "a_RPC.TXT", "a_rpc.txt", "a.IMD", "a.RPB", "a.XML", "a.xml", "a_metadata.txt",
    "a_MTL.txt", "a.aux", "a.tif.aux", "a.rpc", "a_mtl.txt",
)  # fmt: skip


@pytest.fixture
def raster(tmp_path: Path) -> Path:
    path = tmp_path / "a.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=8, height=8, count=1, dtype="uint8", transform=Affine.scale(2)
    ) as out:
        out.write(np.ones((1, 8, 8), np.uint8))
    return path


@pytest.mark.parametrize("name", WAITED_FOR)
def test_a_pipe_where_gdal_looks_for_metadata_is_refused(raster: Path, name: str) -> None:
    os.mkfifo(raster.parent / name)
    with pytest.raises(InputError, match="pipe"):
        Check(str(raster), Trust(named=False)).before()


def test_a_link_to_a_device_is_refused_and_other_entries_are_not(raster: Path) -> None:
    os.mkfifo(raster.parent / "b.tif")  # an entry of its own
    os.mkfifo(raster.parent / "b_rpc.txt")  # another raster's
    (raster.parent / "a.xml").symlink_to("nowhere")
    (raster.parent / "a_RPC.TXT").write_text("")
    Check(str(raster), Trust(named=False)).before()
    (raster.parent / "a.imd").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="device"):
        Check(str(raster), Trust(named=False)).before()


@pytest.mark.parametrize("name", ["METADATA.DIM", "summary.txt", "LC8_MTL.txt", "scene_metadata.txt"])
def test_one_pipe_does_not_stop_all_rasters_of_a_folder(raster: Path, name: str) -> None:
    os.mkfifo(raster.parent / name)
    code = f"from rsedge.raster import RasterReader; RasterReader({str(raster)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    vrt = raster.with_name("all.vrt")  # its sources are opened with what lies beside them
    vrt.write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        '<SourceFilename relativeToVRT="1">a.tif</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>'
    )
    with pytest.raises(InputError, match="pipe"):
        Check(str(vrt), Trust()).before()
    raster.with_suffix(".tfw").write_text("1\n0\n0\n-1\n0\n0\n")  # which would not be seen
    with pytest.raises(InputError, match="pipe"):
        Check(str(raster), Trust(named=False)).before()


@pytest.mark.parametrize(
    ("image", "beside"),
    [
        ("scene_pan_001.tif", "scene_metadata.txt"),
        ("scene_rgb_001.tif", "scene_metadata.txt"),
        ("IMG_PHR1A_R1C1.TIF", "DIM_PHR1A.XML"),
        ("IMG_PHR1A_R1C1.TIF", "RPC_PHR1A.XML"),
    ],
)
def test_a_pipe_that_tells_of_several_images_is_not_waited_for(raster: Path, image: str, beside: str) -> None:
    alone = raster.rename(raster.with_name(image))
    os.mkfifo(raster.parent / beside)
    code = f"from rsedge.raster import RasterReader; RasterReader({str(alone)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_another_raster_whose_name_begins_alike_is_no_side_file(raster: Path) -> None:
    os.mkfifo(raster.parent / "METADATA.DIM")
    raster.with_name("ab.tif").write_bytes(raster.read_bytes())
    Check(str(raster), Trust(named=False)).before()
