"""``datasets.scan``: one pass over all labels, against numpy on whole masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from labelled import indices, pixels, save, save_tif
from rsedge.errors import InputError
from rsedge.model.manifest import NODATA, ClassInfo
from rsedge.raster.band_plan import Masking
from rsedge.score.labels import ClassTable
from rsedge_train.data import BandChoice, Dataset, SceneFiles, scan
from rsedge_train.data.scan import BLOCK

TABLE = ClassTable((ClassInfo("a", (250, 0, 0)), ClassInfo("b", (0, 250, 0)), ClassInfo("c", (0, 0, 250))))
SHAPES = ((130, 200), (64, 65), (7, 300))


@pytest.fixture
def truths() -> list[np.ndarray]:
    labels = [indices(*shape, 3, seed) for seed, shape in enumerate(SHAPES)]
    labels[0][:, :70] = 0
    labels[0][90:] = NODATA
    return labels


@pytest.fixture
def dataset(tmp_path: Path, truths: list[np.ndarray]) -> Dataset:
    files = [
        SceneFiles(
            f"s{i}",
            f"s{i}",
            save(tmp_path / f"{i}.png", pixels(*truth.shape, i)),
            save_tif(tmp_path / f"{i}_labels.tif", truth[None], compress="lzw", gsd_m=1),
        )
        for i, truth in enumerate(truths)
    ]
    return Dataset("d", TABLE, tuple(files))


def test_counts_and_places_are_those_of_the_whole_masks(dataset: Dataset, truths: list[np.ndarray]) -> None:
    seen = []
    result = scan(dataset, dataset.train, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    every = np.concatenate([t.ravel() for t in truths])
    np.testing.assert_array_equal(result.counts, np.bincount(every, minlength=256)[:3])
    for scene, truth in zip(result.scenes, truths, strict=True):
        assert (scene.height, scene.width) == truth.shape
        rows, cols = -(-truth.shape[0] // BLOCK), -(-truth.shape[1] // BLOCK)
        for k in range(3):
            blocks = [
                r * cols + c
                for r in range(rows)
                for c in range(cols)
                if (truth[r * BLOCK : (r + 1) * BLOCK, c * BLOCK : (c + 1) * BLOCK] == k).any()
            ]
            assert scene.blocks_of(k).tolist() == blocks


def test_a_damaged_scene_is_named_or_skipped(dataset: Dataset, truths: list[np.ndarray]) -> None:
    label = dataset.train[1].label
    label.write_bytes(label.read_bytes()[:200])
    with pytest.raises(InputError, match=r"1_labels\.tif"):
        scan(dataset, dataset.train)
    result = scan(dataset, dataset.train, skip_damaged=True)
    assert [s.files.name for s in result.scenes] == ["s0", "s2"]
    ((name, why),) = result.skipped
    assert name == "s1"
    assert "1_labels.tif" in why
    every = np.concatenate([truths[i].ravel() for i in (0, 2)])
    np.testing.assert_array_equal(result.counts, np.bincount(every, minlength=256)[:3])


def test_nothing_left_is_an_error(dataset: Dataset) -> None:
    for files in dataset.train:
        files.label.write_bytes(b"")
    with pytest.raises(InputError, match="no scene can be read. First error: s0"):
        scan(dataset, dataset.train, skip_damaged=True)


def test_the_hash_changes_with_content_classes_and_bands(dataset: Dataset, truths: list[np.ndarray]) -> None:
    first = scan(dataset, dataset.train).sha256
    assert scan(dataset, dataset.train).sha256 == first
    assert scan(dataset, dataset.train[:2]).sha256 != first
    other = replace(dataset, table=ClassTable((*TABLE.classes, ClassInfo("d", (9, 9, 9)))))
    assert scan(other, dataset.train).sha256 != first
    assert (
        scan(replace(dataset, bands=replace(dataset.bands, indexes=(3, 2, 1))), dataset.train).sha256 != first
    )
    save(dataset.train[2].image, pixels(*truths[2].shape, 77))
    assert scan(dataset, dataset.train).sha256 != first


def test_what_one_look_at_the_images_says_is_said_once(tmp_path: Path) -> None:
    files = []
    for name in "ab":
        image = pixels(300, 400)
        image[:, :, :200] = 0
        files.append(
            SceneFiles(
                name,
                name,
                save_tif(tmp_path / f"{name}.tif", image),
                save_tif(tmp_path / f"{name}_labels.tif", indices(300, 400, 3)[None]),
            )
        )
    data = Dataset("d", TABLE, tuple(files))
    found = scan(data, data.train)
    (note,) = found.notes
    assert note.startswith("a (2 rasters): ")
    assert note.endswith("--nodata 0")
    marked = replace(data, bands=BandChoice(masking=Masking(nodata=(0,))))
    assert scan(marked, data.train).notes == ()
    assert scan(marked, data.train).sha256 != found.sha256
