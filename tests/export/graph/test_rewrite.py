from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from graphs import graph, make, normal, ops, run
from rsedge.errors import ModelError
from rsedge_export.graph.rewrite import drop_unused, pool_spatial_means, set_opset, to_opset_17

SHAPE = ["batch", 3, 6, 5]


def mean(axes: list[int], shape: list[str | int], out: list[str | int], keepdims: int = 1) -> onnx.ModelProto:
    node = make("ReduceMean", ["pixels", "axes"], "scores", keepdims=keepdims)
    return graph([node], {"axes": np.array(axes, np.int64)}, shape, out)


class TestPoolSpatialMeans:
    @pytest.mark.parametrize("axes", [[2, 3], [3, 2], [-1, -2]])
    def test_a_mean_over_height_and_width_becomes_a_pooling_with_the_same_answer(
        self, axes: list[int]
    ) -> None:
        model = mean(axes, SHAPE, ["batch", 3, 1, 1])
        pixels = normal(2, 3, 6, 5)
        pool_spatial_means(model)
        onnx.checker.check_model(model, full_check=True)
        assert ops(model) == ["GlobalAveragePool"]
        assert not model.graph.initializer  # the axes are read by nobody
        np.testing.assert_allclose(run(model, pixels), pixels.mean((2, 3), keepdims=True), atol=1e-6)

    @pytest.mark.parametrize(
        ("axes", "keepdims", "shape", "out"),
        [
            ([1], 1, SHAPE, ["batch", 1, 6, 5]),
            ([1, 2], 1, SHAPE, ["batch", 1, 1, 5]),
            ([2], 1, SHAPE, ["batch", 3, 1, 5]),
            ([1, 2, 3], 1, SHAPE, ["batch", 1, 1, 1]),
            ([2, 3], 0, SHAPE, ["batch", 3]),
            ([-2, -1], 1, ["batch", 6, 5], ["batch", 1, 1]),  # pooling would leave the 6
            ([2, 3], 1, ["batch", 2, 3, 4, 5], ["batch", 2, 1, 1, 5]),  # and here take the 5 away
        ],
    )
    def test_other_means_stay(
        self, axes: list[int], keepdims: int, shape: list[str | int], out: list[str | int]
    ) -> None:
        model = mean(axes, shape, out, keepdims)
        before = model.SerializeToString()
        pool_spatial_means(model)
        assert model.SerializeToString() == before

    def test_in_the_middle_of_a_graph(self) -> None:
        """Squeeze-excite, as a network has it."""
        nodes = [
            make("Relu", ["pixels"], "x"),
            make("ReduceMean", ["x", "axes"], "mean", keepdims=1),
            make("Sigmoid", ["mean"], "gate"),
            make("Mul", ["x", "gate"], "gated"),
            make("ReduceMean", ["gated", "channels"], "scores", keepdims=1),
        ]
        weights = {"axes": np.array([2, 3]), "channels": np.array([1])}
        model = graph(nodes, weights, SHAPE, ["batch", 1, 6, 5])
        pixels = normal(2, 3, 6, 5)
        expected = run(model, pixels)
        pool_spatial_means(model)
        assert ops(model) == ["Relu", "GlobalAveragePool", "Sigmoid", "Mul", "ReduceMean"]
        np.testing.assert_allclose(run(model, pixels), expected, atol=1e-6)


class TestOpset17:
    def check(self, model: onnx.ModelProto, pixels: np.ndarray) -> onnx.ModelProto:
        """Assert a valid graph, equal to the original by both evaluators, and an unchanged original."""
        before = model.SerializeToString()
        older = to_opset_17(model)
        assert model.SerializeToString() == before
        assert [(o.domain, o.version) for o in older.opset_import] == [("", 17)]
        assert older.ir_version <= 8
        onnx.checker.check_model(older, full_check=True)
        expected = run(model, pixels)
        np.testing.assert_array_equal(run(older, pixels), expected)
        (reference,) = ReferenceEvaluator(older).run(["scores"], {"pixels": pixels})
        np.testing.assert_allclose(reference, expected, atol=1e-5)
        return older

    @pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSum"])
    @pytest.mark.parametrize(("axes", "out"), [([1], ["batch", 1, 6, 5]), ([-1, 2], ["batch", 3, 1, 1])])
    def test_reductions(self, op: str, axes: list[int], out: list[str | int]) -> None:
        node = make(op, ["pixels", "axes"], "scores", keepdims=1, noop_with_empty_axes=0)
        older = self.check(graph([node], {"axes": np.array(axes)}, SHAPE, out), normal(2, 3, 6, 5))
        assert len(older.graph.node[0].input) == (2 if op == "ReduceSum" else 1)

    @pytest.mark.parametrize("inputs", [["pixels"], ["pixels", ""], ["pixels", "none"]])
    def test_a_reduction_of_everything(self, inputs: list[str]) -> None:
        node = make("ReduceMax", inputs, "scores", keepdims=1, noop_with_empty_axes=0)
        self.check(graph([node], {"none": np.array([], np.int64)}, SHAPE, [1, 1, 1, 1]), normal(2, 3, 6, 5))

    def test_a_reduction_of_nothing_is_refused(self) -> None:
        node = make("ReduceMax", ["pixels"], "scores", noop_with_empty_axes=1)
        with pytest.raises(ModelError, match="node_scores"):
            to_opset_17(graph([node], {}, SHAPE, SHAPE))

    def test_computed_axes_are_refused(self) -> None:
        nodes = [
            make("Neg", ["one"], "axes"),
            make("ReduceMean", ["pixels", "axes"], "scores", keepdims=1),
        ]
        with pytest.raises(ModelError, match=r"node_scores \(ReduceMean\) computes its axes"):
            to_opset_17(graph(nodes, {"one": np.array([1])}, SHAPE, ["batch", 3, 6, 1]))

    def test_resize(self) -> None:
        node = make(
            "Resize",
            ["pixels", "", "scales"],
            "scores",
            mode="linear",
            coordinate_transformation_mode="half_pixel",
            antialias=0,
            keep_aspect_ratio_policy="stretch",
        )
        weights = {"scales": np.array([1, 1, 2, 2], np.float32)}
        older = self.check(graph([node], weights, SHAPE, ["batch", 3, 12, 10]), normal(2, 3, 6, 5))
        assert {a.name for a in older.graph.node[0].attribute} == {"mode", "coordinate_transformation_mode"}

    def test_an_antialiased_resize_is_refused(self) -> None:
        node = make("Resize", ["pixels", "", "scales"], "scores", mode="linear", antialias=1)
        weights = {"scales": np.array([1, 1, 0.5, 1], np.float32)}
        with pytest.raises(ModelError, match="antialias=1"):
            to_opset_17(graph([node], weights, SHAPE, ["batch", 3, 3, 5]))

    def test_split(self) -> None:
        nodes = [
            onnx.helper.make_node("Split", ["pixels"], ["a", "b", "c"], axis=1, num_outputs=3),
            make("Sub", ["a", "b"], "d"),
            make("Mul", ["d", "c"], "scores"),
        ]
        self.check(graph(nodes, {}, SHAPE, ["batch", 1, 6, 5]), normal(2, 3, 6, 5))

    def test_layer_normalization_and_convolution_need_nothing(self) -> None:
        nodes = [
            make("Conv", ["pixels", "w"], "x", kernel_shape=[1, 1]),
            make("LayerNormalization", ["x", "gain"], "scores", axis=-1),
        ]
        weights = {"w": normal(3, 3, 1, 1), "gain": normal(5, seed=1)}
        self.check(graph(nodes, weights, SHAPE, SHAPE), normal(2, 3, 6, 5))


def test_unused_weights_and_stored_shapes_go() -> None:
    weights = {"kept": normal(3, 1, 1), "lost": normal(7)}
    model = graph([make("Add", ["pixels", "kept"], "scores")], weights, SHAPE, SHAPE)
    model.graph.value_info.add(name="x")
    drop_unused(model)
    assert [t.name for t in model.graph.initializer] == ["kept"]
    assert not model.graph.value_info


def test_other_operator_sets_go_with_set_opset() -> None:
    model = graph([make("Relu", ["pixels"], "scores")], {}, SHAPE, SHAPE)
    model.opset_import.append(onnx.helper.make_opsetid("pkg.onnxscript.torch_lib", 1))
    set_opset(model, 19)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 19)]
    onnx.checker.check_model(model, full_check=True)
