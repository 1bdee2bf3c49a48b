from rsedge_train.nets.complexity import build_weightless
from rsedge_train.nets.precision import fp32_modules, int8_float_modules


def test_a_convolutional_student_has_nothing_to_keep():
    net = build_weightless("efficientnet_b0", 5)
    assert fp32_modules(net) == int8_float_modules(net) == ()


def test_maflnet_keeps_norms_softmax_and_in_int8_the_gaussian():
    net = build_weightless("maflnet-s", 5)
    kept = fp32_modules(net)
    assert "decoder.levels.0.3.xca.unit" in kept
    assert "decoder.levels.0.3.fusion.mask.3" in kept
    assert "decoder.levels.0.3.norm.norm" in kept
    assert "encoder.stages.0.norm" in kept
    assert "decoder.ups.2.enhance.smooth" in set(int8_float_modules(net)) - set(kept)
