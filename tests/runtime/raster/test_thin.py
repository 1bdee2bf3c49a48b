from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from rsedge import InputError
from rsedge.raster import RasterReader, thinned, thinned_rgb

Write = Callable[..., Path]


def test_labels_of_one_size_are_thinned_in_step_and_never_mixed(write_raster: Write) -> None:
    labels = np.repeat(np.arange(0, 250, 10, dtype=np.uint8), 40)[None, :, None].repeat(700, 2)
    seen = []
    with (
        RasterReader(write_raster(labels)) as one,
        RasterReader(write_raster(255 - labels, "other.tif")) as other,
    ):
        a, valid = thinned(one, 250, progress=seen.append)
        b, _ = thinned(other, 250)
    assert a.shape == (1, 250, 175)
    np.testing.assert_array_equal(a, 255 - b)
    np.testing.assert_array_equal(a[0, :, 0], np.repeat(np.arange(0, 250, 10), 10))
    assert valid.all()
    assert seen == [256, 512, 768, 1000]


def test_images_are_averaged_and_small_ones_are_left_as_they_are(
    write_raster: Write, noise: Callable
) -> None:
    pixels = noise(64, 96)
    with RasterReader(write_raster(pixels)) as reader:
        small, _ = thinned_rgb(reader, 48)
        same, _ = thinned_rgb(reader, 96)
    means = pixels.reshape(3, 32, 2, 48, 2).mean((2, 4))
    assert np.abs(small - means).max() <= 0.5 + 1e-6
    np.testing.assert_array_equal(same, pixels)


def test_what_holds_no_data_is_told(write_raster: Write) -> None:
    pixels = np.full((1, 40, 40), 7, np.float32)
    pixels[0, :20], pixels[0, 20:, :8] = -9999, np.nan
    with RasterReader(write_raster(pixels, nodata=-9999)) as reader:
        image, valid = thinned_rgb(reader, 10)
    assert image.shape == (1, 10, 10)
    assert not valid[:5].any()
    assert not valid[5:, :2].any()
    assert valid[5:, 2:].all()
    assert np.isfinite(image).all()
    assert (image[0, 5:, 2:] == 7).all()


def test_bands_are_taken_by_their_colours(write_raster: Write, noise: Callable) -> None:
    rgb = noise(20, 30)
    path = write_raster(np.concatenate([rgb[::-1], rgb[:1] // 2]))
    with rasterio.open(path, "r+") as dst:
        dst.colorinterp = (ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined)
    with RasterReader(path) as reader:
        np.testing.assert_array_equal(thinned_rgb(reader, 30)[0], rgb)
    with RasterReader(write_raster(rgb[:2])) as reader:
        np.testing.assert_array_equal(thinned_rgb(reader, 30)[0], rgb[:1])


def test_bands_of_different_dtypes_are_read_together(tmp_path: Path, write_raster: Write) -> None:
    a, b = (
        write_raster(np.full((1, 8, 8), 200, np.uint8), "a.tif"),
        write_raster(np.full((1, 8, 8), 4e4, np.float32), "b.tif"),
    )
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{i}"><SimpleSource><SourceFilename>{path}</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for i, (kind, path) in enumerate((("Byte", a), ("Float32", b), ("Byte", a)), 1)
    )
    vrt = tmp_path / "x.vrt"
    vrt.write_text(f'<VRTDataset rasterXSize="8" rasterYSize="8">{bands}</VRTDataset>')
    with RasterReader(vrt) as reader:
        pixels, _ = thinned_rgb(reader, 4)
    assert pixels[:, 0, 0].tolist() == [200, 4e4, 200]


def test_a_palette_is_shown_in_its_colours(write_raster: Write) -> None:
    path = write_raster(np.array([[[0, 1, 2, 9]]], np.uint8), photometric="palette")
    with rasterio.open(path, "r+") as dst:
        dst.write_colormap(1, {0: (255, 0, 0, 255), 1: (0, 255, 0, 255), 2: (1, 2, 3, 0)})
    with RasterReader(path) as reader:
        colors, valid = thinned_rgb(reader, 4)
    assert colors[:, 0, :2].T.tolist() == [[255, 0, 0], [0, 255, 0]]
    assert valid[0, :2].tolist() == [True, True]


def test_complex_numbers_have_no_picture(write_raster: Write) -> None:
    with (
        RasterReader(write_raster(np.ones((1, 4, 4), np.complex64))) as reader,
        pytest.raises(InputError, match="complex"),
    ):
        thinned_rgb(reader, 4)
