"""Crops: what they show, how often, and that batch n depends on the seed and n alone."""

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import Affine

from rsedge.errors import InputError
from rsedge.model.manifest import ClassInfo
from rsedge.score.labels import ClassTable
from rsedge.tiling.window import Window
from rsedge_train.data import Dataset, SceneFiles, scan
from rsedge_train.data.augment import CropAugment
from rsedge_train.data.base import IGNORE, TAUGHT
from rsedge_train.data.crops import CropConfig, Crops, SceneStore, batches

TABLE = ClassTable((ClassInfo("a", (255, 0, 0)), ClassInfo("b", (0, 255, 0)), ClassInfo("c", (0, 0, 255))))
GIB = 1 << 30


def plain(image, labels):
    """Stands for an augmentation: the upper left pixels."""
    return image[:, :16, :16], labels[:16, :16]


@pytest.fixture
def scene(tmp_path, write_raster):
    """Writes a scene whose image holds its own row, column and ``value``; a small square is class c."""

    def make(name, value, side=200, **profile):
        rows, cols = np.mgrid[:side, :side]
        image = np.stack([rows % 256, cols % 256, np.full_like(rows, value)]).astype(np.uint8)
        labels = np.ones((1, side, side), np.uint8)
        labels[0, 70:80, 70:80] = 2
        paths = [
            write_raster(x, f"{name}{end}.tif", **profile) for x, end in ((image, ""), (labels, "_labels"))
        ]
        return SceneFiles(name, name, *paths)

    return make


def crops_of(scenes, config=None, augment=plain, ram_bytes=GIB, **more):
    dataset = Dataset("toy", TABLE, tuple(scenes))
    store = SceneStore(dataset, scan(dataset, dataset.train).scenes, ram_bytes)
    store.load(more.get("skip_damaged", False))
    return Crops(store, config or CropConfig(size=32, batch=4), augment, **more)


def draws(crops, count):
    torch.manual_seed(0)
    return [crops.draw() for _ in range(count)]


def test_a_batch_is_a_function_of_its_number(scene):
    config = CropConfig(size=32, batch=4, mosaic=0.5)
    crops = crops_of([scene("x", 1), scene("y", 2)], config, CropAugment(32))
    again = crops_of([scene("x", 1), scene("y", 2)], config, CropAugment(32), ram_bytes=0)
    assert crops.store.in_memory
    assert not again.store.in_memory
    state = torch.get_rng_state()
    for n in (7, 0, 7):
        for one, other in zip(crops[n], again[n], strict=True):
            assert torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)  # the network's own random numbers are left alone
    assert not torch.equal(crops[0][0], crops[1][0])
    other_seed = crops_of(
        [scene("x", 1), scene("y", 2)], CropConfig(size=32, batch=4, seed=1), CropAugment(32)
    )
    assert not torch.equal(crops[0][0], other_seed[0][0])


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_where_it_begins_do_not_matter(scene, workers):
    crops = crops_of([scene("x", 1)], augment=CropAugment(32), ram_bytes=0)
    found = list(batches(crops, 3, 7, workers))
    assert len(found) == 4
    for n, batch in enumerate(found, 3):
        assert all(torch.equal(a, b) for a, b in zip(batch, crops[n], strict=True))


def test_processes_share_a_batch(scene):
    scenes = [scene("x", 1)]
    whole = crops_of(scenes, augment=CropAugment(32))
    parts = [crops_of(scenes, augment=CropAugment(32), rank=r, world=2) for r in range(2)]
    for one, *two in zip(whole[5], parts[0][5], parts[1][5], strict=True):
        assert torch.equal(one, torch.cat(two))
    with pytest.raises(InputError, match="batch 4 cannot be split over 3 processes"):
        crops_of(scenes, world=3)


def test_windows_keep_image_and_labels_together_and_places_name_them(scene):
    files = scene("x", 1)
    crops = crops_of([files], CropConfig(size=32, batch=50, scale=(1, 2)))
    images, labels, places = crops[0]
    assert images.shape == (50, 3, 16, 16)
    assert images.dtype == labels.dtype == torch.uint8
    with rasterio.open(files.label) as src:
        truth = src.read(1)
    for image, mask, (scene_index, row, col, side) in zip(images, labels, places.tolist(), strict=True):
        assert scene_index == 0
        assert 16 <= side <= 32
        assert (int(image[0, 0, 0]), int(image[1, 0, 0])) == (row, col)
        np.testing.assert_array_equal(mask, truth[row : row + 16, col : col + 16])
    row, col, side = places[0, 1:].tolist()
    assert crops.name(places[:1]) == f"x {Window(row, col, side, side)}"


def test_scales_lie_within_bounds_and_scenes_have_their_weight(scene):
    scenes = [scene("x", 1), scene("y", 2), scene("z", 3)]
    crops = crops_of(scenes, CropConfig(size=64, batch=1, scale=(0.5, 2.0)), weights=[0.2, 0.3, 0.5])
    found = draws(crops, 600)
    sides = [window.height for _, window in found]
    assert min(sides) >= 32
    assert max(sides) <= 128
    assert sum(s < 64 for s in sides) == pytest.approx(300, abs=50)
    shares = np.bincount([index for index, _ in found]) / 600
    np.testing.assert_allclose(shares, [0.2, 0.3, 0.5], atol=0.06)


def test_rare_classes_are_sought(scene):
    for share, low, high in ((0.0, 0, 15), (1.0, 30, 80)):
        config = CropConfig(size=64, batch=1, scale=(1, 1), centred=share)
        crops = crops_of([scene("x", 1, side=600)], config)
        found = sum(
            bool((crops.store.read(index, window)[1] == 2).any()) for index, window in draws(crops, 200)
        )
        assert low <= found <= high


def test_a_scene_smaller_than_the_crop_is_taken_whole(scene):
    crops = crops_of([scene("x", 1, side=40)], CropConfig(size=64, batch=1, scale=(1, 1)), CropAugment(64))
    assert draws(crops, 1) == [(0, Window(0, 0, 40, 40))]
    assert crops[0][0].shape == (1, 3, 64, 64)


def test_a_mosaic_has_four_parts(scene):
    scenes = [scene(str(value), value) for value in (10, 60, 110, 160, 210)]
    config = CropConfig(size=32, batch=1, mosaic=1.0, scale=(1, 1))
    crops = crops_of(scenes, config, lambda image, labels: (image, labels))
    found = set()
    for n in range(5):
        values = crops[n][0][0, 2]
        corners = {int(values[r, c]) for r in (0, -1) for c in (0, -1)}
        assert set(values.unique().tolist()) == corners
        found.add(len(corners))
    assert max(found) > 2


@pytest.fixture
def bare(write_raster):
    """Writes an unlabelled raster of 50s whose left part, ``empty`` columns, is nodata."""

    def make(name, empty, side=400):
        image = np.full((3, side, side), 50, np.uint8)
        image[:, :, :empty] = 0
        return SceneFiles(name, name, write_raster(image, f"{name}.tif", nodata=0), None)

    return make


def mixed_crops(labelled, unlabelled, config, augment=None, ram_bytes=GIB, **more):
    dataset = Dataset("toy", TABLE, tuple(labelled), unlabelled=tuple(unlabelled))
    scans = (*scan(dataset, dataset.train).scenes, *scan(dataset, dataset.unlabelled).scenes)
    store = SceneStore(dataset, scans, ram_bytes)
    store.load(False)
    return Crops(store, config, augment or CropAugment(config.size), **more)


def test_unlabelled_imagery_is_mixed_in_by_its_weight_and_marked(scene, bare):
    config = CropConfig(size=32, batch=100, scale=(1, 1))
    crops = mixed_crops([scene("x", 1)], [bare("u", 0)], config, plain, weights=[0.7, 0.3])
    images, labels, places = crops[0]
    is_bare = places[:, 0] == 1
    assert 15 <= int(is_bare.sum()) <= 45
    assert (labels[is_bare] == TAUGHT).all()
    assert (images[is_bare] == 50).all()
    assert set(labels[~is_bare].unique().tolist()) <= {1, 2}


def test_pixels_without_data_are_ignored_and_windows_without_any_are_drawn_again(scene, bare):
    config = CropConfig(size=32, batch=100, scale=(1, 1), centred=0.0)
    crops = mixed_crops([scene("x", 1)], [bare("u", 340)], config, lambda *x: x, weights=[0.5, 0.5])
    images, labels, places = crops[0]
    is_bare = places[:, 0] == 1
    assert 35 <= int(is_bare.sum()) <= 65  # a window drawn again is of the same raster
    assert (places[is_bare][:, 2] > 340 - 32).all()
    fill = torch.tensor([124, 116, 104], dtype=torch.uint8).view(3, 1, 1)
    for image, mask in zip(images[is_bare], labels[is_bare], strict=True):
        assert (mask == TAUGHT).any()
        np.testing.assert_array_equal(mask == TAUGHT, (image == 50).all(0))
        np.testing.assert_array_equal(mask == IGNORE, (image == fill).all(0))


def test_imagery_without_data_ends_the_search(scene, bare):
    crops = mixed_crops([scene("x", 1)], [bare("u", 400)], CropConfig(size=32, batch=2), weights=[0.01, 0.99])
    assert str(crops[0]).startswith("100 consecutive windows are damaged or without data. Check the data")


def test_places_with_data_are_sought(scene, bare):
    found = []
    for share in (0.0, 1.0):
        config = CropConfig(size=32, batch=1, scale=(1, 1), centred=share)
        crops = mixed_crops([scene("x", 1)], [bare("u", 350)], config, weights=[0.0, 1.0])
        found.append(sum(window.col_end > 350 for _, window in draws(crops, 100)))
    assert found[0] < 40
    assert found[1] > 60


def test_mixed_batches_depend_on_their_number_alone(scene, bare):
    config = CropConfig(size=32, batch=4, mosaic=0.5)
    scenes = [scene("x", 1), scene("y", 2)], [bare("u", 300), bare("v", 0)]
    weights = [0.25, 0.25, 0.25, 0.25]
    crops = mixed_crops(*scenes, config, weights=weights)
    streamed = mixed_crops(*scenes, config, ram_bytes=0, weights=weights)
    parts = [mixed_crops(*scenes, config, weights=weights, rank=r, world=2) for r in range(2)]
    found = list(batches(streamed, 0, 4, workers=2))
    for n in (3, 0, 2):
        for one, other, *two in zip(crops[n], found[n], parts[0][n], parts[1][n], strict=True):
            assert torch.equal(one, other)
            assert torch.equal(one, torch.cat(two))


@pytest.mark.parametrize("in_memory", [True, False])
def test_damaged_images_stop_the_run_or_are_left_out(scene, in_memory, caplog):
    good, bad = scene("good", 1), scene("bad", 2, side=300)
    data = bad.image.read_bytes()
    ram = GIB if in_memory else 0
    bad.image.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"^\S+bad\.tif cannot be read"):  # a worker's error is no traceback
        list(batches(crops_of([good, bad], ram_bytes=ram), 0, 10, workers=1))
    crops = crops_of([good, bad], ram_bytes=ram, skip_damaged=True)
    places = torch.cat([crops[n][2] for n in range(10)])
    if in_memory:
        assert [s.files.name for s in crops.store.scans] == ["good"]
    else:  # its upper rows can still be read
        assert (places[places[:, 0] == 1][:, 1] < 200).all()
        assert "skipped" in caplog.text


def test_a_striped_raster_is_read_by_window_in_bounded_memory(tmp_path):
    """60 MB of pixels a scene, one row a strip: windows of it cost megabytes in a process of their own."""
    import subprocess
    import sys

    side = 4500
    profile = {"driver": "GTiff", "height": side, "width": side, "dtype": "uint8", "blockysize": 1}
    rng = np.random.default_rng(0)
    row = rng.integers(0, 255, (3, 1, side), dtype=np.uint8)
    with rasterio.open(tmp_path / "x.tif", "w", count=3, **profile, crs="EPSG:32631",
                       transform=Affine(0.5, 0, 0, 0, -0.5, 0)) as dst:  # fmt: skip
        dst.write(np.broadcast_to(row, (3, side, side)))
    with rasterio.open(tmp_path / "x_labels.tif", "w", count=1, **profile, crs="EPSG:32631",
                       transform=Affine(0.5, 0, 0, 0, -0.5, 0)) as dst:  # fmt: skip
        dst.write(np.broadcast_to((row[:1] % 3), (1, side, side)))
    code = f"""
import resource
from pathlib import Path
from rsedge.score.labels import ClassTable
from rsedge.model.manifest import ClassInfo
from rsedge_train.data.augment import CropAugment
from rsedge_train.data.crops import CropConfig, Crops, SceneStore
from rsedge_train.data import Dataset, SceneFiles, scan
table = ClassTable(tuple(ClassInfo(n, (i, i, i)) for i, n in enumerate("abc")))
folder = Path({str(tmp_path)!r})
data = Dataset("striped", table, (SceneFiles("x", "x", folder / "x.tif", folder / "x_labels.tif"),))
begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
store = SceneStore(data, scan(data, data.train).scenes, ram_bytes=0)
store.load(False)
crops = Crops(store, CropConfig(size=64, batch=4), CropAugment(64))
for n in range(10):
    crops[n]
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begin) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 45  # MiB; the raster has 58


@pytest.mark.parametrize("wrong", [{"size": 100}, {"batch": 0}, {"scale": (2, 1)}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError, match=r"crop 100|batch 0|scale \(2, 1\)"):
        CropConfig(**wrong)
