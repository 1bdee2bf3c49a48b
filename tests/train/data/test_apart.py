"""Unlabelled imagery that shows a validation or test scene is refused, under whatever name."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform_bounds

from labelled import indices, pixels, save, save_tif, scene_folder
from rsedge.errors import InputError
from rsedge_train.data import open_dataset, scan, with_unlabelled
from rsedge_train.data.apart import check_held_out
from rsedge_train.data.detect import KNOWN
from rsedge_train.data.unlabelled import scan_unlabelled


def judge(data: Path, folder: Path, **splits) -> str:
    """Return the refusal, "" if there is none."""
    dataset = with_unlabelled(open_dataset(data, **splits), [folder])
    val = scan(dataset, dataset.val).scenes if dataset.val else ()
    try:
        check_held_out(dataset, scan_unlabelled(dataset).scenes, val)
    except InputError as error:
        return str(error)
    return ""


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Scenes a, b and c of images that are not placed."""
    scene_folder(tmp_path / "own", ("a", "b", "c"), KNOWN["dubai"])
    return tmp_path / "own"


@pytest.fixture
def placed(tmp_path: Path) -> Path:
    """Two GeoTIFFs of 40 m, one a kilometre east of the other."""
    for name, east in (("a", 300000), ("b", 301000)):
        save_tif(tmp_path / "own" / f"{name}.tif", pixels(80, 80, ord(name)), east)
        save_tif(tmp_path / "own" / f"{name}_labels.tif", indices(80, 80, 3, ord(name))[None], east)
    return tmp_path / "own"


def test_a_scene_of_another_name_and_content_is_taken(plain: Path, tmp_path: Path) -> None:
    save(tmp_path / "more" / "p0.png", pixels(48, 48, 99))  # parts of scenes are called p0 everywhere
    assert judge(plain, tmp_path / "more", val=("b",), test=("c",)) == ""
    assert judge(plain, plain / "a", val=("b",), test=("c",)) == ""


@pytest.mark.parametrize("side", ["val", "test"])
def test_held_out_scenes_are_refused_by_name(plain: Path, tmp_path: Path, side: str) -> None:
    splits = {"val": ("none",), side: ("b",)}
    save(tmp_path / "more" / "B" / "cut" / "x.png", pixels(48, 48, 99))
    for folder in (plain, plain / "b", plain / "b" / "images", tmp_path / "more", tmp_path / "more" / "B"):
        text = judge(plain, folder, **splits)
        assert f"has the name of b/p0 of the {side} split" in text, folder
        assert text.endswith("Leave it out of the folder; if it is another place, rename it")


def test_files_of_a_flat_folder_are_known_by_their_own_names(tmp_path: Path) -> None:
    for name in "ab":
        save(tmp_path / "own" / "images" / f"{name}.png", pixels(48, 48, ord(name)))
        save(tmp_path / "own" / "masks" / f"{name}.png", indices(48, 48, 3, ord(name)))
    save(tmp_path / "more" / "b.jpg", pixels(48, 48, 99))
    assert "b.jpg has the name of b of the val split" in judge(
        tmp_path / "own", tmp_path / "more", val=("b",)
    )
    assert judge(tmp_path / "own", tmp_path / "more", val=("a",)) == ""


def test_one_name_at_two_places_is_no_reason(placed: Path, tmp_path: Path) -> None:
    save_tif(tmp_path / "more" / "b.tif", pixels(80, 80, 9), 302000)
    assert judge(placed, tmp_path / "more", val=("b",)) == ""


@pytest.mark.parametrize("side", ["val", "test"])
def test_overlaps_on_the_ground_are_refused_and_neighbours_are_not(
    placed: Path, tmp_path: Path, side: str
) -> None:
    splits = {"val": ("none",), side: ("b",)}
    save_tif(tmp_path / "more" / "x.tif", pixels(80, 80, 9), 301039)
    assert f"x.tif overlaps b of the {side} split" in judge(placed, tmp_path / "more", **splits)
    save_tif(tmp_path / "more" / "x.tif", pixels(80, 80, 9), 301040)
    assert judge(placed, tmp_path / "more", **splits) == ""


@pytest.mark.parametrize("code", [3857, 4326, 32632])
def test_overlaps_in_another_crs_are_seen(placed: Path, tmp_path: Path, code: int) -> None:
    """Rasters upright in another CRS: over half of the validation scene, around it, within it, beside it."""
    source = CRS.from_epsg(32633)

    def warped(name: str, east: float, side: int) -> Path:
        north = 5200000 + (side - 80) * 0.25
        box = transform_bounds(source, CRS.from_epsg(code), east, north - side / 2, east + side / 2, north)
        to = Affine((box[2] - box[0]) / side, 0, box[0], 0, (box[1] - box[3]) / side, box[3])
        return save_tif(
            tmp_path / name / "x.tif", pixels(side, side, 9), crs=CRS.from_epsg(code), transform=to
        )

    for name, east, side, overlap in (
        ("half", 301020, 80, True),
        ("around", 300900, 600, True),
        ("within", 301015, 20, True),
        ("beside", 301043, 80, False),
        ("far", 310000, 80, False),
    ):
        folder = warped(name, east, side).parent
        assert ("overlaps b of the val split" in judge(placed, folder, val=("b",))) is overlap, name


def test_a_copy_under_another_name_is_refused(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    shutil.copy(plain / "b" / "images" / "p1.png", tmp_path / "more" / "x.png")
    assert "x.png is the same image as b/p1 of the val split" in judge(plain, tmp_path / "more", val=("b",))


def test_equal_pixels_in_another_format_are_refused(plain: Path, tmp_path: Path) -> None:
    with Image.open(plain / "c" / "images" / "p0.png") as picture:
        image = np.moveaxis(np.asarray(picture), 2, 0)
    path = save_tif(tmp_path / "more" / "x.tif", image.copy())
    assert "x.tif is the same image as c/p0 of the test split" in judge(
        plain, tmp_path / "more", val=("b",), test=("c",)
    )
    with rasterio.open(path, "r+") as dst:
        image = dst.read()
        image[0, 0, 0] ^= 1
        dst.write(image)
    assert judge(plain, tmp_path / "more", val=("b",), test=("c",)) == ""


def test_a_test_image_that_cannot_be_read_is_said(plain: Path, tmp_path: Path, caplog) -> None:
    save(tmp_path / "more" / "x.png", pixels(48, 48, 99))
    (plain / "c" / "images" / "p0.png").write_bytes(b"")
    assert judge(plain, tmp_path / "more", val=("b",), test=("c",)) == ""
    assert "not compared with the unlabelled imagery" in caplog.text
