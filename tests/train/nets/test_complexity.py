import io

import pytest
import torch

from rsedge.errors import InputError
from rsedge_train.nets import registry
from rsedge_train.nets.complexity import (
    Complexity,
    build_weightless,
    complexity,
    macs,
    on_meta,
    parameters,
    state_bytes,
    summary,
)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("efficientnet_b0", 6.717),
        ("efficientnet_b1", 9.222),
        ("mobilenetv3_large_100", 9.964),
        ("mobilenetv3_small_100", 5.483),
        ("resnet18", 15.762),
        ("resnet50", 39.177),
        ("segformer_b0", 6.152),
        ("segformer_b1", 17.810),
        ("ghostnetv3_100", 4.054),
        ("maflnet-s", 12.536),
    ],
)
def test_true_parameters_at_six_classes(name, millions):
    assert round(parameters(build_weightless(name, 6)) / 1e6, 3) == millions


def test_macs_of_a_tile():
    assert round(complexity("efficientnet_b0").macs / 1e9, 2) == 6.61
    assert round(complexity("maflnet-s").macs / 1e9, 1) == 15.7


def test_macs_of_one_convolution_are_what_the_textbook_says():
    conv = torch.nn.Conv2d(3, 8, 3, padding=1)
    assert macs(conv, 64) == 64 * 64 * 8 * 3 * 9
    up = torch.nn.ConvTranspose2d(3, 8, 3, 2, 1, 1)
    assert macs(up, 64) == 64 * 64 * 3 * 8 * 9


def test_the_edge_family_has_students_below_three_giga_macs():
    cheap = [name for name in registry.names("edge") if complexity(name).macs <= 3e9]
    assert len(cheap) >= 3
    assert "efficientnet_b0-w64-sep" in cheap


def test_bytes_are_those_torch_save_writes():
    net = registry.build("mobilenetv3_small_100-w32-sep", 5)
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    assert state_bytes(net) == pytest.approx(buffer.tell(), rel=2e-4)


def test_complexity_says_strides_channels_and_what_trains():
    counts = complexity("arafnet-t-tiny")
    assert counts.strides == (4, 8, 16, 32)
    assert counts.channels == (96, 192, 384, 768)
    assert counts.output_stride == 8
    assert counts.params - counts.params_inference == 148_486
    assert counts.params_trainable < counts.params // 2


def test_counting_leaves_the_network_alone():
    net = registry.build("mobilenetv3_small_100-w32-sep", 5).train()
    copy = on_meta(net)
    assert next(copy.parameters()).is_meta
    assert not copy.training
    assert not next(net.parameters()).is_meta
    assert net.training


def test_summary_lists_stages_with_shapes():
    stages = {stage.name: stage for stage in summary("efficientnet_b0")}
    assert stages["encoder.f4"].shape == (1, 320, 16, 16)
    assert stages["decoder.low"].shape == (1, 128, 64, 64)
    assert stages["decoder.high"].shape == (1, 128, 16, 16)
    assert stages["logits"].shape == (1, 6, 512, 512)
    parts = [s for name, s in stages.items() if name != "logits"]
    assert sum(s.params for s in parts) == stages["logits"].params
    assert sum(s.macs for s in parts) == stages["logits"].macs


def test_impossible_counts_and_tiles_are_refused():
    with pytest.raises(InputError, match="tile"):
        macs(torch.nn.Conv2d(3, 8, 3), 100)
    good = complexity("efficientnet_b0")
    with pytest.raises(InputError):
        Complexity(**{**vars(good), "params_trainable": good.params + 1})
    with pytest.raises(InputError):
        Complexity(**{**vars(good), "macs": 0})
