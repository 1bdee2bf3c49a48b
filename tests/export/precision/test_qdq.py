from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from graphs import graph, make, node_of, normal, ops, run, tensor_of, types
from rsedge_export.graph.rewrite import set_opset
from rsedge_export.precision.fp16 import keep_fp32, to_fp16
from rsedge_export.precision.qdq import quantize, switchable
from rsedge_export.precision.sites import Site, find_joins, find_sites
from rsedge_train.nets.grids import SMALLEST_SCALE, Scale, weight_scales

TILE = 16
SHAPE = ["batch", 4, TILE, TILE]
TILES = normal(2, 4, TILE, TILE, seed=9)
SIGNED, UNSIGNED = Scale(0.03, 0), Scale(0.02, 120)


def net(**changes: np.ndarray) -> onnx.ModelProto:
    """Two branches that read the same tensor, then a head."""
    nodes = [
        make("Relu", ["pixels"], "x"),
        make("Conv", ["x", "w1", "bias"], "a", pads=[1, 1, 1, 1]),
        make("Conv", ["x", "w2"], "b"),
        make("Add", ["a", "b"], "y"),
        make("Conv", ["y", "w3"], "scores"),
    ]
    weights = {
        "w1": normal(6, 4, 3, 3, seed=1, scale=0.3),
        "bias": normal(6, seed=2),
        "w2": normal(6, 4, 1, 1, seed=3),
        "w3": normal(3, 6, 1, 1, seed=4),
    }
    return graph(nodes, weights | changes, SHAPE, ["batch", 3, TILE, TILE])


def facts(model: onnx.ModelProto, scale: Scale = SIGNED) -> tuple[list[Site], dict[str, Scale]]:
    sites = find_sites(model)
    return sites, {s.tensor: scale for s in sites}


def fake(values: np.ndarray, scale: Scale, *, unsigned: bool) -> np.ndarray:
    """Quantized and dequantized, by ONNX's formula in fp32."""
    lowest, highest = (0, 255) if unsigned else (-128, 127)
    whole = np.clip(np.round(values / np.float32(scale.scale)) + scale.zero, lowest, highest)
    return ((whole - scale.zero) * np.float32(scale.scale)).astype(np.float32)


def fake_weights(weights: np.ndarray, axis: int) -> np.ndarray:
    shape = [-1 if i == axis else 1 for i in range(weights.ndim)]
    steps = weight_scales(weights, axis).reshape(shape)
    return (np.clip(np.round(weights / steps), -127, 127) * steps).astype(np.float32)


def check_layer(model: onnx.ModelProto, unsigned: bool, weights: Mapping[str, np.ndarray], axis: int) -> None:
    """Quantizing the one layer equals ``model`` with quantized weights, run on a quantized input."""
    scale = UNSIGNED if unsigned else SIGNED
    sites, scales = facts(model, scale)
    (site,) = sites
    found = quantize(model, sites, {site.name}, scales, unsigned=unsigned)
    onnx.checker.check_model(found, full_check=True)
    expected = onnx.ModelProto()
    expected.CopyFrom(model)
    for tensor in expected.graph.initializer:
        if tensor.name == site.weight:
            simulated = fake_weights(weights[site.weight], axis)
            tensor.CopyFrom(onnx.numpy_helper.from_array(simulated, tensor.name))
    answer = run(expected, fake(TILES, scale, unsigned=unsigned))
    np.testing.assert_allclose(run(found, TILES), answer, atol=1e-4)
    set_opset(found, 19)  # the oldest that the reference quantizes in
    (reference,) = ReferenceEvaluator(found).run(["scores"], {"pixels": TILES})
    np.testing.assert_allclose(reference, answer, atol=1e-4)
    # ONNX Runtime's integer kernels round elsewhere: equal but for single steps.
    assert np.abs(run(found, TILES, exact=False) - answer).max() < 0.05 * np.ptp(answer)
    assert np.abs(run(model, TILES) - answer).max() > 1e-3  # it did something


both = pytest.mark.parametrize("unsigned", [False, True])


class TestOneLayer:
    @both
    def test_convolution(self, unsigned: bool) -> None:
        weights = {"w": normal(3, 2, 3, 3), "bias": normal(3, seed=1)}
        weights["w"] = np.concatenate([weights["w"], weights["w"][:1] * 3])
        weights["bias"] = normal(4, seed=1)
        node = make("Conv", ["pixels", "w", "bias"], "scores", pads=[1, 1, 1, 1], group=2)
        check_layer(graph([node], weights, SHAPE, SHAPE), unsigned, weights, 0)

    @both
    def test_matmul(self, unsigned: bool) -> None:
        weights = {"w": normal(TILE, 9)}
        node = make("MatMul", ["pixels", "w"], "scores")
        check_layer(graph([node], weights, SHAPE, ["batch", 4, TILE, 9]), unsigned, weights, 1)

    @both
    @pytest.mark.parametrize("transposed", [0, 1])
    def test_gemm(self, unsigned: bool, transposed: int) -> None:
        size = 4 * TILE * TILE
        weights = {
            "w": normal(5, size) if transposed else normal(size, 5),
            "bias": normal(5, seed=1),
        }
        nodes = [
            make("Gemm", ["pixels", "w", "bias"], "scores", transB=transposed, alpha=0.1),
        ]
        model = graph(nodes, weights, ["batch", size], ["batch", 5])
        scale = UNSIGNED if unsigned else SIGNED
        sites, scales = facts(model, scale)
        found = quantize(model, sites, {"node_scores"}, scales, unsigned=unsigned)
        onnx.checker.check_model(found, full_check=True)
        flat = TILES.reshape(2, size)
        simulated = fake_weights(weights["w"], 1 - transposed)
        simulated = simulated.T if transposed else simulated
        expected = 0.1 * fake(flat, scale, unsigned=unsigned) @ simulated + weights["bias"]
        np.testing.assert_allclose(run(found, flat), expected, atol=1e-3)
        dequantize = node_of(found, "w.dq.DequantizeLinear")
        assert tensor_of(found, dequantize.input[1]).shape == (5,)


class TestQuantize:
    @both
    @pytest.mark.parametrize("chosen", [set(), {"node_b"}, {"node_a", "node_scores"}])
    def test_only_the_chosen_layers_change(self, chosen: set[str], unsigned: bool) -> None:
        model = net()
        before = model.SerializeToString()
        sites, scales = facts(model)
        assert len(sites) == 3
        found = quantize(model, sites, chosen, scales, unsigned=unsigned)
        assert model.SerializeToString() == before
        onnx.checker.check_model(found, full_check=True)
        for node in model.graph.node:
            now = node_of(found, node.name)
            if node.name in chosen:
                assert [n[-3:] for n in now.input[:2]] == [".dq", ".dq"]
                assert list(now.input[2:]) == list(node.input[2:])  # the bias stays
                assert list(now.output) == list(node.output)
            else:
                assert now == node
        assert ops(found).count("DequantizeLinear") == 2 * len(chosen)
        assert ops(found).count("QuantizeLinear") == len(chosen)

    @both
    def test_weights_are_stored_once_as_int8_with_a_scale_for_each_channel(self, unsigned: bool) -> None:
        model = net()
        sites, scales = facts(model)
        found = quantize(model, sites, {s.name for s in sites}, scales, unsigned=unsigned)
        stored = {t.name for t in found.graph.initializer}
        assert not {"w1", "w2", "w3"} & stored
        for site in sites:
            node = next(n for n in found.graph.node if n.output[0] == f"{site.weight}.dq")
            whole, steps, zero = (tensor_of(found, name) for name in node.input)
            assert (whole.dtype, steps.dtype, zero.dtype) == (np.int8, np.float32, np.int8)
            assert whole.shape == site.shape
            assert steps.shape == zero.shape == (site.shape[0],)
            assert not zero.any()
            assert whole.min() >= -127  # symmetric: TensorRT's range
            np.testing.assert_array_equal(
                whole * steps.reshape(-1, 1, 1, 1), fake_weights(tensor_of(model, site.weight), 0)
            )
        zeros = [tensor_of(found, n.input[2]) for n in found.graph.node if n.op_type == "QuantizeLinear"]
        assert {z.dtype.name for z in zeros} == {"uint8" if unsigned else "int8"}
        assert {z.shape for z in zeros} == {()}

    def test_a_tensor_that_two_layers_read_has_one_pair(self) -> None:
        model = net()
        sites, scales = facts(model)
        found = quantize(model, sites, {"node_a", "node_b"}, scales, unsigned=True)
        assert ops(found).count("QuantizeLinear") == 1
        assert node_of(found, "node_a").input[0] == node_of(found, "node_b").input[0] == "x.dq"

    def test_weights_shared_with_a_layer_that_stays_float(self) -> None:
        nodes = [make("Conv", ["pixels", "w"], "x"), make("Conv", ["x", "w"], "scores")]
        model = graph(nodes, {"w": normal(4, 4, 1, 1)}, SHAPE, SHAPE)
        sites, scales = facts(model)
        found = quantize(model, sites, {"node_x"}, scales, unsigned=False)
        assert node_of(found, "node_scores").input[1] == "w"
        np.testing.assert_array_equal(tensor_of(found, "w"), tensor_of(model, "w"))
        weight = tensor_of(model, "w")[:, :, 0, 0]
        x = np.einsum("oi,nihw->nohw", fake_weights(weight, 0), fake(TILES, SIGNED, unsigned=False))
        expected = np.einsum("oi,nihw->nohw", weight, x)
        np.testing.assert_allclose(run(found, TILES), expected, atol=1e-4)
        twice = quantize(model, sites, {"node_x", "node_scores"}, scales, unsigned=False)
        assert [t.name for t in twice.graph.initializer if t.data_type == TensorProto.INT8].count("w.q") == 1


class TestFp16:
    def halved(self, kept: set[str]) -> tuple[onnx.ModelProto, list[Site], dict[str, Scale]]:
        model = net()
        sites, scales = facts(model, UNSIGNED)
        found = to_fp16(model, kept | keep_fp32(model, TILES).keys())
        set_opset(found, 19)
        return found, sites, scales

    @both
    @pytest.mark.parametrize("kept", [set(), {"node_a"}, {"node_scores"}])
    def test_each_pair_has_the_type_around_it(self, kept: set[str], unsigned: bool) -> None:
        model, sites, scales = self.halved(kept)
        found = quantize(model, sites, {s.name for s in sites}, scales, unsigned=unsigned)
        onnx.checker.check_model(found, full_check=True)
        known = types(found)
        for site in sites:
            wanted = TensorProto.FLOAT if site.name in kept else TensorProto.FLOAT16
            node = node_of(found, site.name)
            assert {known[name] for name in (*node.input, *node.output)} == {wanted}
        for node in found.graph.node:
            if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
                float_side = node.input[0] if node.op_type == "QuantizeLinear" else node.output[0]
                assert known[node.input[1]] == known[float_side]
        full = run(quantize(net(), sites, {s.name for s in sites}, scales, unsigned=unsigned), TILES)
        assert np.abs(run(found, TILES) - full).mean() < 0.01 * np.ptp(full)

    def test_weights_shared_by_an_fp16_and_an_fp32_layer(self) -> None:
        nodes = [make("Conv", ["pixels", "w"], "x"), make("Conv", ["x", "w"], "scores")]
        model = graph(nodes, {"w": normal(4, 4, 1, 1)}, SHAPE, SHAPE)
        sites, scales = facts(model)
        half = to_fp16(model, {"node_x"})
        set_opset(half, 19)
        found = quantize(half, sites, {s.name for s in sites}, scales, unsigned=False)
        onnx.checker.check_model(found, full_check=True)
        known = types(found)
        assert known[node_of(found, "node_x").input[1]] == TensorProto.FLOAT
        assert known[node_of(found, "node_scores").input[1]] == TensorProto.FLOAT16
        full = run(quantize(model, sites, {s.name for s in sites}, scales, unsigned=False), TILES)
        assert np.abs(run(found, TILES) - full).mean() < 0.01 * np.ptp(full)

    def test_scales_too_small_for_fp16_do_not_become_zero(self) -> None:
        model, sites, scales = self.halved(set())
        tiny = {name: Scale(1e-9, 7) for name in scales}
        found = quantize(model, sites, {s.name for s in sites}, tiny, unsigned=True)
        for node in found.graph.node:
            if node.op_type == "QuantizeLinear":
                assert tensor_of(found, node.input[1]) == np.float16(SMALLEST_SCALE)
        assert np.isfinite(run(found, TILES)).all()
        assert tensor_of(quantize(net(), sites, {"node_a"}, tiny, unsigned=True), "x.scale") == np.float32(
            1e-9
        )


class TestSwitchable:
    @both
    def test_all_off_is_the_model_itself(self, unsigned: bool) -> None:
        model = net()
        before = model.SerializeToString()
        sites, scales = facts(model)
        found = switchable(model, sites, scales, unsigned=unsigned)
        assert model.SerializeToString() == before
        onnx.checker.check_model(found, full_check=True)
        off = np.zeros(3, np.bool_)
        np.testing.assert_array_equal(run(found, TILES, quantized=off), run(model, TILES))

    @both
    @pytest.mark.parametrize("on", [{0}, {1}, {2}, {0, 2}, {0, 1, 2}])
    def test_switches_equal_quantize(self, on: set[int], unsigned: bool) -> None:
        """Without ONNX Runtime's integer kernels, which the switches keep it from using."""
        model = net()
        sites, scales = facts(model, UNSIGNED if unsigned else SIGNED)
        chosen = {sites[i].name for i in on}
        expected = run(quantize(model, sites, chosen, scales, unsigned=unsigned), TILES)
        switches = np.array([i in on for i in range(3)])
        found = switchable(model, sites, scales, unsigned=unsigned)
        np.testing.assert_array_equal(run(found, TILES, quantized=switches), expected)
        optimised = run(found, TILES, exact=False, quantized=switches)
        np.testing.assert_allclose(optimised, expected, atol=1e-4)
        assert np.abs(expected - run(model, TILES)).max() > 1e-3

    def test_it_has_a_switch_for_each_site_and_leaves_other_layers_alone(self) -> None:
        model = net()
        sites, scales = facts(model)
        found = switchable(model, sites[:2], scales, unsigned=False)
        assert [i.name for i in found.graph.input] == ["pixels", "quantized"]
        assert found.graph.input[1].type.tensor_type.shape.dim[0].dim_value == 2
        assert "w3" in {t.name for t in found.graph.initializer}
        assert ops(found).count("Where") == 4


class TestWeightScales:
    weights = arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=6),
        elements=st.floats(-50, 50, width=32).filter(lambda v: v == 0 or abs(v) > 0.01),
    )

    @settings(deadline=None)
    @given(weights, st.integers(0, 3))
    def test_the_error_is_not_above_that_of_the_largest_weight_as_limit(
        self, values: np.ndarray, axis: int
    ) -> None:
        axis %= values.ndim
        rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1).astype(np.float64)
        steps = weight_scales(values, axis)
        assert steps.shape == (values.shape[axis],)
        assert steps.dtype == np.float32
        assert (steps >= np.float32(SMALLEST_SCALE)).all()
        for row, step in zip(rows, steps.astype(np.float64), strict=True):
            plain = max(np.abs(row).max() / 127, SMALLEST_SCALE)
            errors = [np.square(np.clip(np.round(row / s), -127, 127) * s - row).sum() for s in (step, plain)]
            assert errors[0] <= errors[1] * (1 + 1e-3) + 1e-9

    def test_channels_do_not_know_of_each_other(self) -> None:
        small, large = normal(1, 8, 3, 3, scale=0.1), normal(1, 8, 3, 3, seed=1, scale=100)
        together = weight_scales(np.concatenate([small, large]), 0)
        np.testing.assert_array_equal(together, [weight_scales(w, 0)[0] for w in (small, large)])
        np.testing.assert_array_equal(
            weight_scales(np.concatenate([small, large]).swapaxes(0, 2).copy(), 2), together
        )

    def test_a_lone_outlier_is_clipped_where_that_is_better(self) -> None:
        many = np.append(normal(1, 100_000, scale=0.1), [[1.0]], axis=1).astype(np.float32)
        assert weight_scales(many, 0)[0] < 0.9 / 127

    def test_a_dead_channel(self) -> None:
        steps = weight_scales(np.zeros((2, 3), np.float32), 0)
        assert (steps > 0).all()


def joined_net() -> onnx.ModelProto:
    """A residual sum, a resizing and a concatenation between layers, and a resizing of the scores."""
    nodes = [
        make("Conv", ["pixels", "w1"], "a", pads=[1, 1, 1, 1]),
        make("Clip", ["a", "zero", "six"], "c"),
        make("Conv", ["c", "w2"], "b"),
        make("Add", ["b", "c"], "sum"),
        make("Conv", ["sum", "w2"], "d", strides=[2, 2]),
        make("Resize", ["d", "", "twice"], "large", mode="linear"),
        make("Concat", ["sum", "large"], "both", axis=1),
        make("Conv", ["both", "w3"], "low", strides=[2, 2]),
        make("Resize", ["low", "", "twice"], "scores", mode="linear"),
    ]
    weights = {
        "w1": normal(6, 4, 3, 3, seed=1, scale=0.3),
        "w2": normal(6, 6, 1, 1, seed=3, scale=0.3),
        "w3": normal(3, 12, 1, 1, seed=4),
        "zero": np.float32(0),
        "six": np.float32(6),
        "twice": np.array([1, 1, 2, 2], np.float32),
    }
    return graph(nodes, weights, SHAPE, ["batch", 3, TILE, TILE])


def test_joins_are_the_sums_between_layers_but_not_the_scores() -> None:
    model = joined_net()
    found = {join.name: join.tensors for join in find_joins(model, find_sites(model))}
    assert found == {"node_sum": ("b", "c"), "node_large": ("d",), "node_both": ("sum", "large")}


def test_sums_of_anything_but_layers_are_not_joins() -> None:
    """A residual stream past a norm, a constant, a gate."""
    nodes = [
        make("Conv", ["pixels", "w1"], "a"),
        make("Sigmoid", ["a"], "gate"),
        make("Add", ["a", "gate"], "x"),
        make("Add", ["a", "bias"], "y"),
        make("Add", ["x", "y"], "z"),
        make("Conv", ["z", "w2"], "scores"),
    ]
    weights = {"w1": normal(4, 4, 1, 1), "bias": normal(4, 1, 1), "w2": normal(3, 4, 1, 1)}
    model = graph(nodes, weights, SHAPE, ["batch", 3, TILE, TILE])
    assert find_joins(model, find_sites(model)) == []


def test_with_joins_onnxruntime_computes_every_layer_and_sum_in_integers(tmp_path: Path) -> None:
    model = joined_net()
    sites = find_sites(model)
    joins, chosen = find_joins(model, sites), {s.name for s in sites}
    tensors = {s.tensor for s in sites} | {t for join in joins for t in join.tensors}
    # A range of exactly the Clip's lets ONNX Runtime drop the Clip.
    scales = dict.fromkeys(tensors, Scale(0.06, 128)) | {"c": Scale(6 / 255, 0)}
    found = quantize(model, sites, chosen, scales, unsigned=True, joins=joins)
    onnx.checker.check_model(found, full_check=True)
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "fused.onnx"), 3
    ort.InferenceSession(found.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fused = ops(onnx.load(tmp_path / "fused.onnx"))
    assert (fused.count("QLinearAdd"), fused.count("QLinearConcat")) == (1, 1)
    assert fused.count("QLinearConv") == 3  # all but the last, which gives scores
    apart = np.abs(run(found, TILES) - run(quantize(model, sites, chosen, scales, unsigned=True), TILES))
    assert 0 < apart.max() < 0.5  # some steps of 0.06
    assert apart.mean() < 0.1
