"""Scenes read from a small copy of the Dubai layout, and crops drawn from them."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from rsedge.errors import InputError
from rsedge_train.data import (
    DUBAI_COLOURS,
    IGNORE,
    MEAN,
    STD,
    CropSampler,
    Scene,
    class_shares,
    load_dubai_scene,
    normalise,
)

COLOURS = {index: colour for colour, index in DUBAI_COLOURS.index.items() if index != IGNORE}
HEIGHTS, WIDTHS = (16, 16, 24), (32, 24, 32)


def paint(labels):
    rgb = np.full((*labels.shape, 3), 0x9B, np.uint8)
    for index, colour in COLOURS.items():
        rgb[labels == index] = [colour >> 16, colour >> 8 & 255, colour & 255]
    return rgb


@pytest.fixture
def dubai(tmp_path):
    """``tile1`` in 3 x 3 parts of unequal size; its labels, and a grey image of them."""
    labels = np.random.default_rng(0).integers(0, 6, (sum(HEIGHTS), sum(WIDTHS))).astype(np.uint8)
    labels[labels == 5] = IGNORE
    labels = np.kron(labels[::8, ::8], np.ones((8, 8), np.uint8))  # whole JPEG blocks
    folder = tmp_path / "tile1"
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    rows, cols = np.cumsum((0, *HEIGHTS)), np.cumsum((0, *WIDTHS))
    for part, (r, c) in enumerate(itertools.product(range(3), range(3)), 1):
        cut = labels[rows[r] : rows[r + 1], cols[c] : cols[c + 1]]
        image = np.repeat(cut[:, :, None] % 250 * 40, 3, axis=2)
        Image.fromarray(image).save(folder / "images" / f"image_part_{part:03d}.jpg", quality=100)
        Image.fromarray(paint(cut)).save(folder / "masks" / f"image_part_{part:03d}.png")
    return folder, labels


def test_a_scene_is_stitched_from_its_parts(dubai):
    folder, labels = dubai
    scene = load_dubai_scene(folder)
    assert scene.name == "tile1"
    assert scene.shape == labels.shape
    np.testing.assert_array_equal(scene.labels, labels)
    np.testing.assert_allclose(scene.image[1].astype(int), labels % 250 * 40, atol=3)


def test_palette_masks_are_read_too(dubai):
    folder, labels = dubai
    path = folder / "masks" / "image_part_001.png"
    with Image.open(path) as file:
        indexed = file.convert("P", palette=Image.Palette.ADAPTIVE)
    indexed.save(path)
    np.testing.assert_array_equal(load_dubai_scene(folder).labels, labels)


def test_an_unknown_colour_is_named_and_counted(dubai):
    folder, _ = dubai
    path = folder / "masks" / "image_part_005.png"
    with Image.open(path) as file:
        mask = np.asarray(file.convert("RGB")).copy()
    mask[0, :7] = (1, 2, 3)
    Image.fromarray(mask).save(path)
    with pytest.raises(InputError, match=r"image_part_005.*010203 \(7 px\)"):
        load_dubai_scene(folder)


def test_a_missing_part_is_named(dubai):
    folder, _ = dubai
    (folder / "images" / "image_part_009.jpg").unlink()
    with pytest.raises(InputError, match="image_part_009"):
        load_dubai_scene(folder)


def test_a_mask_of_another_size_is_refused(dubai):
    folder, _ = dubai
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "masks" / "image_part_002.png")
    with pytest.raises(InputError, match=r"image_part_002.*\(4, 4\)"):
        load_dubai_scene(folder)


def test_image_and_labels_must_agree():
    with pytest.raises(InputError, match="expected"):
        Scene("x", np.zeros((3, 4, 4), np.uint8), np.zeros((4, 5), np.uint8))


def test_normalise_is_the_formula():
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)
    mean, std = (np.array(v)[None, :, None, None] for v in (MEAN, STD))
    expected = (images.numpy() / 255.0 - mean) / std
    np.testing.assert_allclose(normalise(images).numpy(), expected, atol=1e-6)


def test_class_shares_leave_out_unlabelled_pixels():
    labels = np.array([[0, 0, 1, IGNORE]], np.uint8)
    scene = Scene("x", np.zeros((3, 1, 4), np.uint8), labels)
    assert class_shares([scene, scene], 3) == pytest.approx([2 / 3, 1 / 3, 0])


def plain(image, labels):
    """Stands for an augmentation: the upper left pixels."""
    return image[:, :16, :16], labels[:16, :16]


def striped(name, value, side=200):
    """A scene whose image holds its own row and column, and ``value``."""
    rows, cols = np.mgrid[:side, :side]
    image = np.stack([rows, cols, np.full_like(rows, value)]).astype(np.uint8)
    labels = np.ones((side, side), np.uint8)
    labels[90:100, 90:100] = 3
    return Scene(name, image, labels)


def test_batches_have_the_shape_and_the_groups_their_share():
    torch.manual_seed(0)
    groups = [(0.75, [striped("a", 1), striped("b", 2)]), (0.25, [striped("c", 3)])]
    sampler = CropSampler(groups, plain, batch=50, size=32, scale=(1, 2))
    batches = list(itertools.islice(sampler, 8))
    images, labels = batches[0]
    assert images.shape == (50, 3, 16, 16)
    assert labels.shape == (50, 16, 16)
    assert images.dtype == labels.dtype == torch.uint8
    drawn = torch.cat([images[:, 2, 0, 0] for images, _ in batches])
    shares = drawn.bincount(minlength=4) / len(drawn)
    assert shares.tolist() == pytest.approx([0, 0.375, 0.375, 0.25], abs=0.07)


def test_windows_keep_image_and_labels_together_and_scale_within_bounds():
    torch.manual_seed(0)
    scene = striped("a", 1)
    sampler = CropSampler([(1, [scene])], plain, batch=1, size=64, scale=(0.5, 2.0))
    sides = []
    for _ in range(200):
        image, labels = sampler.window()
        side = labels.shape[0]
        assert image.shape == (3, side, side)
        row, col = int(image[0, 0, 0]), int(image[1, 0, 0])
        np.testing.assert_array_equal(labels, scene.labels[row : row + side, col : col + side])
        sides.append(side)
    assert min(sides) >= 32
    assert max(sides) <= 128
    assert sum(s < 64 for s in sides) == pytest.approx(100, abs=30)


def test_rare_classes_are_sought():
    torch.manual_seed(0)
    for share, low, high in ((0.0, 0, 20), (1.0, 80, 140)):
        sampler = CropSampler([(1, [striped("a", 1)])], plain, batch=1, size=16, scale=(1, 1), centred=share)
        found = sum(bool((sampler.window()[1] == 3).any()) for _ in range(200))
        assert low <= found <= high


def test_a_scene_smaller_than_the_window_is_taken_whole():
    small = Scene("s", np.zeros((3, 20, 30), np.uint8), np.zeros((20, 30), np.uint8))
    _, labels = CropSampler([(1, [small])], plain, batch=1, size=64).window()
    assert labels.shape == (20, 20)


def test_no_scene_is_an_error():
    with pytest.raises(InputError, match="no scene"):
        CropSampler([(1.0, [])], plain, batch=1, size=8)
