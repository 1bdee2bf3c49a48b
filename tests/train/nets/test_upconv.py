import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rsedge_train.nets.upconv import UpConv, cost, pays, upsample_matrices


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(1, 9),
    scale=st.sampled_from([2, 4]),
    channels=st.integers(1, 5),
    bias=st.booleans(),
    seed=st.integers(0, 999),
)
def test_it_is_upsampling_then_convolution_borders_included(size, scale, channels, bias, seed):
    torch.manual_seed(seed)
    conv = nn.Conv2d(channels, 3, 3, padding=1, bias=bias)
    x = torch.randn(2, channels, size, size)
    up = nn.functional.interpolate(x, scale_factor=float(scale), mode="bilinear", align_corners=False)
    torch.testing.assert_close(UpConv.of(conv, size, scale)(x), conv(up), rtol=1e-5, atol=1e-5)


def test_the_middle_matrix_is_upsampling():
    x = torch.randn(5)
    up = nn.functional.interpolate(x[None, None], scale_factor=4.0, mode="linear", align_corners=False)
    torch.testing.assert_close(upsample_matrices(5, 4)[1] @ x, up[0, 0])


def test_it_is_used_where_it_pays_alone():
    assert cost(128, 128, 16, 4) < 9 * 128 * 128 * 64 * 64 // 7
    assert pays(nn.Conv2d(128, 128, 3, padding=1), 128, 16, 4)
    assert not pays(nn.Conv2d(4, 128, 3, padding=1), 4, 64, 2)
    for other in (
        nn.Conv2d(128, 128, 1),
        nn.Conv2d(128, 128, 3, padding=1, groups=128),
        nn.Conv2d(128, 128, 3, padding=2, dilation=2),
        nn.Conv2d(128, 128, 3, padding=1, stride=2),
        nn.Identity(),
    ):
        assert not pays(other, 128, 16, 4)


def test_other_layers_are_refused():
    with pytest.raises(TypeError):
        UpConv.of(nn.Identity(), 4, 2)
