"""Folders of images and masks: pairs, scenes, splits, classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labelled import indices, paint, pixels, save, save_tif, scene_folder
from rsedge.errors import InputError
from rsedge.model.manifest import ClassInfo
from rsedge.score.labels import ClassTable
from rsedge_train.data import SceneReader, open_dataset, scan
from rsedge_train.data.detect import KNOWN
from toys import SHARED, shared

DUBAI = KNOWN["dubai"]
TWO = ClassTable((ClassInfo("x", (1, 1, 1)), ClassInfo("y", (2, 2, 2))))


def names(part: object) -> list[str]:
    return [f.name for f in part]


def pair(root: Path, image: str, mask: str, seed: int = 0) -> None:
    save(root / image, pixels(16, 16, seed))
    save(root / mask, paint(indices(16, 16, 5, seed), DUBAI))


def test_scenes_are_the_folders_that_hold_images(tmp_path: Path) -> None:
    scene_folder(tmp_path, ("tile2", "tile1", "tile3"), DUBAI)
    dataset = open_dataset(tmp_path, val=("tile1",), test=("tile3",))
    assert names(dataset.train) == ["tile2/p0", "tile2/p1"]
    assert {f.scene for f in dataset.val} == {"tile1"}
    assert {f.scene for f in dataset.test} == {"tile3"}
    assert dataset.table == DUBAI
    assert dataset.name == tmp_path.name


def test_without_names_the_last_scenes_validate_and_a_note_says_so(tmp_path: Path) -> None:
    for i in range(13):
        pair(tmp_path, f"images/s{i:02}.png", f"labels/s{i:02}.png", i)
    dataset = open_dataset(tmp_path)
    assert names(dataset.val) == ["s11", "s12"]
    assert len(dataset.train) == 11
    assert "no validation scene was named; using the last, s11, s12" in dataset.notes[0]


@pytest.mark.parametrize("layout", ["{}/images/{}.png {}/masks/{}.png", "images/{}/{}.png masks/{}/{}.png"])
def test_folders_of_the_split_win_wherever_they_are(tmp_path: Path, layout: str) -> None:
    for number, (side, name) in enumerate(
        (("train", "a"), ("train", "b"), ("Validation", "a"), ("testing", "c"))
    ):
        image, mask = (part.format(side, name) for part in layout.split())
        pair(tmp_path, image, mask, number)
    dataset = open_dataset(tmp_path)
    assert names(dataset.train) == ["train/a", "train/b"]
    assert names(dataset.val) == ["Validation/a"]
    assert names(dataset.test) == ["testing/c"]
    assert len({f.scene for f in (*dataset.train, *dataset.val)}) == 3
    with pytest.raises(InputError, match="a folder named val already defines the val split"):
        open_dataset(tmp_path, val=("train/a",))


def test_a_train_folder_alone_still_needs_validation(tmp_path: Path) -> None:
    scene_folder(tmp_path / "train", ("t1", "t2"), DUBAI, parts=1)
    scene_folder(tmp_path / "test", ("t3",), DUBAI, parts=1)
    scene_folder(tmp_path / "more", ("t4",), DUBAI, parts=1)
    dataset = open_dataset(tmp_path)
    assert (names(dataset.train), names(dataset.val), names(dataset.test)) == (
        ["train/t1/p0"],
        ["train/t2/p0"],
        ["test/t3/p0"],
    )
    assert any("1 images are in no split folder and are skipped" in note for note in dataset.notes)


def test_a_scene_in_two_split_folders_is_refused(tmp_path: Path) -> None:
    scene_folder(tmp_path / "train", ("t1",), DUBAI, parts=1)
    scene_folder(tmp_path / "val", ("t1",), DUBAI, parts=1)
    with pytest.raises(InputError, match="scene t1 is in both train and val"):
        open_dataset(tmp_path)


def test_one_scene_needs_a_second_or_a_word(tmp_path: Path) -> None:
    scene_folder(tmp_path, ("only",), DUBAI)
    with pytest.raises(InputError, match="validation needs a second scene"):
        open_dataset(tmp_path)
    dataset = open_dataset(tmp_path, val=("none",))
    assert (len(dataset.train), dataset.val) == (2, ())
    assert any("training without validation" in note for note in dataset.notes)


def test_impossible_splits_are_explained(tmp_path: Path) -> None:
    scene_folder(tmp_path, ("a", "b"), DUBAI, parts=1)
    for options, message in (
        ({"val": ("c",)}, "--val c: no such scene. The scenes are a, b"),
        ({"test": ("z",), "val": ("a",)}, "--test z: no such"),
        ({"val": ("a",), "test": ("a",)}, "in both --val and --test"),
        ({"val": ("a",), "test": ("b",)}, "none is left to train on"),
        ({"eroded": True}, "not an ISPRS data set"),
        ({"bands": (1, 2)}, "three bands"),
    ):
        with pytest.raises(InputError, match=message):
            open_dataset(tmp_path, **options)


def test_images_without_masks_and_doubled_names_are_counted(tmp_path: Path) -> None:
    scene_folder(tmp_path, ("a", "b"), DUBAI)
    lonely = save(tmp_path / "b" / "images" / "p9.png", pixels(8, 8))
    with pytest.raises(InputError, match=r"1 images have no mask, first .*b/images/p9\.png"):
        open_dataset(tmp_path)
    lonely.unlink()
    save(tmp_path / "a" / "images" / "p0.jpg", pixels(48, 48))
    with pytest.raises(InputError, match="1 names belong to two images each, first a/p0"):
        open_dataset(tmp_path)


def test_empty_missing_and_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"contains no labelled image; expected .* found nothing"):
        open_dataset(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        open_dataset(tmp_path / "none")
    with pytest.raises(InputError, match="is a file"):
        open_dataset(save(tmp_path / "x.png", pixels(4, 4)))
    with pytest.raises(InputError, match=r"found x\.png"):
        open_dataset(tmp_path)


def test_a_mask_of_another_size_is_an_error_when_read(tmp_path: Path) -> None:
    scene_folder(tmp_path, ("a", "b"), DUBAI)
    save(tmp_path / "a" / "masks" / "p1.png", paint(indices(48, 40, 5), DUBAI))
    dataset = open_dataset(tmp_path)
    with pytest.raises(InputError, match=r"p1\.png is 40 x 48 pixels, its image 48 x 48"):
        scan(dataset, dataset.train)


def test_geotiffs_beside_their_labels(tmp_path: Path) -> None:
    truths = {}
    for i, gsd in enumerate((0.5, 0.2, 1.0)):
        truths[f"r{i}"] = indices(40, 50, 3, i)
        save_tif(tmp_path / f"r{i}.tif", pixels(40, 50, i).astype(np.uint16) * 8, gsd_m=gsd)
        save_tif(tmp_path / f"r{i}_labels.tif", truths[f"r{i}"][None], gsd_m=gsd)
    save_tif(tmp_path / "mask.tif", pixels(8, 8))
    dataset = open_dataset(tmp_path, scale=(0, 2040))
    assert (names(dataset.train), names(dataset.val)) == (["r0", "r1"], ["r2"])
    assert dataset.gsd_m == pytest.approx((0.2, 1.0), rel=1e-3)
    assert dataset.table.names == ("class0", "class1", "class2")
    assert any("1 rasters have no X_labels beside them" in note for note in dataset.notes)
    np.testing.assert_array_equal(
        scan(dataset, dataset.train).counts,
        np.bincount(np.concatenate([truths["r0"].ravel(), truths["r1"].ravel()])),
    )
    with SceneReader(dataset.train[0], dataset) as reader:
        from rsedge.tiling.window import Window

        image, _ = reader.read(Window(0, 0, 40, 50))
    np.testing.assert_array_equal(image, pixels(40, 50, 0))


def test_a_table_in_the_folder_or_by_name_wins(tmp_path: Path) -> None:
    scene_folder(tmp_path, ("a", "b"), DUBAI)
    other = ClassTable(DUBAI.classes[::-1], DUBAI.ignore)
    (tmp_path / "classes.toml").write_text(other.to_toml())
    assert open_dataset(tmp_path).table == other
    named = tmp_path / "named.toml"
    named.write_text(DUBAI.to_toml())
    assert open_dataset(tmp_path, classes=named).table == DUBAI
    named.write_text(ClassTable(TWO.classes[:1]).to_toml())
    with pytest.raises(InputError, match="1 classes. Training needs 2"):
        open_dataset(tmp_path, classes=named)


@shared
def test_dubai_itself() -> None:
    dataset = open_dataset(SHARED / "dubai", val=("tile7",))
    assert (len(dataset.train), len(dataset.val)) == (45, 9)
    assert dataset.table == DUBAI
