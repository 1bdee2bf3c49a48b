from dataclasses import FrozenInstanceError

import pytest

from rsedge.errors import InputError
from rsedge_train.nets.configs import (
    ARAFNET_ABLATIONS,
    MAFLNET_ABLATIONS,
    ARAFNetConfig,
    MAFLNetConfig,
    arafnet_ablation,
    maflnet_ablation,
)


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 0},
        {"width": 60},
        {"activation": "selu"},
        {"gate": "tanh"},
        {"fusion": "mean"},
        {"fusion": "none"},
        {"low_path": False, "fusion": "add"},
        {"dropout": 1.0},
        {"dropout": -0.1},
    ],
)
def test_arafnet_configuration_checks_itself(wrong):
    with pytest.raises(InputError):
        ARAFNetConfig(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"widths": (64, 128, 320)}, {"widths": (4, 128, 320, 512)}, {"heads": 0}, {"heads": 7}]
)
def test_maflnet_configuration_checks_itself(wrong):
    with pytest.raises(InputError):
        MAFLNetConfig(**wrong)


def test_configurations_are_frozen():
    with pytest.raises(FrozenInstanceError):
        ARAFNetConfig().width = 64
    with pytest.raises(FrozenInstanceError):
        MAFLNetConfig().maca = False


def test_table_6_has_ten_ablations_beside_the_whole_and_table_3_four_rows():
    assert len(ARAFNET_ABLATIONS) == 11
    assert len({arafnet_ablation(name) for name in ARAFNET_ABLATIONS}) == 11
    assert len({maflnet_ablation(name) for name in MAFLNET_ABLATIONS}) == 4
    assert arafnet_ablation("full") == ARAFNetConfig()
    assert maflnet_ablation("full") == MAFLNetConfig()


def test_an_ablation_keeps_the_rest_of_its_base():
    config = arafnet_ablation("plain-concat", ARAFNetConfig(width=64, aux=True))
    assert config.width == 64
    assert config.aux
    assert not config.res_aspp


def test_unknown_ablations_list_what_is_allowed():
    with pytest.raises(InputError, match="no-resaspp"):
        arafnet_ablation("no-nothing")
    with pytest.raises(InputError, match="baseline"):
        maflnet_ablation("no-nothing")
