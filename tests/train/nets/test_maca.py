import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsedge.errors import InputError
from rsedge_train.nets.maca import LAA, MACA, XCA, FusionModule, SpatialSoftmax


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), scale=st.sampled_from([1e-2, 1.0, 30.0]), height=st.integers(1, 9))
def test_xca_rows_sum_to_one(seed, scale, height):
    torch.manual_seed(seed)
    xca = XCA(32)
    torch.nn.init.normal_(xca.temperature, mean=1.0)
    q, k, _ = xca.split(scale * torch.randn(2, 32, height, 7))
    rows = xca.attention(q, k).sum(3)
    assert rows.shape == (2, 8, 4)
    torch.testing.assert_close(rows, torch.ones_like(rows))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), times=st.integers(2, 5))
def test_laa_output_does_not_grow_with_the_tile(seed, times):
    """A map repeated side by side has more tokens of the same kind; z keeps unit length."""
    torch.manual_seed(seed)
    laa = LAA(32)
    x = torch.randn(1, 32, 6, 6)
    for tile in (x, x.repeat(1, 1, times, times)):
        z = laa.angular(*laa.split(tile))
        torch.testing.assert_close(z.norm(dim=2), torch.ones(1, 8, tile.shape[2] * tile.shape[3]))
    with torch.no_grad():
        small, large = laa(x).std(), laa(x.repeat(1, 1, times, times)).std()
    assert 0.6 < float(large / small) < 1.6


def test_the_spatial_mask_has_mean_one_and_extremes_stay_finite():
    x = 80 * torch.randn(2, 1, 8, 8)
    mask = SpatialSoftmax()(x)
    torch.testing.assert_close(mask.mean((2, 3)), torch.ones(2, 1))
    torch.testing.assert_close(mask, torch.softmax(x.flatten(2), 2).reshape(x.shape) * 64)


def test_the_fusion_is_cross_attention_over_channels():
    fusion = FusionModule(16)
    f1, f2 = torch.randn(2, 16, 6, 5), torch.randn(2, 16, 6, 5)
    out1, out2 = fusion(f1, f2)
    assert out1.shape == out2.shape == f1.shape
    other1, _ = fusion(f1, torch.randn(2, 16, 6, 5))
    assert not torch.equal(out1, other1)


@pytest.mark.parametrize("part", [LAA, XCA, MACA])
def test_parts_keep_shapes_and_pass_gradients(part):
    module = part(32)
    out = module(torch.randn(2, 32, 6, 10))
    assert out.shape == (2, 32, 6, 10)
    out.square().mean().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_channels_must_divide_by_heads():
    with pytest.raises(InputError, match="heads"):
        LAA(30)
