"""The check of labelled data: counts against numpy, and every kind of damage found in one go."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from labelled import indices, paint, pixels, save, save_tif, scene_folder
from rsedge.errors import InputError
from rsedge_train.datasets import check, open_dataset
from rsedge_train.datasets.detect import KNOWN

DUBAI = KNOWN["dubai"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    scene_folder(tmp_path, ("a", "b", "c"), DUBAI)
    return tmp_path


def test_sound_data_are_ok_and_counted(root: Path) -> None:
    mask = indices(48, 48, 5, 1)
    mask[:2] = 255
    mask[mask == 4] = 0
    save(root / "a" / "masks" / "p1.png", paint(mask, DUBAI, 0x9B9B9B))
    seen = []
    report = check(root, val=("c",), test=("b",), progress=lambda done, total: seen.append((done, total)))
    assert (report.ok, report.problems, report.warnings) == (True, (), ())
    assert seen == [(i, 6) for i in range(1, 7)]
    expected = np.bincount(np.concatenate([indices(48, 48, 5, 0).ravel(), mask.ravel()]), minlength=256)
    train = report.sides["train"]
    assert list(train.class_pixels) == expected[:5].tolist()
    assert (train.unlabelled, train.unknown, train.empty) == (int(expected[255]), 0, 0)
    assert (train.scenes, train.rasters, train.pixels) == (1, 2, 2 * 48 * 48)
    assert report.bands == {"3 x uint8, 1,2,3 as red, green, blue": 6}
    text = report.to_text()
    assert text.endswith("\nok")
    assert "48 x 48" in text
    assert f"{train.share(0):.1%}" in text


def test_everything_wrong_is_listed_at_once(root: Path) -> None:
    stray = paint(indices(48, 48, 5), DUBAI)
    stray[:, 5, 7:10] = np.array([1, 2, 3])[:, None]
    stray[:, 9, 9] = 4
    save(root / "a" / "masks" / "p0.png", stray)
    save(root / "a" / "masks" / "p1.png", paint(indices(48, 40, 5), DUBAI))
    save(root / "b" / "images" / "lonely.png", pixels(8, 8))
    save(root / "b" / "masks" / "imageless.png", stray)
    damaged = root / "b" / "images" / "p1.png"
    damaged.write_bytes(damaged.read_bytes()[:-3000])
    (root / "c" / "masks" / "p0.png").write_bytes(b"")
    shutil.copy(root / "b" / "images" / "p0.png", root / "c" / "images" / "p1.png")
    (root / "classes.toml").write_text(DUBAI.to_toml())
    report = check(root, val=("c",))
    text = "\n".join(report.problems)
    for part in (
        "1 images have no mask, first",
        "a/p0: ",
        "2 colours belong to no class: #010203 (3 px, first at row 5, column 7), "
        "#040404 (1 px, first at row 9, column 9)",
        "p1.png is 40 x 48 pixels, its image 48 x 48",
        "b/p1: ",
        "truncated or damaged",
        "c/p0: ",
        "the same image file on two sides of the split: train b/p0, val c/p1",
    ):
        assert part in text
    assert len(report.problems) == 6
    assert any("1 masks have no image" in note for note in report.notes)
    assert report.sides["train"].unknown == 4
    assert report.to_text().endswith("\n6 problems")


def test_labels_only_does_not_read_images(root: Path) -> None:
    damaged = root / "b" / "images" / "p1.png"
    damaged.write_bytes(damaged.read_bytes()[:-3000])
    assert not check(root).ok
    report = check(root, images=False)
    assert report.ok
    assert "not read (labels only)" in report.to_text()


def test_an_impossible_split_does_not_hide_the_rest(tmp_path: Path) -> None:
    scene_folder(tmp_path, ("only",), DUBAI)
    save(tmp_path / "only" / "masks" / "p1.png", paint(indices(48, 40, 5), DUBAI))
    report = check(tmp_path)
    assert "a second scene is needed" in report.problems[0]
    assert "p1.png is 40 x 48" in report.problems[1]


def test_masks_without_a_meaning_do_not_hide_the_rest(root: Path) -> None:
    for scene in "abc":
        for part in (0, 1):
            save(root / scene / "masks" / f"p{part}.png", pixels(48, 48))
    save(root / "a" / "masks" / "p1.png", pixels(48, 40))
    report = check(root)
    assert report.classes == ()
    assert "stored without loss" in report.problems[0]
    assert "p1.png is 40 x 48" in report.problems[1]
    assert len(report.problems) == 2


def test_absent_classes_and_repeated_images_are_warnings(root: Path) -> None:
    for part in (0, 1):
        save(root / "c" / "masks" / f"p{part}.png", paint(indices(48, 48, 4), DUBAI))
    shutil.copy(root / "a" / "images" / "p0.png", root / "a" / "images" / "p1.png")
    report = check(root)
    assert report.ok
    assert report.warnings == (
        "class water does not occur in val",
        "the same image file 2 times: train a/p0, train a/p1",
    )


def test_overlapping_footprints_leak_and_neighbours_do_not(tmp_path: Path) -> None:
    for name, east in (("a", 0.0), ("b", 20.0), ("c", 40.0), ("d", 59.0)):
        seed = ord(name)
        save_tif(tmp_path / f"{name}.tif", pixels(40, 40, seed), 300000 + east)
        save_tif(tmp_path / f"{name}_labels.tif", indices(40, 40, 3, seed)[None], 300000 + east)
    report = check(tmp_path, val=("b",))
    assert (report.ok, report.gsd_m) == (True, pytest.approx((0.5, 0.5), rel=1e-3))
    report = check(tmp_path, val=("d",))
    assert report.problems == ("train and val share ground: c and d",)


def test_a_scene_in_two_folders_leaks(tmp_path: Path) -> None:
    scene_folder(tmp_path / "train", ("t",), DUBAI, parts=1)
    scene_folder(tmp_path / "val", ("t",), DUBAI, parts=1)
    problems = check(tmp_path).problems
    assert problems[0] == "scene t is in train and in val; a scene belongs to one side only"
    assert "the same image file on two sides" in problems[1]


def test_dtype_scale_and_pixels_without_data(tmp_path: Path) -> None:
    for name in "ab":
        image = pixels(70, 40, ord(name)).astype(np.uint16) * 10
        image[:, :10] = 0
        save_tif(tmp_path / f"{name}.tif", image, 300000 + ord(name) * 100, nodata=0, blockysize=3)
        save_tif(tmp_path / f"{name}_labels.tif", indices(70, 40, 3)[None], 300000 + ord(name) * 100)
    assert len(check(tmp_path).problems) == 2
    assert "--scale LOW,HIGH" in check(tmp_path).problems[0]
    report = check(tmp_path, scale=(0, 2550))
    assert report.ok
    assert report.sides["train"].empty == 10 * 40
    assert "(no data)" in report.to_text()
    assert all("lie outside --scale" in p for p in check(tmp_path, scale=(0, 1)).problems)
    notes = check(tmp_path, scale=(0, 2000)).notes
    assert any("2 rasters, first a: " in n or "lie outside --scale and were clipped" in n for n in notes)


def test_samples_share_an_invented_place_without_leaking(tmp_path: Path) -> None:
    open_dataset(None, sample_folder=tmp_path, sample_count=2, sample_side=64)
    report = check(tmp_path)
    assert report.ok
    assert report.classes == ("building", "land", "road", "vegetation", "water")


def test_nothing_to_check_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no labelled image"):
        check(tmp_path)
