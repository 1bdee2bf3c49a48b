from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from labelled import indices, paint, save, save_palette, save_tif
from rsedge.errors import InputError
from rsedge.labels import ClassTable, LabelColors
from rsedge.manifest import NODATA, ClassInfo
from rsedge.truth import LabelReader
from rsedge.window import Window

TABLE = ClassTable(
    (ClassInfo("a", (60, 16, 152)), ClassInfo("b", (132, 41, 246)), ClassInfo("c", (110, 193, 228))),
    (0x9B9B9B,),
)
A, B, C, UNLABELLED = 0x3C1098, 0x8429F6, 0x6EC1E4, 0x9B9B9B


def read(path: Path, table: ClassTable = TABLE, window: Window | None = None) -> np.ndarray:
    with LabelReader(path, table.colors, len(table.classes)) as reader:
        grid = reader.raster.grid
        return reader.read(window or Window(0, 0, grid.height, grid.width))


def test_colours_and_indices_say_the_same(tmp_path: Path) -> None:
    labels = indices(40, 56, 3)
    labels[3:9, 5:20] = NODATA
    painted = save(tmp_path / "colours.png", paint(labels, TABLE, UNLABELLED))
    plain = save(tmp_path / "indices.png", labels)
    for path in (painted, plain):
        np.testing.assert_array_equal(read(path), labels)
        np.testing.assert_array_equal(read(path, window=Window(2, 4, 11, 13)), labels[2:13, 4:17])


@pytest.mark.parametrize("colors", [(B, C, A), (B, C), (C, UNLABELLED, A), (B, 0x123456, A, C)])
def test_a_palette_counts_also_when_it_lacks_classes(tmp_path: Path, colors: tuple[int, ...]) -> None:
    """A PNG's palette holds the colours that occur, in any order; Pillow says which they are."""
    used = [v for v, c in enumerate(colors) if c != 0x123456]
    values = np.random.default_rng(0).choice(used, (20, 30)).astype(np.uint8)
    path = save_palette(tmp_path / "mask.png", values, colors)
    with Image.open(path) as file:
        rgb = np.asarray(file.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(read(path), TABLE.colors.encode(rgb, "by Pillow"))


def test_a_palette_of_other_colours_leaves_indices_as_they_are(tmp_path: Path) -> None:
    values = indices(20, 30, 3)
    ramp = [v * 0x010101 for v in range(256)]
    np.testing.assert_array_equal(read(save_palette(tmp_path / "m.png", values, ramp)), values)


def test_an_unknown_palette_colour_is_named_where_it_occurs(tmp_path: Path) -> None:
    values = np.zeros((6, 7), np.uint8)
    values[4, 5] = 2
    path = save_palette(tmp_path / "mask.png", values, (A, B, 0x010203, C))
    with pytest.raises(InputError, match=r"#010203 \(1 px, first at row 4, column 5\)"):
        read(path)


def test_a_geotiff_palette_with_nodata(tmp_path: Path) -> None:
    import rasterio

    labels = indices(16, 16, 3)
    labels[:4] = NODATA
    path = save_tif(tmp_path / "m.tif", labels[None], nodata=NODATA)
    with rasterio.open(path, "r+") as dst:
        dst.write_colormap(1, {i: (*c.color, 255) for i, c in enumerate(TABLE.classes)})
    np.testing.assert_array_equal(read(path), labels)
    black = ClassTable((*TABLE.classes, ClassInfo("black", (0, 0, 0))))
    np.testing.assert_array_equal(read(path, black), labels)  # the fill of the palette is no class there


def test_own_nodata_and_nan_are_unlabelled(tmp_path: Path) -> None:
    values = indices(16, 16, 3).astype(np.int16)
    values[0] = -1
    expected = np.where(values < 0, NODATA, values)
    np.testing.assert_array_equal(read(save_tif(tmp_path / "i.tif", values[None], nodata=-1)), expected)
    real = np.where(values < 0, np.nan, values).astype(np.float32)
    np.testing.assert_array_equal(read(save_tif(tmp_path / "f.tif", real[None])), expected)


@pytest.mark.parametrize(("value", "dtype"), [(3, "uint8"), (-1, "int16"), (0.5, "float32")])
def test_values_that_are_no_class_are_refused(tmp_path: Path, value: float, dtype: str) -> None:
    values = np.zeros((1, 70, 9), dtype)
    values[0, 66, 2:4] = value
    path = save_tif(tmp_path / "m.tif", values)
    with pytest.raises(
        InputError, match=rf"values {value} \(2 px, first at row 66, column 2\); the classes are 0 to 2"
    ):
        read(path, window=Window(60, 1, 10, 8))


def test_decode_counts_what_read_refuses(tmp_path: Path) -> None:
    rgb = paint(np.zeros((5, 5), np.uint8), TABLE)
    rgb[:, 1, 1:4] = 7
    with LabelReader(save(tmp_path / "m.png", rgb), TABLE.colors, 3) as reader:
        decoded = reader.decode(Window(0, 0, 5, 5))
        assert reader.holds_colors
    assert decoded.unknown.sum() == 3
    assert set(decoded.stored[decoded.unknown].tolist()) == {0x070707}
    assert (decoded.labels[decoded.unknown] == NODATA).all()
    assert (decoded.labels == 0).sum() == 22


def test_colours_of_a_model_leave_black_unlabelled(tmp_path: Path) -> None:
    labels = np.array([[0, 2, NODATA]], np.uint8)
    path = save(tmp_path / "m.png", paint(labels, TABLE))
    with LabelReader(path, LabelColors.of_classes(TABLE.classes), 3) as reader:
        np.testing.assert_array_equal(reader.read(Window(0, 0, 1, 3)), labels)
