"""``datasets.base``: reading one labelled scene, against rasterio and numpy on the whole of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from labelled import indices, pixels, save, save_palette, save_tif
from rsedge.errors import InputError
from rsedge.model.manifest import ClassInfo
from rsedge.raster.band_plan import Masking
from rsedge.score.labels import ClassTable
from rsedge.tiling.window import Window
from rsedge_train.data import BandChoice, Dataset, SceneFiles, SceneReader
from rsedge_train.data.base import IGNORE

TABLE = ClassTable((ClassInfo("a", (250, 0, 0)), ClassInfo("b", (0, 250, 0)), ClassInfo("c", (0, 0, 250))))


RGB = BandChoice()


def one(image: Path, label: Path, bands: BandChoice = RGB) -> Dataset:
    return Dataset("one", TABLE, (SceneFiles("s", "s", image, label),), bands=bands)


def open_one(dataset: Dataset) -> SceneReader:
    return SceneReader(dataset.train[0], dataset)


def test_windows_of_a_striped_geotiff_are_those_of_the_whole(tmp_path: Path) -> None:
    image, labels = pixels(130, 150), indices(130, 150, 3)
    dataset = one(
        save_tif(tmp_path / "x.tif", image, blockysize=7, compress="deflate"),
        save_tif(tmp_path / "x_labels.tif", labels[None], tiled=True, blockxsize=64, blockysize=64),
    )
    with open_one(dataset) as reader:
        assert reader.shape == (130, 150)
        assert reader.grid.gsd_m == pytest.approx(0.5, rel=1e-3)
        for window in (Window(0, 0, 130, 150), Window(61, 40, 20, 33), Window(129, 149, 1, 1)):
            area = (slice(window.row, window.row_end), slice(window.col, window.col_end))
            got_image, got_labels = reader.read(window)
            np.testing.assert_array_equal(got_image, image[(slice(None), *area)])
            np.testing.assert_array_equal(got_labels, labels[area])
            np.testing.assert_array_equal(reader.read_labels(window), labels[area])


def test_pixels_without_data_are_filled_and_not_trained_on(tmp_path: Path) -> None:
    image, labels = pixels(40, 50), indices(40, 50, 3)
    image[:, 5:12, :20] = 0
    image[0, 30] = 0  # one band only: data
    dataset = one(
        save_tif(tmp_path / "x.tif", image, nodata=0), save_tif(tmp_path / "x_labels.tif", labels[None])
    )
    with open_one(dataset) as reader, rasterio.open(tmp_path / "x.tif") as src:
        got, truth = reader.read(Window(0, 0, 40, 50))
        empty = src.dataset_mask() == 0
    assert empty.sum() == 7 * 20
    np.testing.assert_array_equal(truth, np.where(empty, IGNORE, labels))
    fill = np.array(dataset.manifest("m", 64).fill)
    np.testing.assert_array_equal(got, np.where(empty, fill[:, None, None], image))


def test_a_palette_label_and_a_16_bit_image(tmp_path: Path) -> None:
    values, shuffled = indices(40, 40, 3), np.array([2, 0, 1], np.uint8)
    image = pixels(40, 40, bands=4).astype(np.uint16) * 11
    label = save_palette(tmp_path / "x_labels.png", values, (0x0000FA, 0xFA0000, 0x00FA00))
    dataset = one(
        save_tif(tmp_path / "x.tif", image, crs=None),
        label,
        BandChoice(("nir", "red", "green"), (4, 1, 2), (100, 2650)),
    )
    with open_one(dataset) as reader:
        got, truth = reader.read(Window(3, 5, 30, 31))
    np.testing.assert_array_equal(truth, shuffled[values][3:33, 5:36])
    expected = np.rint(np.clip((image[[3, 0, 1]].astype(float) - 100) / 10, 0, 255))
    np.testing.assert_array_equal(got, expected[:, 3:33, 5:36])


@pytest.mark.parametrize("bands", [BandChoice(indexes=(1, 2, 9)), BandChoice(scale=(9, 3))])
def test_bands_that_do_not_fit_are_refused(tmp_path: Path, bands: BandChoice) -> None:
    dataset = one(save(tmp_path / "x.png", pixels(9, 9)), save(tmp_path / "y.png", indices(9, 9, 3)), bands)
    with pytest.raises(InputError, match="bands 1 to 3|LOW below HIGH"):
        open_one(dataset)


def test_a_label_of_another_size_is_refused(tmp_path: Path) -> None:
    dataset = one(save(tmp_path / "x.png", pixels(40, 50)), save(tmp_path / "y.png", indices(40, 49, 3)))
    with pytest.raises(InputError, match="49 x 40 pixels, its image 50 x 40"):
        open_one(dataset)


def test_16_bits_without_a_scale_are_refused(tmp_path: Path) -> None:
    dataset = one(
        save_tif(tmp_path / "x.tif", pixels(9, 9).astype(np.uint16)),
        save(tmp_path / "y.png", indices(9, 9, 3)),
    )
    with pytest.raises(InputError, match="--scale LOW,HIGH"):
        open_one(dataset)


def test_a_scene_stands_on_one_side_and_something_is_trained_on(tmp_path: Path) -> None:
    files = SceneFiles("t/1", "t", tmp_path, tmp_path)
    with pytest.raises(InputError, match="scene t is in both train and test"):
        Dataset("d", TABLE, (files,), test=(SceneFiles("t/2", "t", tmp_path, tmp_path),))
    with pytest.raises(InputError, match="no training scene"):
        Dataset("d", TABLE, ())


def test_scoring_takes_its_own_label() -> None:
    files = SceneFiles("t", "t", Path("i"), Path("full"), Path("eroded"))
    assert files.for_scoring().label == Path("eroded")
    assert SceneFiles("t", "t", Path("i"), Path("full")).for_scoring().label == Path("full")


def test_the_manifest_tells_what_goes_in() -> None:
    bands = BandChoice(("nir", "red", "green"), (1, 2, 3))
    manifest = Dataset("d", TABLE, (SceneFiles("t", "t", Path("i"), Path("l")),), bands=bands).manifest(
        "m", 512
    )
    assert (manifest.bands, manifest.dtype, manifest.tile, manifest.classes) == (
        bands.names,
        "uint8",
        512,
        TABLE.classes,
    )


def test_nodata_and_alpha_that_the_user_says_are_not_trained_on(tmp_path: Path) -> None:
    image, labels = pixels(40, 50), indices(40, 50, 3)
    image[:, 5:12, :20] = 7
    infrared = np.random.default_rng(1).integers(0, 9, (1, 40, 50), np.uint8)
    dataset = one(
        save_tif(tmp_path / "x.tif", np.concatenate([image, infrared])),
        save_tif(tmp_path / "x_labels.tif", labels[None]),
    )
    for masking, empty in (
        (Masking(), infrared[0] == 0),
        (Masking(alpha="none"), np.zeros((40, 50), bool)),
        (Masking(nodata=(7,), alpha="none"), (image == 7).all(0)),
        (Masking(nodata=(7,)), (image == 7).all(0) | (infrared[0] == 0)),
    ):
        with open_one(replace(dataset, bands=BandChoice(masking=masking))) as reader:
            _, truth = reader.read(Window(0, 0, 40, 50))
        np.testing.assert_array_equal(truth, np.where(empty, IGNORE, labels))
