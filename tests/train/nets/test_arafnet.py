import pytest
import torch

from rsedge.errors import InputError
from rsedge_train.nets.arafnet import ARAFNetDecoder, ResASPP
from rsedge_train.nets.complexity import complexity
from rsedge_train.nets.configs import ARAFNET_ABLATIONS, ARAFNetConfig, arafnet_ablation
from rsedge_train.nets.layers import CBAM

CHANNELS = (16, 24, 48, 64)


def features(batch=2, size=4, channels=CHANNELS):
    return [torch.randn(batch, c, size * 8 // 2**i, size * 8 // 2**i) for i, c in enumerate(channels)]


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("channels", [(24, 40, 112, 320), (64, 128, 256, 512), (144, 288, 576, 1152)])
def test_the_decoder_has_the_papers_parameters(channels):
    c1, c2, c3, c4 = channels
    decoder = ARAFNetDecoder(channels, 6, ARAFNetConfig())
    assert count(decoder) == 5888 * c4 + c4**2 // 8 + 1152 * (c1 + c2 + c3) + 1_021_718


def test_the_auxiliary_head_has_148486_parameters_and_works_in_training_alone():
    decoder = ARAFNetDecoder(CHANNELS, 6, ARAFNetConfig(aux=True))
    assert count(decoder.aux) == 148_486
    logits, aux = decoder.train()(features())
    assert logits.shape == aux.shape == (2, 6, 16, 16)
    assert decoder.eval()(features())[1] is None


def test_the_fine_head_works_at_stride_4_and_sees_f1():
    decoder = ARAFNetDecoder(CHANNELS, 5, ARAFNetConfig(width=16, fine=True)).eval()
    given = features()
    logits, aux = decoder(given)
    assert (logits.shape, aux) == ((2, 5, 32, 32), None)
    torch.testing.assert_close(decoder.head.detail(given[0]).shape, torch.Size((2, 8, 32, 32)))
    given[0] = given[0] + torch.nn.functional.one_hot(torch.tensor(5), 32).view(1, 1, 1, 32)
    assert (decoder(given)[0] - logits).abs().max() > 0
    with pytest.raises(InputError, match="stride 4 cannot have an auxiliary"):
        ARAFNetConfig(fine=True, aux=True)


def test_the_fine_head_costs_at_most_15_percent_more():
    plain, fine = (complexity(f"efficientnet_lite0-w64{kind}-int8", 5).macs for kind in ("", "-fine"))
    assert plain < fine <= min(1.15 * plain, 3.5e9)


@pytest.mark.parametrize("name", ARAFNET_ABLATIONS)
@pytest.mark.parametrize("aux", [False, True])
def test_every_row_of_table_6_trains(name, aux):
    decoder = ARAFNetDecoder(CHANNELS, 5, arafnet_ablation(name, ARAFNetConfig(width=16, aux=aux)))
    logits, extra = decoder(features())
    assert logits.shape == (2, 5, 16, 16)
    assert (extra is not None) == aux
    (logits.mean() + (extra.mean() if aux else 0)).backward()
    assert all(p.grad is not None for p in decoder.parameters())


def test_ablations_remove_what_they_say():
    def masks(name):
        return sum(isinstance(m, CBAM) for m in ARAFNetDecoder(CHANNELS, 5, arafnet_ablation(name)).modules())

    assert masks("full") == 8  # low path, trunk, five branches, residual
    assert masks("no-trunk-attention") == 7
    assert masks("no-branch-attention") == 2
    assert masks("no-attention") == 1
    assert masks("no-resaspp") == 1
    assert masks("no-lowpath") == 7
    assert masks("plain-add") == masks("plain-concat") == 0


@pytest.mark.parametrize("width", [32, 64, 128])
@pytest.mark.parametrize("separable", [False, True])
def test_widths_and_separable_convolutions(width, separable):
    dense = count(ARAFNetDecoder(CHANNELS, 5, ARAFNetConfig(width=128)))
    decoder = ARAFNetDecoder(CHANNELS, 5, ARAFNetConfig(width=width, separable=separable)).eval()
    assert decoder(features())[0].shape == (2, 5, 16, 16)
    assert count(decoder) <= dense


def test_res_aspp_sees_far():
    """A change in one corner reaches what lies three pixels away, by the smallest dilation."""
    aspp = ResASPP(8, ARAFNetConfig(width=16, trunk_attention=False, branch_attention=False)).eval()
    x = torch.randn(1, 8, 16, 16)
    changed = x.clone()
    changed[..., 0, 0] += 1.0
    with torch.no_grad():
        difference = (aspp(x) - aspp(changed)).abs().amax((0, 1))
    assert float(difference[3, 3]) > 0
    assert float(difference[1, 1]) == 0
