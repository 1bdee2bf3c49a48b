import pytest

from rsedge.errors import InputError
from rsedge_train.nets import build_student, registry
from rsedge_train.nets.complexity import build_weightless, parameters
from rsedge_train.nets.configs import ARAFNetConfig


def test_all_networks_of_both_papers_are_there():
    assert set(registry.names("student")) == {
        *("efficientnet_b0", "efficientnet_b1", "mobilenetv3_large_100", "mobilenetv3_small_100"),
        *("resnet18", "resnet50", "segformer_b0", "segformer_b1", "ghostnetv3_100", "maflnet-s"),
    }
    assert {"arafnet-t", "maflnet-t", "arafnet-t-tiny"} <= set(registry.names("teacher"))
    assert len(registry.names()) == sum(len(registry.names(role)) for role in registry.ROLES)


def test_names_say_what_is_built():
    spec = registry.entry("mobilenetv2_100-w64-sep-int8")
    assert spec.role == "edge"
    assert spec.backbone == "mobilenetv2_100"
    assert spec.config.width == 64
    assert spec.config.separable
    assert spec.config.activation == "relu6"
    assert not spec.config.branch_attention
    assert registry.entry("convnext_atto").role == "student"
    assert registry.entry("arafnet-t").network == "ARAFNet"


def test_the_int8_family_has_no_squeeze_excite_and_no_masks():
    with pytest.raises(InputError, match="efficientnet_lite0"):
        registry.build("efficientnet_b0-w64-int8", 5)
    kinds = {type(m).__name__ for m in build_weightless("efficientnet_lite0-w64-int8", 5).modules()}
    assert not kinds & {"SqueezeExcite", "CBAM", "Sigmoid", "SiLU"}
    assert {"ReLU6", "Hardsigmoid"} <= kinds


def test_an_ablation_is_one_word():
    full = parameters(build_weightless("segformer_b0", 5))
    assert parameters(registry.build("segformer_b0", 5, ablation="no-resaspp")) < full
    assert parameters(registry.build("maflnet-s", 5, ablation="baseline")) < 12_000_000
    with pytest.raises(InputError, match="ablation"):
        registry.build("maflnet-s", 5, ablation="no-resaspp")


def test_wrong_use_is_explained():
    with pytest.raises(InputError, match="role"):
        registry.names("pupil")
    with pytest.raises(InputError, match="arafnet-t, .*maflnet-s"):
        registry.entry("efficientnet_b0-wide")
    with pytest.raises(InputError, match="teacher"):
        registry.build("arafnet-t-tiny", 5, pretrained=True)
    with pytest.raises(InputError, match="student"):
        registry.build("resnet18", 5, checkpoint="sam2.pt")
    with pytest.raises(InputError, match="role"):
        registry.Entry("x", "pupil", "resnet18", ARAFNetConfig())
    with pytest.raises(InputError, match="trunk"):
        registry.Entry("x", "teacher", "resnet18", ARAFNetConfig())


def test_build_student_takes_a_configuration():
    net = build_student("mobilenetv3_small_100", 5, config=ARAFNetConfig(width=32))
    assert net.config.width == 32
