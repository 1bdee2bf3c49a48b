"""ISPRS trees as they are downloaded, in small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labelled import indices, paint, pixels, save
from rsedge.errors import InputError
from rsedge.model.manifest import NODATA
from rsedge.tiling.window import Window
from rsedge_train.data import SceneReader, check, open_dataset
from rsedge_train.data.isprs import POTSDAM, TABLE, VAIHINGEN

GTS = "ISPRS_semantic_labeling_Vaihingen/gts_for_participants"
COMPLETE = "ISPRS_semantic_labeling_Vaihingen_ground_truth_COMPLETE"
ERODED = "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE"
SIDE = 24


def labels_of(area: object) -> np.ndarray:
    return indices(SIDE, SIDE, 6, sum(map(ord, str(area))))


def vaihingen(root: Path, areas: object, truth: str = COMPLETE, eroded: bool = True) -> Path:
    for area in areas:
        name = f"top_mosaic_09cm_area{area}"
        labels = labels_of(area)
        save(
            root / "ISPRS_semantic_labeling_Vaihingen" / "top" / f"{name}.tif", pixels(SIDE, SIDE, int(area))
        )
        save(root / truth / f"{name}.tif", paint(labels, TABLE))
        if eroded:
            cut = labels.copy()
            cut[::8] = NODATA  # black
            save(root / ERODED / f"{name}_noBoundary.tif", paint(cut, TABLE))
    (root / "ISPRS_semantic_labeling_Vaihingen" / "dsm").mkdir(exist_ok=True)
    save(root / "ISPRS_semantic_labeling_Vaihingen" / "dsm" / "dsm_09cm_matching_area1.tif", pixels(8, 8))
    return root


def potsdam(root: Path, scenes: object, kinds: object = ("RGB",), eroded: bool = False) -> Path:
    folders = {"RGB": "2_Ortho_RGB", "IRRG": "3_Ortho_IRRG", "RGBIR": "4_Ortho_RGBIR"}
    for number, scene in enumerate(scenes):
        for kind in kinds:
            bands = pixels(SIDE, SIDE, number, 4 if kind == "RGBIR" else 3)
            save(root / folders[kind] / f"top_potsdam_{scene}_{kind}.tif", bands)
        painted = paint(labels_of(scene), TABLE)
        save(root / "5_Labels_all" / f"top_potsdam_{scene}_label.tif", painted)
        if eroded:
            save(root / "5_Labels_all_noBoundary" / f"top_potsdam_{scene}_label_noBoundary.tif", painted)
    return root


def names(part: object) -> list[str]:
    return [f.scene for f in part]


def test_the_papers_splits_are_whole() -> None:
    assert [len(part) for part in (VAIHINGEN.train, VAIHINGEN.val, VAIHINGEN.test)] == [15, 1, 17]
    assert [len(part) for part in (POTSDAM.train, POTSDAM.val, POTSDAM.test)] == [22, 1, 14]
    for campaign, scenes in ((VAIHINGEN, 33), (POTSDAM, 37)):  # 38 less 7_10
        assert len({*campaign.train, *campaign.val, *campaign.test}) == scenes


def test_vaihingen_whole(tmp_path: Path) -> None:
    areas = (*VAIHINGEN.train, *VAIHINGEN.val, *VAIHINGEN.test)
    dataset = open_dataset(vaihingen(tmp_path, areas))
    assert names(dataset.train) == [f"area{a}" for a in VAIHINGEN.train]
    assert names(dataset.val) == ["area30"]
    assert names(dataset.test) == [f"area{a}" for a in VAIHINGEN.test]
    assert dataset.table.names == ("impervious", "building", "low_vegetation", "tree", "car", "clutter")
    assert (dataset.bands.names, dataset.bands.indexes) == (("nir", "red", "green"), (1, 2, 3))
    assert (dataset.gsd_m, dataset.uncounted) == ((0.09, 0.09), ("clutter",))
    assert not any("lack image or label" in note for note in dataset.notes)
    assert all(f.scoring_label is None and COMPLETE in str(f.label) for f in dataset.train)


def test_vaihingen_is_read_in_full_and_scored_eroded(tmp_path: Path) -> None:
    dataset = open_dataset(vaihingen(tmp_path, (1, 30)), eroded=True)
    window = Window(0, 0, SIDE, SIDE)
    with (
        SceneReader(dataset.val[0], dataset) as full,
        SceneReader(dataset.val[0].for_scoring(), dataset) as cut,
    ):
        image, labels = full.read(window)
        np.testing.assert_array_equal(image, pixels(SIDE, SIDE, 30))
        np.testing.assert_array_equal(labels, labels_of(30))
        scored = cut.read_labels(window)
    expected = labels_of(30)
    expected[::8] = NODATA
    np.testing.assert_array_equal(scored, expected)


def test_a_part_of_a_download_works_and_says_what_is_missing(tmp_path: Path) -> None:
    dataset = open_dataset(vaihingen(tmp_path, (1, 3, 30, 99), GTS, eroded=False))
    assert (names(dataset.train), names(dataset.val), dataset.test) == (["area1", "area3"], ["area30"], ())
    notes = "\n".join(dataset.notes)
    assert "30 scenes lack image or label" in notes
    assert "area5" in notes
    assert "scenes in no split are skipped: area99" in notes


def test_scenes_can_be_chosen_by_number_or_name(tmp_path: Path) -> None:
    root = vaihingen(tmp_path, (1, 3, 5, 2, 4, 30))
    dataset = open_dataset(root, val=("3",), test=("area4",))
    assert names(dataset.val) == ["area3"]
    assert names(dataset.test) == ["area4"]
    assert names(dataset.train) == ["area1", "area2", "area5", "area30"]
    dataset = open_dataset(root, val=("none",))
    assert (names(dataset.val), names(dataset.test)) == ([], ["area2", "area4"])
    with pytest.raises(InputError, match="area8: no such scene. The scenes are area1, "):
        open_dataset(root, val=("8",))


def test_what_is_missing_is_an_error(tmp_path: Path) -> None:
    root = vaihingen(tmp_path, (1, 3), eroded=False)
    with pytest.raises(
        InputError, match=r"no scene of the val split has image and label \(area30\); found area1, area3"
    ):
        open_dataset(root)
    with pytest.raises(InputError, match=r"_noBoundary: area3 has none"):
        open_dataset(root, val=("3",), eroded=True)
    potsdam(root, ("2_10",))
    with pytest.raises(InputError, match="both ISPRS data sets"):
        open_dataset(root)


def test_potsdam_prefers_rgb(tmp_path: Path) -> None:
    root = potsdam(tmp_path, (*POTSDAM.train, *POTSDAM.val, "7_10"), ("RGB", "IRRG", "RGBIR"), eroded=True)
    dataset = open_dataset(root, eroded=True)
    assert names(dataset.train) == list(POTSDAM.train)
    assert names(dataset.val) == ["2_10"]
    assert all(f.image.name.endswith("_RGB.tif") for f in dataset.train)
    assert (
        dataset.val[0].scoring_label
        == root / "5_Labels_all_noBoundary" / "top_potsdam_2_10_label_noBoundary.tif"
    )
    assert (dataset.bands.names, dataset.bands.indexes) == (("red", "green", "blue"), (1, 2, 3))
    assert dataset.gsd_m == (0.05, 0.05)
    notes = "\n".join(dataset.notes)
    assert "reading the RGB images; RGBIR, IRRG images were found too" in notes
    assert "scenes in no split are skipped: 7_10" in notes


@pytest.mark.parametrize(
    ("asked", "kinds", "suffix", "names_", "indexes"),
    [
        (
            {"band_names": ("nir", "red", "green")},
            ("RGB", "IRRG"),
            "_IRRG.tif",
            ("nir", "red", "green"),
            (1, 2, 3),
        ),
        (
            {"band_names": ("nir", "red", "green")},
            ("RGB", "RGBIR"),
            "_RGBIR.tif",
            ("nir", "red", "green"),
            (4, 1, 2),
        ),
        ({"bands": (4, 1, 2)}, ("RGB", "IRRG", "RGBIR"), "_RGBIR.tif", ("nir", "red", "green"), (4, 1, 2)),
        ({"bands": (3, 2, 1)}, ("RGB",), "_RGB.tif", ("blue", "green", "red"), (3, 2, 1)),
        ({"scale": (0.0, 200.0)}, ("IRRG",), "_IRRG.tif", ("nir", "red", "green"), (1, 2, 3)),
        ({}, ("RGBIR",), "_RGBIR.tif", ("red", "green", "blue"), (1, 2, 3)),
    ],
)
def test_bands_choose_the_kind_of_image(
    tmp_path: Path, asked: dict, kinds: object, suffix: str, names_: object, indexes: object
) -> None:
    dataset = open_dataset(potsdam(tmp_path, ("2_10", "2_11"), kinds), **asked)
    assert dataset.train[0].image.name == f"top_potsdam_2_11{suffix}"
    assert (dataset.bands.names, dataset.bands.indexes) == (names_, indexes)
    assert dataset.bands.scale == asked.get("scale")


def test_bands_that_no_image_has_are_an_error(tmp_path: Path) -> None:
    root = potsdam(tmp_path, ("2_10", "2_11"))
    with pytest.raises(InputError, match=r"bands \(4, 1, 2\): found in no image .*RGB: red, green, blue"):
        open_dataset(root, bands=(4, 1, 2))


def test_a_check_of_isprs_counts_the_full_labels(tmp_path: Path) -> None:
    report = check(vaihingen(tmp_path, (1, 30, 2)), eroded=True)
    assert report.problems == ()
    assert report.layout == "ISPRS Vaihingen"
    for side, area in (("train", 1), ("val", 30), ("test", 2)):
        assert list(report.sides[side].class_pixels) == np.bincount(labels_of(area).ravel()).tolist()
        assert report.sides[side].unlabelled == 0
