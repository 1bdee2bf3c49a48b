"""Sample scenes as training data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from labelled import indices, save, scene_folder
from rsedge.errors import InputError
from rsedge.score.labels import ClassTable
from rsedge.tiling.window import Window
from rsedge_sample import CLASSES, SampleScene
from rsedge_train.data import BandChoice, SceneReader, open_dataset, with_samples
from rsedge_train.data.detect import KNOWN
from rsedge_train.data.samples import GSDS_M

SIDE = 64


@pytest.fixture
def dubai(tmp_path: Path) -> Path:
    scene_folder(tmp_path / "own", ("a", "b"), KNOWN["dubai"], parts=1)
    return tmp_path / "own"


def test_without_data_the_samples_are_the_data(tmp_path: Path) -> None:
    seen = []
    folder = tmp_path / "samples"
    dataset = open_dataset(
        None,
        sample_folder=folder,
        sample_count=3,
        sample_side=SIDE,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(i, 5) for i in range(1, 6)]
    assert [f.scene for f in dataset.train] == ["sample1000", "sample1001", "sample1002"]
    assert [f.scene for f in dataset.val] == ["sample9000", "sample9001"]
    assert dataset.table.names == CLASSES
    assert dataset.notes == (f"no data given: training on 3 procedural sample scenes in {folder}/",)
    scene = SampleScene(SIDE, SIDE, 1001, GSDS_M[1])
    with SceneReader(dataset.train[1], dataset) as reader:
        image, labels = reader.read(Window(0, 0, SIDE, SIDE))
        assert reader.grid.gsd_m == pytest.approx(GSDS_M[1], rel=1e-3)
    expected_image, expected_labels = scene.render(Window(0, 0, SIDE, SIDE))
    np.testing.assert_array_equal(image, expected_image)
    np.testing.assert_array_equal(labels, expected_labels)


def test_the_ground_resolutions_are_spread() -> None:
    assert (min(GSDS_M), max(GSDS_M), len(set(GSDS_M))) == (0.25, 1.0, 12)
    assert max(GSDS_M[:3]) / min(GSDS_M[:3]) > 3


def test_scenes_that_are_whole_are_not_drawn_again(tmp_path: Path) -> None:
    facts = {"sample_folder": tmp_path, "sample_count": 2, "sample_side": SIDE}
    first = open_dataset(None, **facts)
    before = [f.image.stat().st_mtime_ns for f in first.train]
    first.train[0].label.unlink()
    size = first.val[0].image.stat().st_size
    first.val[0].image.write_bytes(first.val[0].image.read_bytes()[:50])
    second = open_dataset(None, **facts)
    assert second == first
    after = [f.image.stat().st_mtime_ns for f in second.train]
    assert (after[0] != before[0], after[1] == before[1]) == (True, True)
    assert second.val[0].image.stat().st_size == size


def test_options_of_own_data_are_refused_without_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="need data of your own"):
        open_dataset(None, val=("x",), sample_folder=tmp_path)
    with pytest.raises(InputError, match="at least one"):
        open_dataset(None, sample_count=0, sample_folder=tmp_path)


def test_samples_join_data_of_the_same_classes(tmp_path: Path, dubai: Path) -> None:
    dataset = open_dataset(dubai)
    more = with_samples(dataset, tmp_path / "s", 2, SIDE)
    assert [f.scene for f in more.train] == ["a", "sample1000", "sample1001"]
    assert (more.val, more.table) == (dataset.val, KNOWN["dubai"])
    with SceneReader(more.train[1], more) as reader:
        labels = reader.read_labels(Window(0, 0, SIDE, SIDE))
    _, expected = SampleScene(SIDE, SIDE, 1000, GSDS_M[0]).render(Window(0, 0, SIDE, SIDE))
    np.testing.assert_array_equal(labels, expected)
    with pytest.raises(InputError, match="already holds samples, e.g. sample1000"):
        with_samples(more, tmp_path / "s", 2, SIDE)


def test_samples_hold_indices_whatever_the_data_s_own_labels_hold(tmp_path: Path, dubai: Path) -> None:
    names = "\n".join(f"{name} = {i + 1}" for i, name in enumerate(KNOWN["dubai"].names))
    for scene in "ab":
        save(dubai / scene / "masks" / "p0.png", indices(48, 48, 5) + 1)
    (dubai / "classes.toml").write_text(f"ignore = [0]\n[classes]\n{names}\n")
    more = with_samples(open_dataset(dubai), tmp_path / "s", 1, SIDE)
    window = Window(0, 0, 48, 48)
    _, drawn = SampleScene(SIDE, SIDE, 1000, GSDS_M[0]).render(Window(0, 0, SIDE, SIDE))
    for files, expected in zip(more.train, (indices(48, 48, 5), drawn[:48, :48]), strict=True):
        with SceneReader(files, more) as reader:
            np.testing.assert_array_equal(reader.read_labels(window), expected)


def test_samples_do_not_join_what_they_do_not_fit(tmp_path: Path, dubai: Path) -> None:
    dataset = open_dataset(dubai)
    turned = ClassTable(dataset.table.classes[::-1])
    for changed, message in (
        (replace(dataset, table=turned), r"another order: water, vegetation"),
        (replace(dataset, table=KNOWN["isprs"]), "other classes: impervious"),
        (replace(dataset, bands=BandChoice(("nir", "red", "green"))), "8-bit red, green, blue"),
        (replace(dataset, bands=BandChoice(scale=(0, 9))), "scale"),
        (replace(dataset, bands=BandChoice(indexes=(3, 2, 1))), r"bands \(3, 2, 1\)"),
    ):
        with pytest.raises(InputError, match=message):
            with_samples(changed, tmp_path / "s", 2, SIDE)
    assert not (tmp_path / "s").exists()
