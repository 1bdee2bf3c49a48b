import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsedge_train.nets.configs import MAFLNET_ABLATIONS, MAFLNetConfig, maflnet_ablation
from rsedge_train.nets.maca import MACA
from rsedge_train.nets.maflnet import LHFEM, Gaussian, MAFLNetDecoder

CHANNELS = (16, 24, 48, 64)
SMALL = MAFLNetConfig(widths=(16, 24, 32, 40))


def features(size=2):
    return [torch.randn(2, c, size * 8 >> i, size * 8 >> i) for i, c in enumerate(CHANNELS)]


@settings(max_examples=40, deadline=None)
@given(
    value=st.floats(-50, 50, width=32),
    height=st.integers(1, 10),
    width=st.integers(1, 10),
)
def test_lhfem_edges_of_a_constant_map_are_exactly_zero(value, height, width):
    edges = LHFEM(4).edges(torch.sigmoid(torch.full((2, 4, 2 * height, 2 * width), value)))
    assert torch.count_nonzero(edges) == 0


def test_lhfem_finds_an_edge_where_it_is():
    s = torch.zeros(1, 4, 32, 32)
    s[..., 16:] = 1.0
    edges = LHFEM(4).edges(s).abs().amax((0, 1, 2))
    assert float(edges[15:17].max()) > 0.2
    assert float(edges[:8].max()) == float(edges[26:].max()) == 0.0


def test_the_gaussian_is_binomial_and_keeps_means():
    gaussian = Gaussian(2)
    assert float(gaussian.kernel[0].sum()) == 1.0
    torch.testing.assert_close(gaussian.kernel[0, 0, 2] * 16 / 6, torch.tensor([1.0, 4, 6, 4, 1]) / 16)
    assert not gaussian.state_dict()


def test_lhfem_keeps_shape_and_learns():
    lhfem = LHFEM(16)
    out = lhfem(torch.randn(2, 16, 8, 12))
    assert out.shape == (2, 16, 8, 12)
    out.square().mean().backward()
    assert all(p.grad is not None for p in lhfem.parameters())


@pytest.mark.parametrize("name", MAFLNET_ABLATIONS)
def test_every_row_of_table_3_trains(name):
    config = maflnet_ablation(name, SMALL)
    decoder = MAFLNetDecoder(CHANNELS, 5, config)
    assert any(isinstance(m, MACA) for m in decoder.modules()) == config.maca
    assert any(isinstance(m, LHFEM) for m in decoder.modules()) == config.lhfem
    logits, aux = decoder(features())
    assert aux is None
    assert logits.shape == (2, 5, 16, 16)
    logits.square().mean().backward()
    assert all(p.grad is not None for p in decoder.parameters())


def test_the_auxiliary_head_works_in_training_alone():
    decoder = MAFLNetDecoder(CHANNELS, 5, MAFLNetConfig(widths=(16, 24, 32, 40), aux=True))
    logits, aux = decoder.train()(features())
    assert logits.shape == aux.shape
    assert decoder.eval()(features())[1] is None
