import pytest
import torch

from rsedge.errors import InputError
from rsedge_train.nets import registry
from rsedge_train.nets.teacher import Adapter, build_sam2_encoder


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return build_sam2_encoder("sam2.1-hiera-tiny")


def test_an_adapter_stands_before_every_block(encoder):
    assert len(encoder.adapters) == len(encoder.trunk.blocks) == 12
    blocks = zip(encoder.adapters, encoder.trunk.blocks, strict=True)
    assert all(a.layers[0].in_features == b.dim and a.layers[0].out_features == 32 for a, b in blocks)


def test_without_its_adapters_it_is_sam2s_trunk(encoder):
    x = torch.randn(1, 3, 64, 96)
    blind = build_sam2_encoder("sam2.1-hiera-tiny")
    blind.trunk = encoder.trunk
    for adapter in blind.adapters:
        torch.nn.init.zeros_(adapter.layers[2].weight)
        torch.nn.init.zeros_(adapter.layers[2].bias)
    with torch.no_grad():
        for ours, theirs in zip(blind(x), encoder.trunk(x), strict=True):
            assert torch.equal(ours, theirs)


def test_features_at_four_strides(encoder):
    shapes = [tuple(f.shape) for f in encoder(torch.randn(1, 3, 64, 64))]
    assert shapes == [(1, c, 16 >> i, 16 >> i) for i, c in enumerate(encoder.channels)]


def test_the_adapter_is_a_residual():
    adapter = Adapter(48)
    x = torch.randn(2, 4, 4, 48)
    assert torch.allclose(adapter(x) - x, adapter.layers(x), atol=1e-6)


@pytest.mark.parametrize("name", ["arafnet-t-tiny", "maflnet-t-tiny"])
def test_the_trunk_stays_frozen_and_everything_else_learns(name):
    net = registry.build(name, 5).train()
    assert not any(module.training for module in net.encoder.trunk.modules())
    assert all(module.training for module in net.encoder.adapters.modules())
    logits, aux = net(torch.randn(2, 3, 64, 64))
    assert logits.shape == aux.shape == (2, 5, 64, 64)
    (logits.square().mean() + aux.square().mean()).backward()
    assert all(p.grad is None and not p.requires_grad for p in net.encoder.trunk.parameters())
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)
    assert isinstance(net.eval()(torch.randn(1, 3, 64, 64)), torch.Tensor)


def test_an_empty_checkpoint_path_is_refused():
    with pytest.raises(InputError, match="empty"):
        build_sam2_encoder("sam2.1-hiera-tiny", checkpoint="")
