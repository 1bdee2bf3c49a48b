"""Which label belongs to which image."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsedge.errors import InputError
from rsedge.score.pairs import find_pairs, match_pairs


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


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


def test_loveda_as_it_is_downloaded(tmp_path: Path) -> None:
    """Its test images have no masks: they are no reason to refuse the others."""
    pairs = {
        f"{side}/{area}/images_png/7.png": f"{side}/{area}/masks_png/7.png"
        for side in ("Train", "Val")
        for area in ("Urban", "Rural")
    }
    touch(tmp_path, *pairs, *pairs.values(), "Test/Urban/images_png/9.png")
    assert dict(find_pairs(tmp_path)) == {tmp_path / i: tmp_path / m for i, m in pairs.items()}
    assert match_pairs(tmp_path).tests == (tmp_path / "Test/Urban/images_png/9.png",)


def test_a_folder_of_images_goes_with_its_own_kind_of_masks(tmp_path: Path) -> None:
    touch(tmp_path, "a/images_png/1.png", "a/masks/1.png", "b/images/1.png", "b/masks_png/1.png")
    found = match_pairs(tmp_path)
    assert found.pairs == ()
    assert [p.parent.name for p in found.images] == ["images_png", "images"]
    assert [p.parent.name for p in found.labels] == ["masks", "masks_png"]


def test_a_test_folder_with_some_masks_must_have_all(tmp_path: Path) -> None:
    touch(tmp_path, "test/images/1.png", "test/masks/1.png", "test/images/2.png")
    with pytest.raises(InputError, match="1 images have no mask"):
        find_pairs(tmp_path)
