"""Imagery without labels: which files are taken, what is read of them, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.enums import ColorInterp

from labelled import indices, paint, pixels, save, save_tif, scene_folder
from rsedge.errors import InputError
from rsedge.model.manifest import ClassInfo
from rsedge.raster.band_plan import Masking
from rsedge.score.labels import ClassTable
from rsedge.tiling.window import Window
from rsedge_train.data import BandChoice, SceneReader, open_dataset, with_unlabelled
from rsedge_train.data.base import IGNORE, TAUGHT
from rsedge_train.data.detect import KNOWN
from rsedge_train.data.unlabelled import scan_unlabelled

WHOLE = Window(0, 0, 48, 48)


@pytest.fixture
def dataset(tmp_path: Path):
    scene_folder(tmp_path / "own", ("a", "b"), KNOWN["dubai"], parts=1)
    return open_dataset(tmp_path / "own", val=("b",))


def read(dataset, number: int = 0, window: Window = WHOLE):
    with SceneReader(dataset.unlabelled[number], dataset) as reader:
        return reader.read(window)


def test_images_of_any_kind_and_depth_are_taken_and_labels_are_not(dataset, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    scene_folder(folder, ("c",), KNOWN["dubai"], parts=2)
    save(folder / "d" / "x.jpg", pixels(48, 48, 5))
    save_tif(folder / "y.tif", pixels(48, 48, 6))
    save_tif(folder / "y_labels.tif", indices(48, 48, 5)[None])
    save(folder / ".hidden.png", pixels(48, 48, 7))
    (folder / "notes.txt").touch()
    more = with_unlabelled(dataset, [folder, folder / "d"])
    names = [f.name for f in more.unlabelled]
    assert names == ["more/c/images/p0.png", "more/c/images/p1.png", "more/d/x.jpg", "more/y.tif"]
    assert (more.train, more.val, more.test) == (dataset.train, dataset.val, dataset.test)
    assert more.notes[-1].startswith(f"3 files in {folder} are labels by their names and are skipped, first ")
    found = scan_unlabelled(more)
    assert [s.counts.tolist() for s in found.scenes] == [[48 * 48]] * 4
    assert found.sha256 != scan_unlabelled(with_unlabelled(dataset, [folder / "d"])).sha256


def test_a_folder_may_be_called_after_the_labels_that_it_lacks(dataset, tmp_path: Path) -> None:
    save(tmp_path / "no_labels" / "x.png", pixels(48, 48))
    assert len(with_unlabelled(dataset, [tmp_path / "no_labels"]).unlabelled) == 1


def test_windows_hold_the_images_own_pixels_and_no_label(dataset, tmp_path: Path) -> None:
    image = pixels(48, 48, 5)
    save(tmp_path / "more" / "x.png", image)
    window = Window(3, 5, 20, 30)
    found, labels = read(with_unlabelled(dataset, [tmp_path / "more"]), window=window)
    np.testing.assert_array_equal(found, image[:, 3:23, 5:35])
    assert (labels == TAUGHT).all()


def test_nodata_alpha_and_scale_are_the_imagerys_own(dataset, tmp_path: Path) -> None:
    deep = (pixels(48, 48, 5).astype(np.uint16) - 1) * 10
    deep[:, :9] = 60000
    save_tif(tmp_path / "deep" / "x.tif", deep, nodata=60000)
    more = with_unlabelled(dataset, [tmp_path / "deep"], scale=(0, 2550))
    found, labels = read(more)
    with rasterio.open(tmp_path / "deep" / "x.tif") as src:
        valid = src.dataset_mask() > 0
    np.testing.assert_array_equal(labels, np.where(valid, TAUGHT, IGNORE))
    expected = np.rint(deep[:, 9:] / 10)
    assert np.abs(found[:, 9:].astype(int) - expected).max() <= 1
    (scan,) = scan_unlabelled(more).scenes
    assert scan.counts.tolist() == [39 * 48]

    clear = np.concatenate([pixels(48, 48, 6), np.full((1, 48, 48), 255, np.uint8)])
    clear[3, :, :20] = 0
    Image.fromarray(np.moveaxis(clear, 0, 2)).save(save(tmp_path / "alpha" / "x.png", clear[:3]))
    _, labels = read(with_unlabelled(dataset, [tmp_path / "alpha"]))
    np.testing.assert_array_equal(labels, np.where(clear[3] > 0, TAUGHT, IGNORE))

    save(tmp_path / "black" / "x.png", np.where(np.arange(48) < 10, 0, pixels(48, 48)).astype(np.uint8))
    _, labels = read(with_unlabelled(dataset, [tmp_path / "black"], masking=Masking((0,))))
    np.testing.assert_array_equal(
        labels, np.broadcast_to(np.where(np.arange(48) < 10, IGNORE, TAUGHT), (48, 48))
    )


def test_bands_of_another_order_are_chosen(dataset, tmp_path: Path) -> None:
    image = pixels(48, 48, 5, bands=4)
    save_tif(tmp_path / "more" / "x.tif", image)
    found, _ = read(with_unlabelled(dataset, [tmp_path / "more"], bands=(4, 2, 1)))
    np.testing.assert_array_equal(found, image[[3, 1, 0]])


def test_places_with_data_are_recorded(dataset, tmp_path: Path) -> None:
    image = pixels(200, 200, 5)
    image[:, :, :130] = 0
    save_tif(tmp_path / "more" / "x.tif", image, nodata=0)
    (scan,) = scan_unlabelled(with_unlabelled(dataset, [tmp_path / "more"])).scenes
    assert scan.present.shape == (1, 4, 4)
    np.testing.assert_array_equal(scan.present[0], [[False, False, True, True]] * 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: None, r"unlabelled imagery \S+more does not exist. Check the path"),
        (Path.touch, r"unlabelled imagery \S+more is a file. Give the folder that holds it"),
        (Path.mkdir, r"unlabelled imagery \S+more holds no image. Give a folder of GeoTIFF"),
        (
            lambda f: save(f / "masks" / "x.png", paint(indices(48, 48, 5), KNOWN["dubai"])),
            r"holds 1 files that are labels by their names. Give a folder of GeoTIFF",
        ),
    ],
)
def test_a_folder_without_images_is_refused(dataset, tmp_path: Path, make, message: str) -> None:
    make(tmp_path / "more")
    with pytest.raises(InputError, match=message):
        with_unlabelled(dataset, [tmp_path / "more"])


def test_a_folder_of_masks_is_no_imagery(dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="labels by their names"):
        with_unlabelled(dataset, [tmp_path / "own" / "a" / "masks"])


def refusal(dataset, folder: Path, **own) -> str:
    with pytest.raises(InputError) as caught:
        scan_unlabelled(with_unlabelled(dataset, [folder], **own))
    return str(caught.value)


def test_fewer_and_other_bands_are_refused(dataset, tmp_path: Path) -> None:
    save(tmp_path / "grey" / "x.png", pixels(48, 48)[0])
    assert refusal(dataset, tmp_path / "grey").endswith(
        "x.png has 1 usable band but the model needs 3: red, green, blue. Unlabelled imagery must hold the bands that "
        "the data gives"
    )
    save(tmp_path / "rgb" / "x.png", pixels(48, 48))
    fourth = replace(dataset, bands=BandChoice(indexes=(4, 2, 1)))
    assert "has no band 4" in refusal(fourth, tmp_path / "rgb")
    path = save_tif(tmp_path / "false" / "x.tif", pixels(48, 48))
    with rasterio.open(path, "r+") as dst:
        dst.colorinterp = (ColorInterp.nir, ColorInterp.red, ColorInterp.green)
    assert refusal(dataset, tmp_path / "false").endswith(
        "is tagged nir, red, green, but the data gives red, green, blue. Choose its bands with --unlabelled-bands, or "
        "leave it out"
    )
    infrared = replace(dataset, bands=BandChoice(("nir", "red", "green"), (1, 2, 3)))
    assert scan_unlabelled(with_unlabelled(infrared, [tmp_path / "false"]))


def test_files_tagged_as_the_labelled_ones_are_taken(dataset, tmp_path: Path) -> None:
    """Of ISPRS, near infrared is tagged red everywhere."""
    infrared = replace(dataset, bands=BandChoice(("nir", "red", "green"), (1, 2, 3)))
    save(tmp_path / "more" / "x.png", pixels(48, 48))
    assert scan_unlabelled(with_unlabelled(infrared, [tmp_path / "more"])).scenes


def test_16_bits_without_a_scale_and_a_scale_of_other_values_are_refused(dataset, tmp_path: Path) -> None:
    save_tif(tmp_path / "deep" / "x.tif", pixels(48, 48).astype(np.uint16) * 10)
    text = refusal(dataset, tmp_path / "deep")
    assert "is stored as uint16, but the model was trained on uint8. Give the values" in text
    assert "with --unlabelled-scale LOW,HIGH" in text
    text = refusal(dataset, tmp_path / "deep", scale=(0, 100))
    assert text.startswith(str(tmp_path / "deep" / "x.tif"))
    assert "of the values lie outside --unlabelled-scale" in text
    save(tmp_path / "flat" / "x.png", pixels(48, 48))
    scaled = replace(dataset, bands=BandChoice(scale=(0, 3000)))
    deep = save_tif(tmp_path / "train.tif", pixels(48, 48).astype(np.uint16) * 10)
    scaled = replace(scaled, train=(replace(dataset.train[0], image=deep),))
    text = refusal(scaled, tmp_path / "flat")
    assert (
        "x.png is stored as uint8, but the data, for which the scale 0,3000 was given, as uint16. Give"
        in text
    )
    assert scan_unlabelled(with_unlabelled(scaled, [tmp_path / "flat"], scale=(0, 255))).scenes


def test_rasters_without_data_are_left_out_and_nothing_else_is_refused(dataset, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    save_tif(folder / "empty.tif", np.zeros((3, 48, 48), np.uint8), nodata=0)
    text = refusal(dataset, folder)
    assert text.startswith("unlabelled imagery: 1 of 1 rasters hold nothing but nodata, first ")
    assert text.endswith("Give imagery with data, or the right value with --unlabelled-nodata")
    save_tif(folder / "full.tif", pixels(48, 48), nodata=0)
    found = scan_unlabelled(with_unlabelled(dataset, [folder]))
    assert [s.files.name for s in found.scenes] == ["more/full.tif"]
    assert found.skipped == (("more/empty.tif", "all pixels are nodata"),)


def test_what_cannot_be_read_stops_or_is_left_out(dataset, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    save(folder / "good.png", pixels(48, 48))
    save(folder / "grey.png", pixels(48, 48)[0])
    (folder / "bad.tif").write_bytes(b"no raster")
    assert "bad.tif" in refusal(dataset, folder)
    found = scan_unlabelled(with_unlabelled(dataset, [folder]), skip_damaged=True)
    assert [s.files.name for s in found.scenes] == ["more/good.png"]
    assert [name for name, _ in found.skipped] == ["more/bad.tif", "more/grey.png"]
    (folder / "good.png").unlink()
    with pytest.raises(InputError, match="no unlabelled raster can be used. First error: .*bad"):
        scan_unlabelled(with_unlabelled(dataset, [folder]), skip_damaged=True)


def test_the_mark_of_unlabelled_pixels_is_no_class(dataset, tmp_path: Path) -> None:
    save(tmp_path / "more" / "x.png", pixels(48, 48))
    for count, fits in ((TAUGHT, True), (TAUGHT + 1, False)):
        table = ClassTable(tuple(ClassInfo(f"c{i}", (i, i, 0)) for i in range(count)))
        wide = replace(dataset, table=table)
        if fits:
            assert with_unlabelled(wide, [tmp_path / "more"]).unlabelled
        else:
            with pytest.raises(InputError, match="has 255 classes. With unlabelled imagery use at most 254"):
                with_unlabelled(wide, [tmp_path / "more"])
