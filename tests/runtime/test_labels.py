from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rsedge.errors import InputError
from rsedge.labels import LabelColors
from rsedge.manifest import NODATA
from rsedge.pairs import find_pairs, match_pairs
from toys import CLASSES

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


def test_pairs_are_found_in_both_layouts(tmp_path: Path) -> None:
    for name in (
        "a/images/1.jpg",
        "a/masks/1.png",
        "b/images/1.jpg",
        "b/labels/1.tif",
        "t.tif",
        "t_labels.tif",
        "x.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [
        (i.relative_to(tmp_path).as_posix(), m.relative_to(tmp_path).as_posix())
        for i, m in find_pairs(tmp_path)
    ]
    assert found == [
        ("a/images/1.jpg", "a/masks/1.png"),
        ("b/images/1.jpg", "b/labels/1.tif"),
        ("t.tif", "t_labels.tif"),
    ]


def test_folders_below_images_flat_pairs_within_and_what_is_left_over(tmp_path: Path) -> None:
    pairs = {"images/train/1.jpg": "masks/train/1.png", "b/images/2.tif": "b/images/2_labels.tif"}
    images, labels = ["b/images/3.png"], ["masks/train/9.png", "lost_labels.tif"]
    for name in (*pairs, *pairs.values(), *images, *labels, "loose.tif", "photo.jpg", "images/._1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = match_pairs(tmp_path)
    assert dict(found.pairs) == {tmp_path / i: tmp_path / m for i, m in pairs.items()}
    assert found.images == tuple(tmp_path / name for name in images)
    assert sorted(found.labels) == sorted(tmp_path / name for name in labels)
    assert found.loose == (tmp_path / "loose.tif",)


def test_a_lonely_image_an_empty_and_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no labelled image"):
        find_pairs(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        find_pairs(tmp_path / "none")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").touch()
    with pytest.raises(InputError, match="1 images have no mask"):
        find_pairs(tmp_path)
