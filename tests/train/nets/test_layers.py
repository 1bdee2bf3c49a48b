import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsedge.errors import InputError
from rsedge_train.nets.layers import CBAM, activation, attention, conv_bn, conv_bn_act, gate


@settings(max_examples=20, deadline=None)
@given(
    channels=st.sampled_from([16, 24, 320]),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 5.0]),
    seed=st.integers(0, 999),
)
def test_cbam_masks_lie_strictly_between_zero_and_one(channels, height, width, scale, seed):
    torch.manual_seed(seed)
    cbam = CBAM(channels).double()  # float32 rounds a sigmoid of 17 to 1
    x = scale * torch.randn(2, channels, height, width, dtype=torch.float64)
    with torch.no_grad():
        for mask in (cbam.channel_mask(x), cbam.spatial_mask(x)):
            assert float(mask.min()) > 0
            assert float(mask.max()) < 1
        assert cbam(x).shape == x.shape
        assert bool((cbam(x).abs() <= x.abs()).all())


def test_cbam_counts_as_in_table_4():
    assert sum(p.numel() for p in CBAM(128).parameters()) == 2 * 128 * 8 + 2 * 49


def test_cbam_pools_over_space_and_channels():
    cbam = CBAM(16)
    assert cbam.channel_mask(torch.randn(3, 16, 5, 7)).shape == (3, 16, 1, 1)
    assert cbam.spatial_mask(torch.randn(3, 16, 5, 7)).shape == (3, 1, 5, 7)


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 3)])
def test_conv_bn_keeps_or_halves_the_grid(separable, stride, dilation):
    layer = conv_bn(8, 16, stride=stride, dilation=dilation, separable=separable).eval()
    assert layer(torch.randn(1, 8, 16, 24)).shape == (1, 16, 16 // stride, 24 // stride)
    assert all(m.bias is None for m in layer.modules() if isinstance(m, torch.nn.Conv2d))


def test_a_separable_pointwise_is_a_pointwise():
    assert len(conv_bn(8, 16, 1, separable=True)) == 2


def test_unknown_names_list_what_is_allowed():
    with pytest.raises(InputError, match="relu6"):
        activation("selu")
    with pytest.raises(InputError, match="hard_sigmoid"):
        gate("tanh")
    with pytest.raises(InputError, match="hard_swish"):
        conv_bn_act(8, 8, act="nope")


def test_attention_can_be_switched_off():
    x = torch.randn(1, 16, 4, 4)
    assert torch.equal(attention(16, enabled=False)(x), x)
