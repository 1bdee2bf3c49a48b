from __future__ import annotations

import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from labelled import indices, paint, save, save_palette, save_tif
from rsedge.errors import InputError
from rsedge.model.manifest import NODATA, ClassInfo
from rsedge.score.labels import LOVEDA, ClassTable, LabelColors
from rsedge.score.truth import LabelReader, describe_missing, doubts, find_missing, settle
from rsedge.tiling.window import Window
from rsedge_sample.files import LANDCOVER, write_sample

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


# --- greys of the class table, values by number, and what is unlabelled

BLACK, GREY, WHITE = (0, 0, 0), (128, 128, 128), (255, 255, 255)
NO_YES = ClassTable((ClassInfo("no", BLACK), ClassInfo("yes", WHITE)))
YES_NO = ClassTable((ClassInfo("yes", WHITE), ClassInfo("no", BLACK)))
THREE = ClassTable((ClassInfo("low", BLACK), ClassInfo("high", WHITE), ClassInfo("mid", GREY)))
ISPRS = ClassTable.read(Path(__file__).parents[3] / "train" / "rsedge_train" / "data" / "isprs.toml")


def settled(table: ClassTable, *masks: np.ndarray | Path, folder: Path) -> list[np.ndarray]:
    paths = [m if isinstance(m, Path) else save(folder / f"{i}.png", m) for i, m in enumerate(masks)]
    classes = len(table.classes)
    colors, notes = settle(table.colors, paths, classes)
    assert any("read as greys" in note for note in notes) == (colors != table.colors)
    found = []
    for path in paths:
        with LabelReader(path, colors, classes) as reader:
            grid = reader.raster.grid
            found.append(reader.read(Window(0, 0, grid.height, grid.width)))
    return found


@pytest.mark.parametrize("table", [NO_YES, YES_NO, THREE])
@pytest.mark.parametrize("form", ["grey", "ramp", "uint16", "float32", "nodata 0"])
def test_greys_of_the_table_say_what_the_same_three_bands_say(
    tmp_path: Path, table: ClassTable, form: str
) -> None:
    rgb = paint(indices(24, 32, len(table.classes)), table)
    if form == "grey":
        path = save(tmp_path / "m.png", rgb[0])
    elif form == "ramp":  # as Pillow makes of a grey picture: the palette says nothing
        path = save_palette(tmp_path / "m.png", rgb[0], [v * 0x010101 for v in range(256)])
    elif form == "nodata 0":  # as gdal_rasterize leaves it; the class table is asked first
        path = save_tif(tmp_path / "m.tif", rgb[:1], nodata=0)
    else:
        path = save_tif(tmp_path / "m.tif", rgb[:1].astype(form))
    (found,) = settled(table, path, folder=tmp_path)
    np.testing.assert_array_equal(found, table.colors.encode(rgb, "three bands"))


def save_grey_png(path: Path, values: np.ndarray, bits: int) -> Path:
    """Write greys of fewer than 8 bits as PNG, which Pillow writes with 1 bit only."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    height, width = values.shape
    single = np.unpackbits(values[..., None], axis=2)[..., 8 - bits :].reshape(height, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in single)
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("turned", [False, True])
def test_greys_of_few_bits_are_the_colours_that_viewers_show(tmp_path: Path, bits: int, turned: bool) -> None:
    count = 2**bits
    values = indices(32, 40, count)
    path = save_grey_png(tmp_path / "m.png", values, bits)
    with Image.open(path) as image:
        shown = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    greys = [v * 255 // (count - 1) for v in range(count)]
    table = ClassTable(tuple(ClassInfo(f"g{v}", (v, v, v)) for v in (greys[::-1] if turned else greys)))
    np.testing.assert_array_equal(read(path, table), table.colors.encode(shown, "by Pillow"))
    settled, _ = settle(table.colors, [path], count)
    assert settled == table.colors


def test_greys_of_few_bits_are_indices_where_the_table_has_other_colours_or_values(tmp_path: Path) -> None:
    values = indices(32, 40, 2)
    path = save_grey_png(tmp_path / "m.png", values, 1)
    white_red = ClassTable((ClassInfo("a", (255, 255, 255)), ClassInfo("b", (255, 0, 0))))
    np.testing.assert_array_equal(read(path, white_red), values)
    white_black = (ClassInfo("a", (255, 255, 255)), ClassInfo("b", (0, 0, 0)))
    np.testing.assert_array_equal(read(path, ClassTable(white_black)), 1 - values)
    np.testing.assert_array_equal(read(path, ClassTable(white_black, (), ((0, 0), (1, 1)))), values)


def test_an_index_that_is_the_grey_of_another_class_gets_a_note(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", indices(32, 40, 2))
    black = (ClassInfo("background", (0, 0, 0)), ClassInfo("roof", (255, 255, 255)))
    assert settle(ClassTable(black).colors, [path], 2)[1] == ()
    colors, (note,) = settle(ClassTable(black[::-1]).colors, [path], 2)
    assert not colors.told
    assert "so 0 is class number 0, counted from 0, although #000000 is the colour of number 1" in note


def test_indices_stay_indices_where_the_table_has_greys(tmp_path: Path) -> None:
    labels = indices(16, 16, 2)
    labels[0] = NODATA
    for table in (NO_YES, YES_NO, ISPRS):
        np.testing.assert_array_equal(settled(table, labels, folder=tmp_path)[0], labels)
    one = np.zeros((8, 8), np.uint8)
    one[0] = NODATA
    np.testing.assert_array_equal(
        settled(ISPRS, one, folder=tmp_path)[0], one
    )  # white is one class either way
    np.testing.assert_array_equal(settled(TABLE, one, folder=tmp_path)[0], one)


def test_a_mask_of_one_value_is_read_as_its_neighbours_are(tmp_path: Path) -> None:
    empty, full = np.zeros((8, 8), np.uint8), np.full((8, 8), 255, np.uint8)
    mixed = indices(8, 16, 2) * 255
    nothing, everything, both = settled(YES_NO, empty, full, mixed, folder=tmp_path)
    assert (set(nothing.ravel()), set(everything.ravel())) == ({1}, {0})
    np.testing.assert_array_equal(both, np.where(mixed == 255, 0, 1))
    plain = indices(8, 16, 2)
    nothing, unlabelled, both = settled(YES_NO, empty, full, plain, folder=tmp_path)
    assert (set(nothing.ravel()), set(unlabelled.ravel())) == ({0}, {NODATA})
    np.testing.assert_array_equal(both, plain)


def test_a_grey_that_is_no_class_is_refused_where_greys_were_settled(tmp_path: Path) -> None:
    mask = indices(16, 16, 2) * 255
    colors, _ = settle(NO_YES.colors, [save(tmp_path / "a.png", mask)], 2)
    mask[3, 4] = 7
    with (
        LabelReader(save(tmp_path / "b.png", mask), colors, 2) as reader,
        pytest.raises(
            InputError, match=r"values 7 \(1 px, first at row 3, column 4\); the class table names 0, 255"
        ),
    ):
        reader.read(Window(0, 0, 16, 16))


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("uint8", None), ("int16", 0), ("uint16", 300), ("float32", 0)]
)
def test_values_by_number_and_what_is_unlabelled(tmp_path: Path, dtype: str, nodata: float | None) -> None:
    (tmp_path / "classes.toml").write_text("ignore = [0, 255]\n[classes]\none = 1\ntwo = 2\nthree = 3\n")
    table = ClassTable.read(tmp_path / "classes.toml")
    labels = indices(20, 30, 3)
    stored = (labels + 1).astype(dtype)
    stored[:2], stored[2, :5] = 0, 255
    path = save_tif(tmp_path / "m.tif", stored[None], nodata=nodata)
    expected = labels.copy()
    expected[:2], expected[2, :5] = NODATA, NODATA
    counted = np.ones((20, 30), np.bool_)
    counted[0] = False
    with LabelReader(path, table.colors, 3) as reader:
        found = Counter[str]()
        np.testing.assert_array_equal(reader.read(Window(0, 0, 20, 30), found, counted), expected)
    assert found == {"0": 30, "255": 5}


def test_unlabelled_pixels_are_told_apart(tmp_path: Path) -> None:
    labels = indices(16, 16, 3)
    labels[0], labels[1, :4] = NODATA, NODATA
    rgb = paint(labels, TABLE, UNLABELLED)
    real = labels.astype(np.float32)
    real[0], real[1, :4] = np.nan, -9
    for path, expected in (
        (save(tmp_path / "rgb.png", rgb), {"#9B9B9B": 20}),
        (save(tmp_path / "plain.png", labels), {"255": 20}),
        (save_tif(tmp_path / "real.tif", real[None], nodata=-9), {"-9": 4, "nodata": 16}),
    ):
        with LabelReader(path, TABLE.colors, 3) as reader:
            assert reader.count_unlabelled(reader.decode(Window(0, 0, 16, 16))) == expected


def test_missing_classes_are_those_of_all_labels_together(tmp_path: Path) -> None:
    first, second = np.full((9, 9), 0, np.uint8), np.full((9, 9), 1, np.uint8)
    first[0] = NODATA
    paths = [save(tmp_path / f"{i}.png", mask) for i, mask in enumerate((first, second))]
    assert find_missing(paths, TABLE.colors, 3) == ({2}, {"255": 9})
    second[5] = 2
    paths.append(save(tmp_path / "2.png", second))
    assert find_missing(paths, TABLE.colors, 3)[0] == frozenset()
    text = describe_missing(["c"], {"255": 9, "7": 20})
    assert "no label pixel of class c; taken for unlabelled: 7 (20 px), 255 (9 px)" in text
    assert "--allow-missing-classes" in text
    assert "no pixel is unlabelled" in describe_missing(["a", "b"], {})


# --- palettes: colours like those of three bands, unless they say nothing

RED, GREEN, BLUE = 0xFF0000, 0x00FF00, 0x0000FF
RGB = ClassTable(
    (ClassInfo("red", (255, 0, 0)), ClassInfo("green", (0, 255, 0)), ClassInfo("blue", (0, 0, 255)))
)
PALETTES = {
    "off by one": ((BLUE, 0xFE0000, 0x00FE00), "2 colours belong to no class: #.E....|#FE0000"),
    "another table": ((A, B, C), "3 colours belong to no class"),
    "one other colour": ((A,) * 3, "1 colours belong to no class: #3C1098"),
    "one class in many": ((A, RED, B, C), "belong to no class: #3C1098"),
    "greys downwards": ((0xFFFFFF, 0x808080, 0x000000), "#FFFFFF"),
}


@pytest.mark.parametrize("own", [False, True], ids=["class table", "colours of the model"])
@pytest.mark.parametrize("case", PALETTES)
def test_colours_of_a_palette_that_are_no_class_are_an_error_as_in_three_bands(
    tmp_path: Path, case: str, own: bool
) -> None:
    palette, message = PALETTES[case]
    path = save_palette(tmp_path / "m.png", indices(24, 32, 3), palette)
    with Image.open(path) as file:
        rgb = np.asarray(file.convert("RGB")).transpose(2, 0, 1)
    colors = LabelColors.of_classes(RGB.classes) if own else RGB.colors
    with pytest.raises(InputError, match=message):
        colors.encode(rgb, "by Pillow")
    with (
        LabelReader(path, colors, 3) as reader,
        pytest.raises(InputError, match=f"({message}).*give the classes values, as in NAME = 0"),
    ):
        reader.read(Window(0, 0, 24, 32))


def test_a_palette_of_nothing_but_ignored_colours_is_unlabelled(tmp_path: Path) -> None:
    for palette in ((UNLABELLED,), (0, UNLABELLED), (0,)):
        values = np.full((8, 8), len(palette) - 1, np.uint8)
        with LabelReader(
            save_palette(tmp_path / "m.png", values, palette),
            LabelColors.of_classes(TABLE.classes, ((0x9B, 0x9B, 0x9B),)),
            3,
        ) as reader:
            assert (reader.read(Window(0, 0, 8, 8)) == NODATA).all()


@pytest.mark.parametrize(
    "palette",
    [(0, 0, 0), (0, 0x7F7F7F, 0xFFFFFF), (0, 0x808080, 0xFFFFFF, 0), (0, 0x010101, 0x020202)],
    ids=["black", "ramp", "filled up", "values"],
)
def test_a_palette_that_says_nothing_leaves_indices(tmp_path: Path, palette: tuple[int, ...]) -> None:
    values = indices(24, 32, 3)
    path = save_palette(tmp_path / "m.png", values, palette)
    np.testing.assert_array_equal(read(path, RGB), values)


def test_values_of_a_table_count_whatever_the_palette_shows(tmp_path: Path) -> None:
    (tmp_path / "classes.toml").write_text("[classes]\nred = 0\ngreen = 1\nblue = 2\n")
    values = indices(24, 32, 3)
    path = save_palette(tmp_path / "m.png", values, (BLUE, 0xFE0000, 0x00FE00))
    np.testing.assert_array_equal(read(path, ClassTable.read(tmp_path / "classes.toml")), values)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_palette_of_a_geotiff_of_8_and_of_16_bits(tmp_path: Path, dtype: str) -> None:
    import rasterio

    values = indices(16, 16, 3).astype(dtype)
    path = save_tif(tmp_path / "m.tif", values[None], photometric="palette")
    with rasterio.open(path, "r+") as dst:
        dst.write_colormap(1, {0: (0, 0, 255, 255), 1: (255, 0, 0, 255), 2: (0, 255, 0, 255)})
    np.testing.assert_array_equal(read(path, RGB), np.array([2, 0, 1])[values])


# --- what is not to be seen is unlabelled

HIDDEN = np.zeros((16, 24), np.bool_)
HIDDEN[2:7, 3:11] = True


def with_mask(path: Path, bands: np.ndarray, *, internal: bool) -> Path:
    import rasterio

    save_tif(path, bands)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "r+") as dst:
        dst.write_mask(~HIDDEN)
    assert path.with_name(path.name + ".msk").exists() != internal
    return path


def transparent(folder: Path, form: str, labels: np.ndarray) -> Path:
    rgb, alpha = paint(labels, TABLE), np.where(HIDDEN, 0, 255).astype(np.uint8)
    if form == "RGBA":
        return save(folder / "m.png", np.concatenate([rgb, alpha[None]]))
    if form == "RGBA of other colours below":
        return save(folder / "m.png", np.concatenate([np.where(HIDDEN, 77, rgb), alpha[None]]))
    if form == "LA":
        return save(folder / "m.png", np.stack([labels, alpha], -1).transpose(2, 0, 1))
    if form == "palette":
        values = np.where(HIDDEN, 3 + labels % 2, labels).astype(
            np.uint8
        )  # two: GDAL calls one of them nodata
        path = save_palette(folder / "m.png", values, (A, B, C, A, B))
        with Image.open(path) as file:
            file.save(path, transparency=bytes([255, 255, 255, 0, 0]))
        return path
    bands = rgb if "RGB" in form else labels[None]
    return with_mask(folder / "m.tif", bands, internal="internal" in form)


@pytest.mark.parametrize(
    "form",
    ["RGBA", "RGBA of other colours below", "LA", "palette", "internal", ".msk", "RGB internal", "RGB .msk"],
)
def test_transparent_and_masked_pixels_are_unlabelled(tmp_path: Path, form: str) -> None:
    labels = indices(16, 24, 3)
    path = transparent(tmp_path, form, labels)
    expected = np.where(HIDDEN, NODATA, labels)
    counted = np.ones(labels.shape, np.bool_)
    counted[3] = False
    with LabelReader(path, TABLE.colors, 3) as reader:
        found = Counter[str]()
        np.testing.assert_array_equal(reader.read(Window(0, 0, 16, 24), found), expected)
        assert found == {"transparent": 40}
        assert reader.count_unlabelled(reader.decode(Window(0, 0, 16, 24)), counted) == {"transparent": 32}
        np.testing.assert_array_equal(reader.read(Window(4, 5, 9, 11)), expected[4:13, 5:16])


def test_hidden_values_do_not_settle_what_greys_mean(tmp_path: Path) -> None:
    mask = indices(16, 24, 2) * 255
    mask[HIDDEN] = 9
    found = settled(NO_YES, with_mask(tmp_path / "m.tif", mask[None], internal=True), folder=tmp_path)
    np.testing.assert_array_equal(found[0], np.where(HIDDEN, NODATA, mask // 255))


@pytest.mark.parametrize(
    ("dtype", "scale", "message"),
    [
        ("uint16", 257, "values 4112 to 63222, not 0 to 255"),
        ("int16", -1, "values -246 to -16, not 0 to 255"),
        ("float32", 1, "colours as float32"),
    ],
)
def test_colours_that_are_not_of_8_bits_are_refused_by_name(
    tmp_path: Path, dtype: str, scale: int, message: str
) -> None:
    rgb = paint(indices(16, 24, 3), TABLE).astype(dtype) * np.array(scale, dtype)
    with pytest.raises(InputError, match=rf"m.tif holds .*{message}.*8 bits per band"):
        read(save_tif(tmp_path / "m.tif", rgb))


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_colours_of_8_bits_in_wider_numbers_are_what_they_are(tmp_path: Path, dtype: str) -> None:
    labels = indices(16, 24, 3)
    np.testing.assert_array_equal(
        read(save_tif(tmp_path / "m.tif", paint(labels, TABLE).astype(dtype))), labels
    )


# --- what may be read in two ways


@pytest.mark.parametrize("value", [0, 1])
def test_values_that_are_other_classes_as_greys_and_as_indices_are_refused(
    tmp_path: Path, value: int
) -> None:
    table = ClassTable((ClassInfo("white", WHITE), ClassInfo("black", BLACK), ClassInfo("one", (1, 1, 1))))
    path = save(tmp_path / "m.png", np.full((8, 8), value, np.uint8))
    with pytest.raises(
        InputError, match=f"only {value}, which stand for different classes as greys .* as in NAME = {value}"
    ):
        settle(table.colors, [path], 3)
    (tmp_path / "classes.toml").write_text("[classes]\nwhite = 0\nblack = 1\none = 2\n")
    said = ClassTable.read(tmp_path / "classes.toml").colors
    assert settle(said, [path], 3) == (said, ())


def test_values_that_are_the_same_class_either_way_need_no_table(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.zeros((8, 8), np.uint8))
    assert settle(NO_YES.colors, [path], 2) == (NO_YES.colors, ())


def test_a_doubt_where_labels_may_count_from_0() -> None:
    counts = [10, 20, 30, 40, 50, 60, 0]
    (note,) = doubts(LOVEDA.colors, LOVEDA.names, {"0": 100}, counts)
    assert "0 is unlabelled in 100 px of labels and 7, class agriculture, never occurs" in note
    assert '"background" = 0' in note
    for zeros, told in ((100, [*counts[:6], 1]), (5, counts), (0, counts)):
        assert not doubts(LOVEDA.colors, LOVEDA.names, {"0": zeros}, told)
    assert not doubts(TABLE.colors, TABLE.names, {"0": 100}, [1, 2, 0])


def test_labels_that_rsedge_wrote_hold_indices_whatever_colours_show_them(tmp_path: Path) -> None:
    """Sample labels, or a mask drawn by another model: their tag says so."""
    write_sample(tmp_path / "town.tif", 64, 64, seed=3)
    path = tmp_path / "town_labels.tif"
    with rasterio.open(path) as src:
        expected = src.read(1)
    others = ClassTable(tuple(ClassInfo(c.name, (200 - i, i, 7)) for i, c in enumerate(LANDCOVER)))
    with LabelReader(path, others.colors, len(LANDCOVER)) as reader:
        assert np.array_equal(reader.read(Window(0, 0, 64, 64)), expected)
    with rasterio.open(path) as src:
        colors = [r << 16 | g << 8 | b for r, g, b, _ in src.colormap(1).values()]
    plain = save_palette(tmp_path / "plain.png", expected, colors[: len(LANDCOVER)])
    with (
        LabelReader(plain, others.colors, len(LANDCOVER)) as reader,
        pytest.raises(InputError, match="belong to no class"),
    ):
        reader.read(Window(0, 0, 64, 64))
