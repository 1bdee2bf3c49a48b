"""The check of labelled data: counts against numpy, and every kind of damage found in one go."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from labelled import indices, paint, pixels, save, save_palette, save_tif, scene_folder
from rsedge.errors import InputError
from rsedge.score.labels import LOVEDA
from rsedge.tiling.window import Window
from rsedge_train.data import SceneReader, check, open_dataset, scan
from rsedge_train.data.detect import KNOWN
from rsedge_train.run.setup import check_present, label_doubts

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
        "the same image file is in two splits: train b/p0, val c/p1",
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
    assert "needs a second scene" in report.problems[0]
    assert "p1.png is 40 x 48" in report.problems[1]


def test_masks_without_a_meaning_do_not_hide_the_rest(root: Path) -> None:
    for scene in "abc":
        for part in (0, 1):
            save(root / scene / "masks" / f"p{part}.png", pixels(48, 48))
    save(root / "a" / "masks" / "p1.png", pixels(48, 40))
    report = check(root)
    assert report.classes == ()
    assert "stored without lossy" in report.problems[0]
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
        "the same image file occurs 2 times: train a/p0, train a/p1",
    )


def test_overlapping_footprints_leak_and_neighbours_do_not(tmp_path: Path) -> None:
    for name, east in (("a", 0.0), ("b", 20.0), ("c", 40.0), ("d", 59.0)):
        seed = ord(name)
        save_tif(tmp_path / f"{name}.tif", pixels(40, 40, seed), 300000 + east)
        save_tif(tmp_path / f"{name}_labels.tif", indices(40, 40, 3, seed)[None], 300000 + east)
    report = check(tmp_path, val=("b",))
    assert (report.ok, report.gsd_m) == (True, pytest.approx((0.5, 0.5), rel=1e-3))
    report = check(tmp_path, val=("d",))
    assert report.problems == ("train and val overlap on the ground: c and d",)


def test_a_scene_in_two_folders_leaks(tmp_path: Path) -> None:
    scene_folder(tmp_path / "train", ("t",), DUBAI, parts=1)
    scene_folder(tmp_path / "val", ("t",), DUBAI, parts=1)
    problems = check(tmp_path).problems
    assert problems[0] == "scene t is in both train and val. Assign each scene to one split"
    assert "the same image file is in two splits" in problems[1]


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
    with pytest.raises(InputError, match="contains no labelled image"):
        check(tmp_path)


GREYS = '[classes]\nback = "#000000"\nroof = "#FFFFFF"\n'


def one_band(root: Path, change: Callable[[np.ndarray], np.ndarray], classes: int = 2) -> Path:
    """Scenes a, b and c with one-band masks, in some other values than indices."""
    for number, scene in enumerate("abc"):
        save(root / scene / "images" / "p.png", pixels(48, 48, number))
        mask = change(indices(48, 48, classes, number))
        save(root / scene / "masks" / "p.png", mask)
    return root


@pytest.mark.parametrize("quiet", [False, True])
def test_a_proposed_table_can_be_copied(
    tmp_path: Path, quiet: bool, call_rsedge: Callable[..., tuple[int, str, str]]
) -> None:
    one_band(tmp_path, lambda k: k * 255)
    code, out, err = call_rsedge("data", "check", tmp_path, "--val", "c", *(["--quiet"] if quiet else []))
    assert code == 2
    lines = (out + err).partition("write classes.toml into the folder:\n")[2].splitlines()
    (tmp_path / "classes.toml").write_text("\n".join(line for line in lines if line.startswith("    ")))
    assert check(tmp_path, val=("c",)).classes == ("class0", "class255")


@pytest.mark.parametrize("table", [GREYS, "[classes]\nback = 0\nroof = 255\n"])
def test_masks_of_0_and_255_are_read_as_the_table_says(tmp_path: Path, table: str) -> None:
    one_band(tmp_path, lambda k: k * 255)
    (tmp_path / "classes.toml").write_text(table)
    report = check(tmp_path, val=("c",))
    expected = sum(np.bincount(indices(48, 48, 2, n).ravel()) for n in range(2))
    assert report.ok
    assert report.sides["train"].class_pixels == tuple(expected)
    assert report.sides["train"].unlabelled == 0
    dataset = open_dataset(tmp_path, val=("c",))
    assert (scan(dataset, dataset.train).counts == expected).all()


def test_a_table_s_class_without_a_label_pixel_is_a_problem(tmp_path: Path) -> None:
    one_band(tmp_path, lambda k: np.where(k == 1, 255, 0).astype(np.uint8))
    (tmp_path / "classes.toml").write_text('[classes]\nred = "#FF0000"\nblue = "#0000FF"\n')
    report = check(tmp_path, val=("c",))
    lost = sum(int(indices(48, 48, 2, n).sum()) for n in range(3))
    (problem,) = report.problems
    assert f"no label pixel of class blue; taken for unlabelled: 255 ({lost} px)" in problem
    assert report.sides["train"].unlabelled_by == {"255": report.sides["train"].unlabelled}
    assert f"treated as unlabelled: 255 ({lost:,} px)" in report.to_text()
    assert check(tmp_path, val=("c",), allow_missing=True).ok
    dataset = open_dataset(tmp_path, val=("c",))
    scans = [*scan(dataset, dataset.train).scenes, *scan(dataset, dataset.val).scenes]
    with pytest.raises(InputError, match=rf"data .* hold no label pixel of class blue; .* 255 \({lost} px\)"):
        check_present(dataset, scans, allow_missing=False)
    check_present(dataset, scans, allow_missing=True)


def test_a_class_may_stand_in_one_raster_of_either_side(tmp_path: Path) -> None:
    one_band(tmp_path, lambda k: k * 0)
    save(tmp_path / "c/masks/p.png", indices(48, 48, 2))
    (tmp_path / "classes.toml").write_text('[classes]\nred = "#FF0000"\nblue = "#0000FF"\n')
    assert check(tmp_path, val=("c",)).ok
    assert not check(tmp_path, test=("c",)).ok  # neither trains nor validates


def test_a_label_that_cannot_be_read_is_the_only_problem(tmp_path: Path) -> None:
    one_band(tmp_path, lambda k: k * 0)
    (tmp_path / "a/masks/p.png").write_bytes(b"")
    (tmp_path / "classes.toml").write_text('[classes]\nred = "#FF0000"\nblue = "#0000FF"\n')
    (problem,) = check(tmp_path, val=("c",)).problems
    assert "a/masks/p.png" in problem


def test_index_0_is_no_data_where_the_table_says_so(tmp_path: Path) -> None:
    def change(labels: np.ndarray) -> np.ndarray:
        found = labels + 1
        found[:, :7] = 0
        return found

    one_band(tmp_path, change, classes=3)
    report = check(tmp_path, val=("c",))
    (note,) = (n for n in report.notes if "one-band masks" in n)
    assert report.classes == ("class0", "class1", "class2", "class3")
    assert "ignore = [0]" in note
    (tmp_path / "classes.toml").write_text(note.split(":\n", 1)[1])  # what is proposed is a table
    assert check(tmp_path, val=("c",)).classes == report.classes
    for text in ("ignore = [0]\n[classes]\nred = 1\ngreen = 2\nblue = 3\n", NAMED):
        (tmp_path / "classes.toml").write_text(text)
        found = check(tmp_path, val=("c",))
        assert (found.ok, found.classes) == (True, ("red", "green", "blue"))
        assert found.sides["train"].unlabelled_by == {"0": 2 * 48 * 7}
    (tmp_path / "classes.toml").write_text(
        '[classes]\nred = "#FF0000"\ngreen = "#00FF00"\nblue = "#0000FF"\n'
    )
    assert all("e.g. NAME = 1, or ignore" in p for p in check(tmp_path, val=("c",)).problems)


NAMED = (
    'ignore = ["none"]\n[classes]\nnone = "#000000"\nred = "#FF0000"\ngreen = "#00FF00"\nblue = "#0000FF"\n'
)


@pytest.mark.parametrize("areas", [("Urban", "Rural"), ("Urban",)])
def test_loveda_as_it_is_downloaded(tmp_path: Path, areas: tuple[str, ...]) -> None:
    mask = indices(48, 48, 7) + 1
    mask[:, :5] = 0
    for number, side in enumerate(("Train", "Val", "Test")):
        for place, area in enumerate(areas):
            folder = tmp_path / side / area
            save(folder / "images_png" / f"{number}.png", pixels(48, 48, 10 * number + place))
            if side != "Test":
                save(folder / "masks_png" / f"{number}.png", mask)
    report = check(tmp_path)
    assert (report.ok, report.layout, report.problems) == (True, "LoveDA", ())
    assert report.classes == LOVEDA.names
    for side in ("train", "val"):
        assert report.sides[side].rasters == len(areas)
        assert report.sides[side].unlabelled == len(areas) * 48 * 5
        assert report.sides[side].class_pixels[6] == len(areas) * int((mask == 7).sum())
    assert any("have no masks and are skipped" in note for note in report.notes)
    dataset = open_dataset(tmp_path)
    assert {f.scene for f in dataset.val} == {f"Val/{area}" for area in areas}
    with SceneReader(dataset.train[0], dataset) as reader:
        np.testing.assert_array_equal(
            reader.read_labels(Window(0, 0, 48, 48)), np.where(mask == 0, 255, mask - 1)
        )


def test_a_known_data_set_may_lack_classes_but_not_all_but_one(tmp_path: Path) -> None:
    for side in ("Train", "Val"):
        save(tmp_path / side / "Rural/images_png/1.png", pixels(48, 48, ord(side[0])))
        save(tmp_path / side / "Rural/masks_png/1.png", indices(48, 48, 2) + 1)
    assert check(tmp_path).ok
    for side in ("Train", "Val"):
        save(tmp_path / side / "Rural/masks_png/1.png", indices(48, 48, 2))
    (problem,) = check(tmp_path).problems
    assert "no label pixel of classes building, road, water, barren, forest, agriculture" in problem


@pytest.mark.parametrize("orientation", range(2, 9))
def test_turned_images_are_problems(tmp_path: Path, orientation: int) -> None:
    one_band(tmp_path, lambda k: k)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.moveaxis(pixels(48, 48), 0, 2)).save(tmp_path / "a/images/p.png", exif=exif)
    (problem,) = check(tmp_path, val=("c",)).problems
    assert f"has EXIF orientation {orientation}" in problem
    dataset = open_dataset(tmp_path, val=("c",))
    with pytest.raises(InputError, match=f"has EXIF orientation {orientation}"):
        scan(dataset, dataset.train)


def test_indices_beside_0_and_255_are_told(tmp_path: Path) -> None:
    """Half of the masks store the white class as 1 and half as 255: nobody can tell 255 from unlabelled."""
    one_band(tmp_path, lambda k: k * 255)
    save(tmp_path / "a/masks/p.png", indices(48, 48, 2))
    (tmp_path / "classes.toml").write_text(GREYS)
    report = check(tmp_path, val=("c",))
    lost = sum(int(indices(48, 48, 2, n).sum()) for n in (1, 2))
    assert any(f"{lost} px of 255 in one-band labels are read as unlabelled" in n for n in report.notes)
    one_band(tmp_path, lambda k: k)
    assert not any("read as unlabelled" in n for n in check(tmp_path, val=("c",)).notes)


def test_a_mask_of_any_size_is_no_decompression_bomb(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # as 14000 x 14000 exceed Pillow's own
    report = check(root)
    assert report.ok


def test_a_palette_of_other_colours_than_the_table_is_a_problem_and_not_trained_on(root: Path) -> None:
    off = [(c.color[0] << 16 | c.color[1] << 8 | c.color[2]) ^ 1 for c in DUBAI.classes]
    for scene in "abc":
        for part in range(2):
            save_palette(root / scene / "masks" / f"p{part}.png", indices(48, 48, 5, part), off)
    (root / "classes.toml").write_text(DUBAI.to_toml())
    report = check(root, val=("c",))
    assert not report.ok
    assert f"5 colours belong to no class: #{off[0]:06X}" in "".join(report.problems)
    assert "as in NAME = 0" in report.problems[0]
    with pytest.raises(InputError, match="belong to no class"):
        scan(data := open_dataset(root, val=("c",)), data.train)
    (root / "classes.toml").write_text(
        "[classes]\n" + "".join(f"{n} = {i}\n" for i, n in enumerate(DUBAI.names))
    )
    assert check(root, val=("c",)).ok


def test_transparent_labels_are_counted_by_name_and_wide_colours_are_a_problem(root: Path) -> None:
    labels = paint(indices(48, 48, 5), DUBAI)
    alpha = np.full((1, 48, 48), 255, np.uint8)
    alpha[0, 4:9] = 0
    save(root / "a" / "masks" / "p0.png", np.concatenate([labels, alpha]))
    report = check(root, val=("c",))
    assert report.ok
    assert report.sides["train"].unlabelled_by == {"transparent": 5 * 48}
    (root / "a" / "masks" / "p1.png").unlink()
    save_tif(root / "a" / "masks" / "p1.tif", paint(indices(48, 48, 5), DUBAI) * np.uint16(257))
    assert "8 bits per band" in "".join(check(root, val=("c",)).problems)


def test_loveda_counted_from_0_passes_with_a_doubt_only(tmp_path: Path) -> None:
    for side in ("Train", "Val"):
        save(tmp_path / side / "Rural/images_png/1.png", pixels(48, 48, ord(side[0])))
        save(tmp_path / side / "Rural/masks_png/1.png", indices(48, 48, 7))
    assert any("every class is off by one" in note for note in check(tmp_path).notes)
    data = open_dataset(tmp_path)
    (note,) = label_doubts(data, scan(data, (*data.train, *data.val)).scenes)
    assert "every class is off by one" in note
    for side in ("Train", "Val"):
        save(tmp_path / side / "Rural/masks_png/1.png", indices(48, 48, 8))
    assert not any("off by one" in note for note in check(tmp_path).notes)
