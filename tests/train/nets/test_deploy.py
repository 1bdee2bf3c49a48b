import pytest
import torch
from torch import nn

from rsedge.errors import InputError, ModelError
from rsedge_train.nets import registry
from rsedge_train.nets.complexity import macs, on_meta
from rsedge_train.nets.deploy import RewriteReport, deploy, fold_batch_norms, fold_dilations, rewrite_report
from rsedge_train.nets.upconv import SplitUpStep, UpConv


def shaken(net):
    """BN statistics and weights as training leaves them: not the identity."""
    torch.manual_seed(5)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2.0)
    return net.eval()


def same(before, after, x):
    with torch.no_grad():
        expected, found = before(x), after(x)
    return float((expected - found).abs().max()) <= 1e-5 * float(expected.max() - expected.min())


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "ghostnetv3_100", "maflnet-s", "resnet18"])
@pytest.mark.parametrize("tile", [None, 128])
def test_a_deployed_network_is_the_same_function(name, tile):
    net = shaken(registry.build(name, 5))
    x = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        before = net(x)
    after = deploy(net, tile)
    assert same(net, after, x)
    assert torch.equal(net(x), before)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in after.modules())
    assert not after.training
    assert not any(p.requires_grad for p in after.parameters())


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenetv2_100-w64-sep-fine-int8"])
def test_at_512_the_two_widest_dilations_are_folded_exactly(name):
    net = shaken(registry.build(name, 5))
    after = deploy(net, 512)
    kept = {m.dilation[0] for m in after.modules() if isinstance(m, nn.Conv2d)}
    assert kept == {1, 3, 6, 12}
    assert same(net, after, torch.randn(1, 3, 512, 512, generator=torch.Generator().manual_seed(7)))


def test_without_a_tile_the_size_stays_free():
    net = shaken(registry.build("mobilenetv3_small_100", 5))
    after = deploy(net, None)
    assert {m.dilation[0] for m in after.modules() if isinstance(m, nn.Conv2d)} >= {18, 24}
    assert not any(isinstance(m, UpConv | SplitUpStep) for m in after.modules())
    assert same(net, after, torch.randn(1, 3, 96, 160))


def test_upsampled_convolutions_are_rewritten_where_it_pays():
    arafnet = deploy(registry.build("mobilenetv3_small_100", 5).eval(), 128)
    maflnet = deploy(registry.build("maflnet-s", 5).eval(), 128)
    assert sum(isinstance(m, UpConv) for m in arafnet.modules()) == 1
    assert sum(isinstance(m, SplitUpStep) for m in maflnet.modules()) == 3


@pytest.mark.parametrize("dilation", [3, 4, 5])
def test_a_dilation_is_folded_from_the_maps_size_on(dilation):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=dilation, dilation=dilation)).eval()
    x = torch.randn(1, 3, 4, 4)
    expected = net(x)
    # The whole input is 4 x 4 here; fold_dilations only asks for the input's size.
    fold_dilations(net, 4)
    assert (net[0].kernel_size == (1, 1)) == (dilation >= 4)
    torch.testing.assert_close(net(x), expected)


class Shared(nn.Module):
    """A convolution whose output BN is not alone in reading."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


def test_a_shared_convolution_is_not_folded():
    net = shaken(Shared())
    x = torch.randn(1, 3, 8, 8)
    expected = net(x)
    assert isinstance(fold_batch_norms(net).norm, nn.BatchNorm2d)
    torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize("conv", [nn.Conv2d(3, 6, 3, groups=3), nn.ConvTranspose2d(3, 6, 3, 2, 1, 1)])
def test_bn_folds_into_grouped_and_transposed_convolutions(conv):
    net = shaken(nn.Sequential(conv, nn.BatchNorm2d(6)))
    x = torch.randn(1, 3, 8, 8)
    expected = net(x)
    assert isinstance(fold_batch_norms(net)[1], nn.Identity)
    torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-5)


def test_rewrites_save_work():
    report = rewrite_report(registry.build("efficientnet_b0", 6))
    assert round(report.macs_before / 1e9, 2) == 6.61
    assert report.macs_after < 0.91 * report.macs_before
    assert report.params_after < report.params_before
    with pytest.raises(ModelError):
        RewriteReport(512, 1, 2, 1, 1)


def test_a_teacher_deploys_without_its_auxiliary_head():
    net = shaken(registry.build("arafnet-t-tiny", 5))
    after = deploy(net, 64)
    assert after.decoder.aux is None
    assert net.decoder.aux is not None
    assert macs(on_meta(after), 64) < macs(net, 64)


def test_wrong_tiles_are_refused():
    with pytest.raises(InputError, match="multiple of 32"):
        deploy(registry.build("mobilenetv3_small_100-w32-sep", 5), 100)


def test_a_wrong_rewrite_is_caught(monkeypatch):
    net = registry.build("mobilenetv3_small_100-w32-sep", 5).eval()

    def spoil(target, tile=64):
        nn.init.normal_(target.decoder.head[-1].bias, std=9.0)
        return target

    monkeypatch.setattr("rsedge_train.nets.deploy.fold_batch_norms", spoil)
    with pytest.raises(ModelError, match="changed the network"):
        deploy(net, None)
