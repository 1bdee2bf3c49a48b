"""The look of a crop changes; its size, its type and what lies where stay."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rsedge.errors import InputError
from rsedge_train.data import appearance
from rsedge_train.data.appearance import LOOKS, Look, change_look

STILL = Look(
    gamma=0, brightness=0, contrast=0, saturation=0, hue=0, sharpen_share=0, blur_share=0, colour_share=1
)


@pytest.fixture
def image():
    """Smooth, in the middle of the range: nothing is clipped."""
    rows = torch.linspace(90, 150, 48).view(1, 48, 1)
    cols = torch.linspace(-20, 20, 48).view(1, 1, 48)
    return (rows + cols + torch.tensor([-10.0, 0.0, 10.0]).view(3, 1, 1)).round().to(torch.uint8)


def test_a_look_without_spreads_changes_nothing(image):
    for seed in range(5):
        torch.manual_seed(seed)
        assert (change_look(image, STILL).int() - image.int()).abs().max() <= 1


@pytest.mark.parametrize("part", [f.replace("_share", "") for f in vars(Look()) if f.endswith("_share")])
def test_every_part_keeps_shape_and_type_and_changes_the_image(image, part):
    changed = {"blur": {"blur": 2.0}, "colour": {"brightness": 0.3, "hue": 0.05}}.get(part, {})
    look = replace(STILL, **{"colour_share": 0, f"{part}_share": 1.0}, **changed)
    torch.manual_seed(4)
    noisy = image.clone()
    noisy[:, ::2] += 30  # an edge that blur, sharpening and sampling can be seen at
    before = noisy.clone()
    out = change_look(noisy, look)
    assert (out.shape, out.dtype) == (image.shape, torch.uint8)
    assert torch.equal(noisy, before)  # the scene in memory is not touched
    assert (out.int() - noisy.int()).abs().max() > 1


@pytest.mark.parametrize("name", [name for name, look in LOOKS.items() if look])
def test_the_seed_decides_and_no_look_repeats(image, name):
    def draw(seed):
        torch.manual_seed(seed)
        return change_look(image, LOOKS[name])

    assert torch.equal(draw(1), draw(1))
    assert len({draw(seed).numpy().tobytes() for seed in range(12)}) == 12


def test_brightness_scales_and_contrast_keeps_the_mean(image):
    torch.manual_seed(0)
    bright = change_look(image, replace(STILL, brightness=0.3)).double() / image.double()
    assert bright.std() < 0.01
    assert abs(float(bright.mean()) - 1) > 0.02
    torch.manual_seed(0)
    strong = change_look(image, replace(STILL, contrast=0.3)).double()
    luma = np.tensordot([0.299, 0.587, 0.114], strong.numpy(), 1)
    before = np.tensordot([0.299, 0.587, 0.114], image.double().numpy(), 1)
    assert abs(luma.mean() - before.mean()) < 1
    assert abs(luma.std() / before.std() - 1) > 0.02


def test_hue_turns_colours_about_grey(image):
    matrix = appearance._turn_about_grey(0.4)
    torch.testing.assert_close(matrix @ torch.ones(3), torch.ones(3))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(3), atol=1e-6, rtol=0)


def test_a_blur_is_the_gaussian_with_repeated_edges():
    x = torch.randn(2, 20, 20)
    weights = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 1.5**2))
    kernel = np.outer(weights, weights) / weights.sum() ** 2
    wide = np.pad(x.numpy(), ((0, 0), (3, 3), (3, 3)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(wide, (7, 7), axis=(1, 2))
    np.testing.assert_allclose(appearance._blur(x, 1.5), (windows * kernel).sum((3, 4)), atol=1e-5)


def test_shares_must_be_shares():
    with pytest.raises(InputError, match="0 to 1"):
        Look(jpeg_share=1.5)
    with pytest.raises(InputError, match="at most 1"):
        Look(sharpen_share=0.6, blur_share=0.6)
