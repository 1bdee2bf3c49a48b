from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from rsedge import InputError, Options, open_model, segment
from rsedge.infer.preview import Picture, draw
from toys import CLASSES, strongest


def test_the_picture_shows_image_and_mask_side_by_side(
    bundle: Path, write_raster: Callable[..., Path], noise: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    height, width = 90, 140
    pixels = noise(height, width)
    pixels[:, :20, :30] = 0
    with open_model(bundle) as model:
        segment(
            model, write_raster(pixels, nodata=0), tmp_path / "m.tif", Options(preview=tmp_path / "p.png")
        )
    sheet = np.asarray(Image.open(tmp_path / "p.png"))
    left, right = sheet[8 : 8 + height, 8 : 8 + width], sheet[8 : 8 + height, 16 + width : 16 + 2 * width]
    valid = (pixels != 0).any(0)
    np.testing.assert_array_equal(left[valid], pixels.transpose(1, 2, 0)[valid])
    colors = np.array([c.color for c in CLASSES], np.uint8)
    np.testing.assert_array_equal(right[valid], colors[strongest(pixels)[valid]])
    assert (right[~valid] == 255).all()
    assert sheet.shape[0] > height + 24  # the legend


def test_a_large_raster_is_thinned_in_step(
    bundle: Path, write_raster: Callable[..., Path], tmp_path: Path
) -> None:
    pixels = np.zeros((3, 1500, 2600), np.uint8)
    pixels[0, :700] = pixels[2, 700:] = 200
    with open_model(bundle) as model:
        segment(model, write_raster(pixels), tmp_path / "m.tif", Options(preview=tmp_path / "p.png"))
    sheet = np.asarray(Image.open(tmp_path / "p.png"))
    height, width = 500, 867  # every third pixel
    mask = sheet[8 : 8 + height, 16 + width : 16 + 2 * width]
    assert (mask[:233] == CLASSES[0].color).all()
    assert (mask[234:] == CLASSES[2].color).all()


def test_somebodys_picture_is_not_replaced_unasked(
    bundle: Path, write_raster: Callable[..., Path], noise: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    raster, picture = write_raster(noise(70, 70)), tmp_path / "p.png"
    Image.new("RGB", (4, 4)).save(picture)
    photo = picture.read_bytes()
    with open_model(bundle) as model:
        for content in (photo, b"years of work", b""):
            picture.write_bytes(content)
            with pytest.raises(InputError, match="p.png was not written by rsedge. .*--overwrite"):
                segment(model, raster, tmp_path / "m.tif", Options(preview=picture))
            assert picture.read_bytes() == content
        segment(model, raster, tmp_path / "m.tif", Options(preview=picture, overwrite=True))
        segment(model, raster, tmp_path / "m.tif", Options(preview=picture))  # its own
    with Image.open(picture) as sheet:
        assert sheet.text["Software"].startswith("rsedge ")


def test_a_name_that_cannot_be_drawn_is_drawn_escaped(tmp_path: Path) -> None:
    classes = [SimpleNamespace(name=name, color=(1, 2, 3)) for name in ("a\ud800", "b\nc", "\x1b")]
    pixels = np.zeros((3, 20, 20), np.uint8)
    draw(tmp_path / "p.png", Picture(pixels, pixels[0]), classes, [0.5, 0.5, 0.0])
    with Image.open(tmp_path / "p.png") as sheet:
        assert sheet.size[0] > 20
