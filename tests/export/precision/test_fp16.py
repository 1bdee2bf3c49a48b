from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from torch import nn

from graphs import graph, make, node_of, normal, ops, run, tensor_of, types
from rsedge_export.graph.rewrite import pool_spatial_means
from rsedge_export.graph.torch_graph import RawInput, trace
from rsedge_export.precision.fp16 import keep_fp32, to_fp16

TILE = 16
HALF, FULL = TensorProto.FLOAT16, TensorProto.FLOAT
FLOATS = {HALF, FULL}
PREPROCESSING = [
    make("Cast", ["pixels"], "real", to=FULL),
    make("Mul", ["real", "gain"], "scaled"),
    make("Sub", ["scaled", "offset"], "centred"),
]
CONSTANTS = {
    "gain": np.full((1, 3, 1, 1), 1 / 64, np.float32),
    "offset": np.full((1, 3, 1, 1), 2, np.float32),
}


def pixels(batch: int = 1, dtype: type = np.uint8, high: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, high, (batch, 3, TILE, TILE)).astype(dtype)


def build(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    classes: int,
    dtype: int = TensorProto.UINT8,
    size: int = TILE,
) -> onnx.ModelProto:
    """Preprocessing, then ``nodes`` from "centred" to "scores"."""
    before = [onnx.NodeProto.FromString(node.SerializeToString()) for node in PREPROCESSING]
    return graph(
        [*before, *nodes],
        {**CONSTANTS, **weights},
        ["batch", 3, TILE, TILE],
        ["batch", classes, size, size],
        dtype=dtype,
    )


def halved(model: onnx.ModelProto, tiles: np.ndarray) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return the fp16 graph as a user gets it; also assert its intended types."""
    kept = keep_fp32(model, tiles)
    found = to_fp16(model, kept)
    check_types(model, found, set(kept))
    return found, kept


def check_types(model: onnx.ModelProto, found: onnx.ModelProto, kept: set[str]) -> None:
    """Assert a valid graph in which only kept nodes, and nodes that need fp32, are in fp32."""
    onnx.checker.check_model(found, full_check=True)
    known = types(found)
    for node in model.graph.node:
        wanted = FULL if node.name in kept else HALF
        now = node_of(found, node.name)
        for slot, name in enumerate((*now.input, *now.output)):
            if known.get(name) in FLOATS and not (node.op_type == "Resize" and slot in {1, 2}):
                assert known[name] == wanted, (node.name, name)
    assert known["scores"] == FULL
    casts = {n.output[0] for n in found.graph.node} - {n.output[0] for n in model.graph.node}
    assert all(name.endswith((".fp16", ".fp32")) for name in casts)


def by_numpy(model: onnx.ModelProto, tiles: np.ndarray) -> np.ndarray:
    """ONNX's reference in numpy, which computes fp16 nodes in fp16; ONNX Runtime's CPU kernels do not."""
    with np.errstate(all="ignore"):
        (scores,) = ReferenceEvaluator(model).run(["scores"], {"pixels": tiles})
    return np.asarray(scores)


def close(found: np.ndarray, expected: np.ndarray, share: float = 5e-3) -> bool:
    return bool(np.abs(found - expected).max() <= share * np.ptp(expected))


def wide_net() -> onnx.ModelProto:
    """Convolutions, squeeze-excite, LayerNormalization, Resize."""
    nodes = [
        make("Conv", ["centred", "w1", "b1"], "c1", pads=[1, 1, 1, 1], strides=[2, 2]),
        make("Relu", ["c1"], "r1"),
        make("GlobalAveragePool", ["r1"], "mean"),
        make("Sigmoid", ["mean"], "gate"),
        make("Mul", ["r1", "gate"], "gated"),
        make("Transpose", ["gated"], "last", perm=[0, 2, 3, 1]),
        make("LayerNormalization", ["last", "ln_gain", "ln_bias"], "normed", axis=-1, epsilon=1e-6),
        make("Transpose", ["normed"], "first", perm=[0, 3, 1, 2]),
        make("Conv", ["first", "w2", "b2"], "c2", pads=[1, 1, 1, 1]),
        make("Resize", ["c2", "", "scales"], "up", mode="linear"),
        make("Conv", ["up", "w3", "b3"], "scores"),
    ]
    weights = {
        "w1": normal(64, 3, 3, 3, scale=0.2),
        "b1": normal(64, seed=1),
        "ln_gain": 1 + normal(64, seed=2, scale=0.1),
        "ln_bias": normal(64, seed=3),
        "w2": normal(64, 64, 3, 3, seed=4, scale=0.05),
        "b2": normal(64, seed=5),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "w3": normal(4, 64, 1, 1, seed=6, scale=0.1),
        "b3": normal(4, seed=7),
    }
    return build(nodes, weights, 4)


class TestGraph:
    def test_all_but_the_preprocessing_is_fp16_and_the_answer_is_close(self) -> None:
        model = wide_net()
        before = model.SerializeToString()
        tiles = pixels(2)
        found, kept = halved(model, tiles)
        assert kept == {f"node_{n}": "preprocessing" for n in ("real", "scaled", "centred")}
        assert model.SerializeToString() == before
        expected = run(model, tiles)
        for scores in (run(found, tiles), run(found, tiles, exact=False), by_numpy(found, tiles)):
            assert scores.dtype == np.float32
            assert close(scores, expected)
            assert (scores.argmax(1) == expected.argmax(1)).mean() > 0.99

    def test_it_has_two_casts_and_half_the_size(self) -> None:
        model = wide_net()
        found, _ = halved(model, pixels())
        assert ops(found).count("Cast") == ops(model).count("Cast") + 2  # to fp16, and scores to fp32
        assert 0.49 < found.ByteSize() / model.ByteSize() < 0.56

    def test_layer_normalization_takes_fp16_and_resize_keeps_its_scales(self) -> None:
        found, _ = halved(wide_net(), pixels())
        known = types(found)
        assert known[node_of(found, "node_normed").input[0]] == HALF
        resize = node_of(found, "node_up")
        assert [known.get(name) for name in resize.input] == [HALF, None, FULL]
        np.testing.assert_array_equal(tensor_of(found, resize.input[2]), [1, 1, 2, 2])

    @pytest.mark.parametrize("kept", ["c1", "gated", "normed", "c2", "scores"])
    def test_a_kept_node_computes_in_fp32_between_two_casts(self, kept: str) -> None:
        model = wide_net()
        names = {*keep_fp32(model, pixels()), f"node_{kept}"}
        found = to_fp16(model, names)
        check_types(model, found, names)
        assert close(run(found, pixels()), run(model, pixels()))

    def test_no_cast_stands_between_two_kept_nodes_and_each_tensor_is_cast_once(self) -> None:
        nodes = [
            make("Relu", ["centred"], "x"),
            make("Exp", ["x"], "a"),  # kept
            make("Neg", ["a"], "b"),  # kept
            make("Tanh", ["a"], "c"),
            make("Sigmoid", ["a"], "d"),
            make("Abs", ["x"], "e"),  # kept
            make("Sum", ["b", "c", "d", "e"], "scores"),
        ]
        model = build(nodes, {}, 3)
        names = {*keep_fp32(model, pixels()), "node_a", "node_b", "node_e"}
        found = to_fp16(model, names)
        check_types(model, found, names)
        casts = sorted(n.input[0] for n in found.graph.node if n.op_type == "Cast")
        assert casts == ["a", "b", "centred", "e", "pixels", "scores.fp16", "x"]
        assert close(run(found, pixels()), run(model, pixels()))

    def test_weights_shared_by_a_kept_and_a_halved_node_exist_twice(self) -> None:
        nodes = [
            make("Conv", ["centred", "w"], "a"),
            make("Conv", ["a", "w"], "b"),
            make("Conv", ["b", "w"], "scores"),
        ]
        model = build(nodes, {"w": normal(3, 3, 1, 1)}, 3)
        names = {*keep_fp32(model, pixels()), "node_b"}
        found = to_fp16(model, names)
        check_types(model, found, names)
        assert [t.name for t in found.graph.initializer if t.dims == [3, 3, 1, 1]] == ["w", "w.fp16"]
        assert close(run(found, pixels()), run(model, pixels()))

    def test_scores_that_the_graph_itself_reads_on(self) -> None:
        """A second output derived from the first: the reader takes fp16, the caller fp32."""
        nodes = [
            make("Conv", ["centred", "w"], "scores"),
            make("Sigmoid", ["scores"], "certainty"),
        ]
        model = build(nodes, {"w": normal(4, 3, 1, 1)}, 4)
        shape = ["batch", 4, TILE, TILE]
        model.graph.output.append(onnx.helper.make_tensor_value_info("certainty", FULL, shape))
        found = to_fp16(model, keep_fp32(model, pixels()))
        onnx.checker.check_model(found, full_check=True)
        known = types(found)
        assert known["scores"] == known["certainty"] == FULL
        assert known[node_of(found, "node_certainty").input[0]] == HALF
        assert close(run(found, pixels()), run(model, pixels()))

    def test_class_indices_stay_integers(self) -> None:
        nodes = [
            make("Conv", ["centred", "w"], "x"),
            make("ArgMax", ["x"], "best", axis=1, keepdims=1),
            make("Cast", ["best"], "scores", to=FULL),
        ]
        model = build(nodes, {"w": normal(4, 3, 1, 1)}, 1)
        found, _ = halved(model, pixels())
        assert (run(found, pixels()) == run(model, pixels())).mean() > 0.98

    def test_a_network_exported_by_torch(self) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, stride=2),
            nn.BatchNorm2d(16),
            nn.SiLU(),
            nn.ConvTranspose2d(16, 8, 2, 2),
            nn.GroupNorm(2, 8),
            nn.GELU(),
            nn.UpsamplingBilinear2d(scale_factor=2),
            nn.AvgPool2d(2),
            nn.Conv2d(8, 5, 1),
        )
        raw = RawInput(net, (0.4, 0.5, 0.6), (0.2, 0.2, 0.2), 255.0).eval()
        model = trace(raw, torch.zeros(2, 3, TILE, TILE, dtype=torch.uint8))
        pool_spatial_means(model)
        found, kept = halved(model, pixels(3))
        assert set(kept.values()) == {"preprocessing"}
        with torch.inference_mode():
            expected = raw(torch.from_numpy(pixels(3))).numpy()
        assert close(run(found, pixels(3)), expected)


class TestWhatMustStayFp32:
    """Each network breaks in fp16, is found, and answers well with what was found kept."""

    def check(self, model: onnx.ModelProto, tiles: np.ndarray, *, broken: bool = True) -> dict[str, str]:
        expected = run(model, tiles)
        assert np.isfinite(expected).all()
        preprocessing = {name for name, why in keep_fp32(model, tiles).items() if why == "preprocessing"}
        with np.errstate(all="ignore"):
            careless = by_numpy(to_fp16(model, preprocessing), tiles)
        assert (not np.isfinite(careless).all() or not close(careless, expected)) == broken
        found, kept = halved(model, tiles)
        for scores in (by_numpy(found, tiles), run(found, tiles)):
            assert np.isfinite(scores).all()
            assert close(scores, expected)
        return {name: why for name, why in kept.items() if why != "preprocessing"}

    def conv(self, scale: float) -> tuple[onnx.NodeProto, dict[str, np.ndarray]]:
        return make("Conv", ["centred", "w"], "x"), {"w": normal(3, 3, 1, 1, scale=scale)}

    @pytest.mark.parametrize("op", ["ReduceSum", "ReduceSumSquare"])
    def test_sums_over_a_tile(self, op: str) -> None:
        conv, weights = self.conv(300)
        nodes = [
            conv,
            make("Abs", ["x"], "size"),
            make(op, ["size", "axes"], "sum", keepdims=1),
            make("Div", ["size", "sum"], "share"),
            make("Mul", ["share", "thousand"], "scores"),
        ]
        weights |= {"axes": np.array([2, 3]), "thousand": np.array(1000, np.float32)}
        kept = self.check(build(nodes, weights, 3), pixels(2))
        assert {"node_sum", "node_share"} <= kept.keys()
        assert np.isinf(by_numpy(cut(to_fp16(build(nodes, weights, 3), ()), "sum"), pixels())).any()
        assert "node_scores" not in kept
        assert "calibration tiles" in kept["node_sum"]

    def test_sums_inside_a_norm_whose_result_fits(self) -> None:
        """XCA: a feature's length is some thousands, its square is not."""
        conv, weights = self.conv(100)
        nodes = [
            conv,
            make("ReduceL2", ["x", "axes"], "length", keepdims=1),
            make("Div", ["x", "length"], "scores"),
        ]
        weights["axes"] = np.array([-1])
        model = build(nodes, weights, 3)
        lengths = [by_numpy(cut(m, "length"), pixels(2)) for m in (model, to_fp16(model, ()))]
        assert lengths[0].max() < 5000
        assert np.isinf(lengths[1]).any()
        kept = self.check(model, pixels(2))
        assert "node_length" in kept
        assert kept.get("node_scores", "").startswith("values") is False

    def test_the_same_norm_in_opset_17(self) -> None:
        """Its axes are an attribute."""
        conv, weights = self.conv(100)
        nodes = [
            conv,
            make("ReduceL2", ["x"], "length", keepdims=1, axes=[-1]),
            make("Div", ["x", "length"], "scores"),
        ]
        before = [onnx.NodeProto.FromString(node.SerializeToString()) for node in PREPROCESSING]
        model = graph(
            [*before, *nodes],
            {**CONSTANTS, **weights},
            ["batch", 3, TILE, TILE],
            ["batch", 3, TILE, TILE],
            dtype=TensorProto.UINT8,
            opset=17,
        )
        assert "node_length" in self.check(model, pixels(2))

    def test_a_pooling_of_values_that_do_not_fit(self) -> None:
        conv, weights = self.conv(1e5)
        nodes = [
            conv,
            make("GlobalAveragePool", ["x"], "mean"),
            make("Div", ["x", "mean"], "scores"),
        ]
        assert "node_mean" in self.check(build(nodes, weights, 3), pixels(2))

    def test_a_pooling_of_values_that_fit_is_not_kept_for_its_sum(self) -> None:
        conv, weights = self.conv(1000)
        nodes = [
            conv,
            make("GlobalAveragePool", ["x"], "mean"),
            make("Sub", ["x", "mean"], "scores"),
        ]
        model = build(nodes, weights, 3)
        sums = np.abs(by_numpy(cut(model, "x"), pixels())).sum((2, 3))
        assert sums.max() > 65504
        kept = self.check(model, pixels(), broken=False)
        assert not kept

    def test_scores_that_do_not_fit(self) -> None:
        """They are the graph's output, and fp32: what computes them must be, too."""
        nodes = [make("Conv", ["centred", "w"], "x"), make("Mul", ["x", "many"], "scores")]
        weights = {"w": normal(3, 3, 1, 1), "many": np.array([1e5, 2, 3], np.float32).reshape(1, 3, 1, 1)}
        weights["many"] *= 0.5  # 5e4 fits, its products do not
        assert list(self.check(build(nodes, weights, 3), pixels(2))) == ["node_scores"]

    def test_a_tiny_epsilon(self) -> None:
        conv, weights = self.conv(1)
        nodes = [
            conv,
            make("Relu", ["x"], "y"),  # zeros in many places
            make("Add", ["y", "epsilon"], "safe"),
            make("Div", ["y", "safe"], "scores"),
        ]
        weights["epsilon"] = np.array(1e-12, np.float32)
        model = build(nodes, weights, 3)
        kept = self.check(model, pixels(2))
        assert list(kept) == ["node_safe", "node_scores"]  # the sum and the division
        assert set(kept.values()) == {"a constant of 1.0e-12 does not fit fp16"}

    def test_the_epsilon_of_a_normalisation_exported_by_torch(self) -> None:
        """Clip, Expand, Div: where the length is zero, the clipped one must not become zero again."""

        class Normalise(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return nn.functional.normalize(x.relu(), dim=1)

        raw = RawInput(Normalise(), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 255.0)
        model = trace(raw, torch.zeros(2, 3, TILE, TILE, dtype=torch.uint8))
        tiles = pixels(2)
        tiles[:, :, 0] = 0
        self.check(model, tiles)

    def test_constants_that_do_not_fit(self) -> None:
        """One of many in an array, which would become infinity."""
        nodes = [make("Clip", ["centred", "low", "high"], "x"), make("Mul", ["x", "gains"], "scores")]
        weights = {
            "low": np.array(-1e9, np.float32),
            "high": np.array(1e9, np.float32),
            "gains": np.array([1, 2, 1e6], np.float32).reshape(1, 3, 1, 1),
        }
        kept = self.check(build(nodes, weights, 3), pixels(2))
        assert kept.keys() >= {"node_x", "node_scores"}

    def test_16_bit_pixels(self) -> None:
        tiles = pixels(2, np.uint16, 65536)
        tiles[0, :, 0, 0] = 65535
        nodes = [make("Conv", ["centred", "w"], "scores")]
        model = build(nodes, {"w": normal(3, 3, 1, 1)}, 3, TensorProto.UINT16)
        found, _ = halved(model, tiles)
        assert np.isfinite(by_numpy(found, tiles)).all()
        assert close(by_numpy(found, tiles), run(model, tiles))
        with np.errstate(all="ignore"):
            assert not np.isfinite(by_numpy(to_fp16(model, ()), tiles)).all()

    def test_float_pixels_read_at_once_by_a_convolution(self) -> None:
        tiles = normal(1, 3, TILE, TILE, scale=1e5)
        model = graph(
            [make("Conv", ["pixels", "w"], "scores")],
            {"w": normal(2, 3, 1, 1, scale=1e-3)},
            ["batch", 3, TILE, TILE],
            ["batch", 2, TILE, TILE],
        )
        assert list(self.check(model, tiles)) == ["node_scores"]

    def test_the_measure_is_the_largest_of_all_tiles(self) -> None:
        conv, weights = self.conv(1)
        dark, bright = np.full((2, 3, TILE, TILE), [[[[128]]], [[[255]]]], np.uint8)
        weights["w"][:] = 2
        model = build([conv, make("Exp", ["x"], "scores")], weights, 3)
        assert "node_scores" not in keep_fp32(model, [dark])
        one = keep_fp32(model, [bright])
        assert one["node_scores"] == "values up to 148190 on the calibration tiles"  # e^(6 * (255/64 - 2))
        assert keep_fp32(model, [bright, dark]) == keep_fp32(model, [dark, bright]) == one


def cut(model: onnx.ModelProto, tensor: str) -> onnx.ModelProto:
    """Return the part of the graph up to ``tensor``, renamed "scores"."""
    count = next(i for i, n in enumerate(model.graph.node) if n.output[0] == tensor) + 1
    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.node[count:]
    part.graph.node[-1].output[0] = "scores"
    return part
