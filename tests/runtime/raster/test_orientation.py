"""EXIF orientation: the reader agrees with Pillow; labels and masks follow the stored pixels."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from rasterio.errors import NotGeoreferencedWarning

from labelled import pixels, save, save_tif
from rsedge import InputError, Options, open_model, segment
from rsedge.backends import Backend
from rsedge.raster import RasterReader
from rsedge.score.evaluation import evaluate
from toys import read, strongest

TAG = 274


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[TAG] = orientation
    return found


def photo(path: Path, array: np.ndarray, orientation: int) -> Path:
    """Write (3, h, w) or (h, w) with the tag, as Pillow does, without turning the pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.moveaxis(array, 0, 2) if array.ndim == 3 else array)
    how = {
        ".jpg": {"exif": exif(orientation), "quality": 95},
        ".png": {"exif": exif(orientation)},
        ".webp": {"exif": exif(orientation), "lossless": True},
        ".tif": {"tiffinfo": {TAG: orientation}},
    }
    image.save(path, **how[path.suffix])  # type: ignore[arg-type]
    return path


def orientation_of(path: Path) -> int:
    with RasterReader(path) as reader:
        return reader.orientation


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_pillow_writes_is_found(tmp_path: Path, suffix: str, orientation: int) -> None:
    assert orientation_of(photo(tmp_path / f"p{suffix}", pixels(24, 40), orientation)) == orientation


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_no_tag_and_a_senseless_one_turn_nothing(tmp_path: Path, suffix: str) -> None:
    assert orientation_of(photo(tmp_path / f"p{suffix}", pixels(24, 40), 9)) == 1
    plain = tmp_path / f"q{suffix}"
    Image.fromarray(np.moveaxis(pixels(24, 40), 0, 2)).save(plain)
    assert orientation_of(plain) == 1


def test_geotiffs_have_none(write_raster: Callable[..., Path]) -> None:
    assert orientation_of(write_raster(pixels(24, 40))) == 1
    assert orientation_of(write_raster(pixels(24, 40), "big.tif", BIGTIFF="YES")) == 1


def set_tiff_tag(path: Path, orientation: int) -> None:
    """Put the tag in place of another that GDAL does not need, for any byte order and size."""
    data = bytearray(path.read_bytes())
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    start = struct.unpack_from(f"{order}{'Q' if big else 'L'}", data, 8 if big else 4)[0]
    count = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, start)[0]
    first, step = start + (8 if big else 2), 20 if big else 12
    at = next(
        a
        for a in range(first, first + step * count, step)
        if struct.unpack_from(f"{order}H", data, a)[0] == 284
    )
    struct.pack_into(f"{order}HH{'Q' if big else 'L'}H", data, at, TAG, 3, 1, orientation)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "options", [{}, {"BIGTIFF": "YES"}, {"ENDIANNESS": "BIG"}, {"BIGTIFF": "YES", "ENDIANNESS": "BIG"}]
)
def test_tiffs_of_every_make(write_raster: Callable[..., Path], options: dict[str, str]) -> None:
    path = write_raster(pixels(24, 40), **options)
    set_tiff_tag(path, 6)
    assert orientation_of(path) == 6
    assert orientation_of(path.rename(path.with_suffix(".data"))) == 6  # known by content, not by name


def png_with(path: Path, chunk: bytes, *, behind: bool) -> Path:
    plain = io.BytesIO()
    Image.fromarray(np.moveaxis(pixels(24, 40), 0, 2)).save(plain, "PNG")
    data = plain.getvalue()
    whole = struct.pack(">L", len(chunk)) + b"eXIf" + chunk + struct.pack(">L", zlib.crc32(b"eXIf" + chunk))
    at = data.index(b"IEND" if behind else b"IDAT") - 4
    path.write_bytes(data[:at] + whole + data[at:])
    return path


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("order", ["II", "MM"])
def test_pngs_with_exif_before_or_behind_the_pixels(tmp_path: Path, behind: bool, order: str) -> None:
    code = "<" if order == "II" else ">"
    chunk = order.encode() + struct.pack(f"{code}HLHHHLHHL", 42, 8, 1, TAG, 3, 1, 8, 0, 0)
    assert orientation_of(png_with(tmp_path / "p.png", chunk, behind=behind)) == 8
    for length in range(len(chunk)):  # cut short, it says nothing
        assert orientation_of(png_with(tmp_path / "q.png", chunk[:length], behind=behind)) in {1, 8}


def test_exif_as_imagemagick_writes_it_into_text(tmp_path: Path) -> None:
    raw = b"Exif\0\0" + exif(7).tobytes().removeprefix(b"Exif\0\0")
    info = PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(raw):8}\n{raw.hex()}\n", zip=True)
    path = tmp_path / "p.png"
    Image.fromarray(np.moveaxis(pixels(24, 40), 0, 2)).save(path, pnginfo=info)
    with Image.open(path) as file:
        assert file.getexif()[TAG] == 7
    assert orientation_of(path) == 7


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_image_and_an_upright_mask_are_never_paired(
    model: Backend, tmp_path: Path, suffix: str, orientation: int
) -> None:
    image = photo(tmp_path / "images" / f"p{suffix}", pixels(40, 40), orientation)
    with Image.open(image) as file:
        upright = np.moveaxis(np.asarray(ImageOps.exif_transpose(file)), 2, 0)
    mask = save(tmp_path / "masks" / "p.png", strongest(upright))
    with pytest.raises(InputError, match=rf"has EXIF orientation {orientation} \(viewers show it"):
        evaluate(model, tmp_path)
    save(image.with_suffix(".png"), upright)
    if suffix != ".png":
        image.unlink()
    photo(mask, strongest(upright), orientation)
    with pytest.raises(InputError, match=r"masks/p\.png has EXIF orientation"):
        evaluate(model, tmp_path)


def test_one_tag_on_both_turns_both(model: Backend, tmp_path: Path) -> None:
    array = pixels(40, 56)
    photo(tmp_path / "images" / "p.png", array, 6)
    photo(tmp_path / "masks" / "p.png", strongest(array), 6)
    assert evaluate(model, tmp_path).confusion.oa == 1


def test_what_is_placed_on_the_earth_is_not_turned(model: Backend, tmp_path: Path) -> None:
    """No GIS applies the tag."""
    array = pixels(40, 56)
    set_tiff_tag(save_tif(tmp_path / "t.tif", array), 6)
    save_tif(tmp_path / "t_labels.tif", strongest(array)[None])
    assert evaluate(model, tmp_path).confusion.oa == 1


def test_infer_keeps_the_pixels_and_says_how_viewers_turn_them(bundle: Path, tmp_path: Path) -> None:
    array = pixels(30, 50)
    photo(tmp_path / "p.png", array, 6)
    with open_model(bundle) as model:
        result = segment(model, tmp_path / "p.png", tmp_path / "mask.tif", Options())
    with pytest.warns(NotGeoreferencedWarning):
        mask = read(tmp_path / "mask.tif")
    np.testing.assert_array_equal(mask, strongest(array))
    assert any("EXIF orientation 6" in note and "to the right" in note for note in result.notes)
    photo(tmp_path / "p.png", array, 1)
    with open_model(bundle) as model:
        result = segment(model, tmp_path / "p.png", tmp_path / "mask.tif", Options())
    assert not any("orientation" in note for note in result.notes)


def test_the_words_are_those_of_pillow(tmp_path: Path) -> None:
    """Orientation 6 is shown turned to the right, 8 to the left: a mark in the stored top left corner moves."""
    corner = np.zeros((4, 6), np.uint8)
    corner[0, 0] = 255
    ends = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    for orientation, place in ends.items():
        path = photo(tmp_path / "c.png", corner, orientation)
        with Image.open(path) as file:
            assert np.asarray(ImageOps.exif_transpose(file))[place] == 255


def test_metadata_that_gdal_copied_are_not_the_file_s_own(write_raster: Callable[..., Path]) -> None:
    """gdal_translate keeps a photo's EXIF_Orientation as text in a TIFF, which viewers ignore."""
    path = write_raster(pixels(24, 40))
    with rasterio.open(path, "r+") as dst:
        dst.update_tags(EXIF_Orientation="6")
    assert orientation_of(path) == 1


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_a_vrt_of_one_picture_is_turned_as_it_is(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (24, 20)).save(tmp_path / f"p.{suffix}", exif=exif)
    band = (
        '<VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename relativeToVRT="1">'
        f"p.{suffix}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
    )
    vrt = tmp_path / "p.vrt"
    vrt.write_text(f'<VRTDataset rasterXSize="24" rasterYSize="20">{band}</VRTDataset>')
    for name in (vrt, f"vrt://{tmp_path}/p.{suffix}?bands=1,2,3"):
        with RasterReader(name) as reader:
            assert reader.orientation == 6
