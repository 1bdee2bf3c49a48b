"""Image and labels stay together through every augmentation."""

import pytest
import torch

from rsedge_train.data.augment import CropAugment


def window(side=48):
    """A window whose image is a picture of its labels: label k has the grey value 60 * (k + 1)."""
    labels = torch.zeros(side, side, dtype=torch.uint8)
    labels[: side // 2, side // 3 :] = 1
    labels[side // 2 :, : side // 4] = 2
    return ((labels + 1) * 60).expand(3, side, side).contiguous(), labels


@pytest.mark.parametrize("side", [20, 32, 70])
def test_any_window_becomes_a_crop_of_the_size(side):
    image, labels = CropAugment(32)(*window(side))
    assert (image.shape, image.dtype, type(image)) == ((3, 32, 32), torch.uint8, torch.Tensor)
    assert (labels.shape, labels.dtype, type(labels)) == ((32, 32), torch.uint8, torch.Tensor)
    assert image.is_contiguous()
    assert labels.is_contiguous()


def test_labels_follow_the_image():
    torch.manual_seed(0)
    augment = CropAugment(48, look=None)
    turned = 0
    for _ in range(60):
        image, labels = augment(*window())
        inside = labels != 255
        same = image[0].long() == (labels.long() + 1) * 60
        # Bilinear against nearest: only pixels on an edge between classes may differ.
        assert same[inside].float().mean() > 0.9
        assert set(labels.unique().tolist()) <= {0, 1, 2, 255}
        turned += int((~inside).any())
    assert 5 <= turned <= 25  # one in four is rotated, and its corners are unlabelled


def test_without_turning_all_eight_orientations_come_and_every_pixel_is_labelled():
    torch.manual_seed(0)
    augment = CropAugment(48, look=None, turn=0)
    seen = set()
    for _ in range(80):
        image, labels = augment(*window())
        assert torch.equal(image[0].long(), (labels.long() + 1) * 60)
        seen.add(labels.numpy().tobytes())
    assert len(seen) == 8


def test_colour_changes_the_image_and_not_the_labels():
    torch.manual_seed(0)
    augment = CropAugment(48, turn=0)
    results = [augment(*window()) for _ in range(8)]
    assert len({image.float().mean().item() for image, _ in results}) == 8
    _, original = window()
    assert all(
        torch.equal(labels.bincount(), original.flatten().bincount())
        for labels in (labels.flatten() for _, labels in results)
    )


def test_the_seed_decides():
    augment = CropAugment(24)
    torch.manual_seed(3)
    first = augment(*window())
    torch.manual_seed(3)
    again = augment(*window())
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
