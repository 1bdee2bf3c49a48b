from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsedge.errors import InputError
from rsedge.model.manifest import NODATA
from rsedge.score.labels import LOVEDA, ClassTable, LabelColors, choose_colors, is_loveda, look_up
from toys import CLASSES, pointwise_manifest

TABLE = """
ignore = ["#000000", "#9B9B9B"]
[classes]
red = "#3C1098"
blue = "#E2A929"
"""


def test_colours_become_class_indices(tmp_path: Path) -> None:
    (tmp_path / "classes.toml").write_text(TABLE)
    colors = LabelColors.read(tmp_path / "classes.toml", ("red", "green", "blue"))
    rgb = np.array([[[0x3C, 0xE2, 0]], [[0x10, 0xA9, 0]], [[0x98, 0x29, 0]]], np.uint8)
    np.testing.assert_array_equal(colors.encode(rgb, "x"), [[0, 2, NODATA]])


def test_unknown_colours_are_named_and_counted() -> None:
    rgb = np.zeros((3, 4, 4), np.uint8)
    rgb[:, 0, :3] = np.array([1, 2, 3])[:, None]
    with pytest.raises(
        InputError,
        match=r"mask.png: 1 colours belong to no class: #010203 \(3 px, first at row 0, column 0\)",
    ):
        LabelColors.of_classes(CLASSES).encode(rgb, "mask.png")


@pytest.mark.parametrize(
    "text", ["", "[classes]\nred = 'blue'", "[classes]\nred = '#12'", "classes = 3", "[["]
)
def test_a_broken_table_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.toml").write_text(text)
    with pytest.raises(InputError, match="not a class table"):
        LabelColors.read(tmp_path / "classes.toml", ("red",))


def test_a_table_of_other_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.toml").write_text(TABLE)
    with pytest.raises(InputError, match="classes blue, which are not among red"):
        LabelColors.read(tmp_path / "classes.toml", ("red",))


def table_of(tmp_path: Path, text: str) -> ClassTable:
    (tmp_path / "classes.toml").write_text(text)
    return ClassTable.read(tmp_path / "classes.toml")


LOVEDA_LIKE = '[classes]\n"low wood" = 7\nred = 1\nblue = 3\n[colors]\nred = "#FF0000"\n'


def test_classes_by_index_stand_in_the_order_of_their_indices(tmp_path: Path) -> None:
    table = table_of(tmp_path, "ignore = [0, 255, '#9B9B9B']\n" + LOVEDA_LIKE)
    assert table.names == ("red", "blue", "low wood")
    assert table.classes[0].color == (255, 0, 0)
    assert len({c.color for c in table.classes}) == 3
    assert table.colors.values == {1: 0, 3: 1, 7: 2, 0: NODATA, 255: NODATA}
    assert table.colors.index[0x9B9B9B] == NODATA
    assert table_of(tmp_path, table.to_toml()) == table
    assert table_of(tmp_path, table.to_toml()).colors == table.colors


def test_an_ignored_name_is_no_class_but_keeps_its_index(tmp_path: Path) -> None:
    text = 'ignore = ["nodata"]\n[classes]\nnodata = "#000000"\nred = "#FF0000"\nblue = "#0000FF"\n'
    colors = table_of(tmp_path, text).colors
    assert table_of(tmp_path, text).names == ("red", "blue")
    assert colors.values == {0: NODATA, 1: 0, 2: 1, 255: NODATA}
    assert colors.index == {0: NODATA, 0xFF0000: 0, 0x0000FF: 1}
    numbers = table_of(tmp_path, 'ignore = ["none", -1]\n[classes]\nred = 2\nnone = 0\nblue = 1\n')
    assert (numbers.names, numbers.colors.values) == (("blue", "red"), {1: 0, 2: 1, 0: NODATA, -1: NODATA})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'ignore = [1]\n[classes]\nred = "#FF0000"\nblue = "#0000FF"\n',
            "the index 1, which is class blue",
        ),
        ('[classes]\nred = 1\nblue = "#0000FF"\n', "some classes have a colour and some an index"),
        ("[classes]\nred = 1\nblue = 1\n", "two classes have the same index"),
        ("ignore = [1]\n[classes]\nred = 1\nblue = 2\n", "the index 1 is class red and in ignore"),
        ("[classes]\nred = 1.5\n", "neither #RRGGBB nor an index"),
        ("[classes]\nred = true\n", "neither #RRGGBB nor an index"),
        ('[classes]\nred = 1\n[colors]\nrot = "#FF0000"\n', "names rot, which is not in"),
        ('ignore = ["nodata"]\n[classes]\nred = 1\n', "colour 'nodata' is not #RRGGBB"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        table_of(tmp_path, text)


def test_indices_are_those_of_the_table_and_not_of_the_model(tmp_path: Path) -> None:
    """As data check and training read them: a table in another order, or with fewer classes, moves no label."""
    (tmp_path / "classes.toml").write_text(TABLE)
    colors = LabelColors.read(tmp_path / "classes.toml", ("blue", "green", "red"))
    assert colors.values == {0: 2, 1: 0, 255: NODATA}
    assert colors.classes == {0, 2}
    (tmp_path / "classes.toml").write_text("[classes]\nblue = 5\nred = 9\n")
    colors = LabelColors.read(tmp_path / "classes.toml", ("red", "green", "blue"))
    assert colors.values == {5: 2, 9: 0}


@given(
    st.dictionaries(st.integers(-300, 70000), st.integers(0, 255), max_size=6),
    st.sampled_from(["uint8", "int8", "uint16", "int16", "int32", "uint32", "float32", "float64"]),
    st.integers(0, 9),
)
def test_values_are_looked_up_in_every_type(meaning: dict[int, int], dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stored = rng.choice([*meaning, 0, 1, 255, 40000, -1], (5, 7)).astype(np.int64).astype(dtype)
    if stored.dtype.kind == "f":
        stored[0, :3] = np.nan, 0.5, np.inf
    indices, unknown = look_up(meaning, stored)
    for at in np.ndindex(stored.shape):
        value = stored[at].item()
        assert unknown[at] == (value == value and value not in meaning)
        assert indices[at] == meaning.get(value, NODATA)


def test_where_a_model_finds_what_labels_mean(tmp_path: Path) -> None:
    manifest = pointwise_manifest()
    masks = [tmp_path / "masks" / "1.png"]
    assert choose_colors(manifest, masks, tmp_path) == (LabelColors.of_classes(CLASSES), None)
    (tmp_path / "classes.toml").write_text("[classes]\nred = 1\nblue = 2\n")
    colors, note = choose_colors(manifest, masks, tmp_path)
    assert colors.values == {1: 0, 2: 2}
    assert str(tmp_path / "classes.toml") in (note or "")
    (tmp_path / "other.toml").write_text("[classes]\ngreen = 1\nblue = 2\n")
    assert choose_colors(manifest, masks, tmp_path, tmp_path / "other.toml")[0].values == {1: 1, 2: 2}
    (tmp_path / "classes.toml").write_text("[classes]\nrot = 1\nblue = 2\n")
    with pytest.raises(
        InputError, match=r"classes.toml has classes rot, which are not among red, green, blue"
    ):
        choose_colors(manifest, masks, tmp_path)


def test_loveda_is_known_by_its_folders() -> None:
    urban, rural = Path("Val/Urban/masks_png/1.png"), Path("Val/Rural/masks_png/2.png")
    assert is_loveda([urban, rural])
    assert not is_loveda([])
    assert not is_loveda([urban, Path("Val/Urban/masks/1.png")])
    manifest = pointwise_manifest(classes=LOVEDA.classes)
    colors, _ = choose_colors(manifest, [urban])
    assert colors.values == {0: NODATA, 1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5, 7: 6}
    with pytest.raises(InputError, match="LoveDA has classes"):
        choose_colors(pointwise_manifest(), [urban])


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 100_000, "[classes]\na = " + "{b = " * 50_000, "x = 1\n" * 400_000]
)
def test_a_class_table_that_is_too_deep_or_too_large(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.toml").write_text(text)
    with pytest.raises(InputError, match="not a class table"):
        ClassTable.read(tmp_path / "classes.toml")


def test_a_class_table_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "classes.toml")
    with pytest.raises(InputError, match="not a regular file"):
        ClassTable.read(tmp_path / "classes.toml")


@pytest.mark.parametrize("name", ["a\\u001b[2J", "a\\u202eb", "x" * 300])
def test_names_of_a_class_table_are_fit_to_be_printed(tmp_path: Path, name: str) -> None:
    (tmp_path / "classes.toml").write_text(f'[classes]\n"{name}" = 1\nb = 2\n')
    with pytest.raises(InputError, match="the name of a class"):
        ClassTable.read(tmp_path / "classes.toml")
