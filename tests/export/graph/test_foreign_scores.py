"""Outputs chosen; softmax, log-softmax and sigmoid undone: what is adopted answers the file's own probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from rsedge.errors import InputError, ModelError
from rsedge_export.graph.foreign import ForeignFacts, adopt
from rsedge_export.graph.session import open_session
from rsedge_export.precision.fp16 import keep_fp32, to_fp16
from toys import CLASSES

SIDE = 32
FACTS = ForeignFacts(CLASSES, (0.0,) * 3, (1.0,) * 3)
PIXELS = np.random.default_rng(3).integers(0, 256, (2, 3, SIDE, SIDE)).astype(np.uint8)
WEIGHT = np.array([[4, -1, 0.5], [-2, 3, 1], [0, 0.3, 2]], np.float32).reshape(3, 3, 1, 1)
SCORES = np.einsum("kc,nchw->nkhw", WEIGHT[..., 0, 0], PIXELS / np.float32(255))
node = helper.make_node
WEIGHTS = {
    "w": WEIGHT,
    "half": np.float32(0.5),
    "hundred": np.float32(100),
    "bytes": np.float32(255),
    "one": np.float32(1),
    "axis": np.array([1]),
    "scales": np.array([1, 1, 2, 2], np.float32),
    "shape": np.array([0, 3, -1]),
    "whole": np.array([0, 3, SIDE, SIDE]),
}


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def file_of(
    path: Path, nodes: Sequence[NodeProto], outputs: Sequence[str] = ("y",), image: int = SIDE
) -> Path:
    used = {name for n in nodes for name in n.input} | {"w"}
    made = helper.make_graph(
        [node("Conv", ["x", "w"], ["z"]), *nodes],
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3, image, image))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in WEIGHTS.items() if k in used],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def answer(model: onnx.ModelProto) -> np.ndarray:
    (scores,) = open_session(model).run(["scores"], {"pixels": PIXELS})
    return np.asarray(scores)


def by_the_file(path: Path) -> np.ndarray:
    (found,) = open_session(onnx.load(path)).run(None, {"x": PIXELS / np.float32(255)})
    return np.asarray(found)


SOFT = node("Softmax", ["z"], ["p"], axis=1)
PROBABILITIES = {
    "at the end": ([node("Softmax", ["z"], ["y"], axis=1)], "cut"),
    "before nodes that only pass on": (
        [SOFT, node("Identity", ["p"], ["i"]), node("Reshape", ["i", "shape"], ["r"]),
         node("Reshape", ["r", "whole"], ["y"])], "cut",
    ),
    "with the classes last": (
        [node("Transpose", ["z"], ["t"], perm=[0, 2, 3, 1]), node("Softmax", ["t"], ["p"], axis=-1),
         node("Transpose", ["p"], ["y"], perm=[0, 3, 1, 2])], "cut",
    ),
    "written out": (
        [node("Exp", ["z"], ["e"]), node("ReduceSum", ["e", "axis"], ["s"]),
         node("Div", ["e", "s"], ["y"])], "logarithm",
    ),
    "in percent": ([SOFT, node("Mul", ["p", "hundred"], ["y"])], "logarithm"),
    "in bytes": (
        [SOFT, node("Mul", ["p", "bytes"], ["q"]), node("Round", ["q"], ["y"])], "logarithm",
    ),
    "a mean of two": (
        [SOFT, node("Neg", ["z"], ["m"]), node("Softmax", ["m"], ["q"], axis=1), node("Add", ["p", "q"], ["s"]),
         node("Mul", ["s", "half"], ["y"])], "logarithm",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROBABILITIES)
def test_probabilities_become_scores_whose_softmax_they_are(name: str, tmp_path: Path) -> None:
    nodes, how = PROBABILITIES[name]
    path = file_of(tmp_path / "soft.onnx", nodes)
    told = by_the_file(path)
    model, manifest = adopt(path, FACTS)
    np.testing.assert_allclose(softmax(answer(model)), told / told.sum(1, keepdims=True), atol=1e-4)
    assert any("probabilities" in note and how in note for note in manifest.provenance["foreign"]["notes"])
    onnx.checker.check_model(model, full_check=True)
    # The logarithm of a share is no number for fp16 where the share is none.
    halved = to_fp16(model, keep_fp32(model, list(PIXELS)))
    np.testing.assert_allclose(softmax(answer(halved)), told / told.sum(1, keepdims=True), atol=5e-3)


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_probabilities_that_were_resized_keep_their_values(mode: str, tmp_path: Path) -> None:
    """A softmax before an upsampling is another function than one after it: cutting it would move borders."""
    nodes = [
        node("AveragePool", ["z"], ["low"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Softmax", ["low"], ["p"], axis=1),
        node("Resize", ["p", "", "scales"], ["y"], mode=mode),
    ]
    path = file_of(tmp_path / "soft.onnx", nodes)
    told = by_the_file(path).clip(0)
    np.testing.assert_allclose(
        softmax(answer(adopt(path, FACTS)[0])), told / told.sum(1, keepdims=True), atol=1e-4
    )


def test_probabilities_at_half_the_resolution(tmp_path: Path) -> None:
    nodes = [
        node("AveragePool", ["z"], ["low"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Softmax", ["low"], ["y"], axis=1),
    ]
    model, _ = adopt(file_of(tmp_path / "soft.onnx", nodes), FACTS)
    low = SCORES.reshape(2, 3, SIDE // 2, 2, SIDE // 2, 2).mean((3, 5))
    found = answer(model)
    assert found.shape == PIXELS.shape
    # Bilinear interpolation by two weighs the four nearest 9, 3, 3 and 1 sixteenths.
    expected = (9 * low[..., 3, 4] + 3 * low[..., 3, 5] + 3 * low[..., 4, 4] + low[..., 4, 5]) / 16
    np.testing.assert_allclose(softmax(found)[..., 7, 9], softmax(expected), atol=1e-4)


def test_a_softmax_that_answers_zeros_and_ones_is_cut_too(tmp_path: Path) -> None:
    nodes = [node("Mul", ["z", "big"], ["b"]), node("Softmax", ["b"], ["y"], axis=1)]
    WEIGHTS["big"] = np.float32(1e6)
    try:
        model, _ = adopt(file_of(tmp_path / "hard.onnx", nodes), FACTS)
    finally:
        del WEIGHTS["big"]
    assert np.ptp(answer(model)) > 1e5


def test_log_probabilities_are_scores(tmp_path: Path) -> None:
    for nodes, how in (
        ([node("LogSoftmax", ["z"], ["y"], axis=1)], "cut"),
        ([SOFT, node("Log", ["p"], ["y"])], "unchanged"),
    ):
        path = file_of(tmp_path / "log.onnx", nodes)
        model, manifest = adopt(path, FACTS)
        np.testing.assert_allclose(softmax(answer(model)), np.exp(by_the_file(path)), atol=1e-4)
        assert any("log-softmax" in note and how in note for note in manifest.provenance["foreign"]["notes"])


def test_a_sigmoid_a_class_is_cut_and_said(tmp_path: Path) -> None:
    model, manifest = adopt(file_of(tmp_path / "s.onnx", [node("Sigmoid", ["z"], ["y"])]), FACTS)
    np.testing.assert_allclose(answer(model), SCORES, atol=1e-4)
    (note,) = manifest.provenance["foreign"]["notes"]
    assert "need not sum to one" in note
    assert "confidences" in note


def test_another_activation_between_0_and_1_is_left_and_said(tmp_path: Path) -> None:
    path = file_of(tmp_path / "s.onnx", [node("HardSigmoid", ["z"], ["y"])])
    model, manifest = adopt(path, FACTS)
    np.testing.assert_allclose(answer(model), by_the_file(path), atol=1e-4)
    assert "left unchanged" in manifest.provenance["foreign"]["notes"][0]


@pytest.mark.parametrize(
    "nodes", [[], [node("Softmax", ["z"], ["p"], axis=1), node("Add", ["p", "z"], ["y"])]]
)
def test_scores_are_left_as_they_are(nodes: list[NodeProto], tmp_path: Path) -> None:
    path = file_of(tmp_path / "plain.onnx", nodes or [node("Identity", ["z"], ["y"])])
    model, manifest = adopt(path, FACTS)
    np.testing.assert_allclose(answer(model), by_the_file(path), atol=1e-4)
    assert manifest.provenance["foreign"]["notes"] == []


def test_one_hot_classes_are_no_scores(tmp_path: Path) -> None:
    nodes = [
        node("ArgMax", ["z"], ["a"], axis=1, keepdims=0),
        node("OneHot", ["a", "three", "values"], ["y"], axis=1),
    ]
    WEIGHTS.update(three=np.array(3), values=np.array([0, 1], np.float32))
    try:
        path = file_of(tmp_path / "hot.onnx", nodes)
    finally:
        del WEIGHTS["three"], WEIGHTS["values"]
    with pytest.raises(ModelError, match="classes rather than scores"):
        adopt(path, FACTS)


# --- outputs


@pytest.mark.parametrize("order", [("y", "aux"), ("aux", "y")])
def test_of_several_that_could_be_the_scores_one_must_be_named(
    order: tuple[str, str], tmp_path: Path
) -> None:
    path = file_of(
        tmp_path / "two.onnx", [node("Identity", ["z"], ["y"]), node("Neg", ["z"], ["aux"])], order
    )
    with pytest.raises(InputError, match=r"y \(float32 Nx3x32x32\)") as caught:
        adopt(path, FACTS)
    assert "aux (float32" in str(caught.value)
    assert "--output" in str(caught.value)
    for name, sign in (("y", 1), ("aux", -1)):
        model, manifest = adopt(path, replace(FACTS, output=name))
        np.testing.assert_allclose(answer(model), sign * SCORES, atol=1e-4)
        assert [v.name for v in model.graph.output] == ["scores"]
        assert f"using its output {name}," in manifest.provenance["foreign"]["notes"][0] or name == "y"
    with pytest.raises(InputError, match="no output 'z'"):
        adopt(path, replace(FACTS, output="z"))


def test_a_lower_resolution_and_probabilities_could_be_the_scores_too(tmp_path: Path) -> None:
    nodes = [
        node("Softmax", ["z"], ["y"], axis=1),
        node("AveragePool", ["z"], ["low"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    path = file_of(tmp_path / "three.onnx", nodes, ("y", "low", "z"))
    with pytest.raises(InputError, match="3 outputs"):
        adopt(path, FACTS)
    np.testing.assert_allclose(answer(adopt(path, replace(FACTS, output="z"))[0]), SCORES, atol=1e-4)


def test_the_only_one_of_the_shape_of_scores_is_taken_and_named(tmp_path: Path) -> None:
    nodes = [
        node("Identity", ["z"], ["y"]),
        node("GlobalAveragePool", ["z"], ["mean"]),
        node("ArgMax", ["z"], ["index"], axis=1, keepdims=0),
        node("Transpose", ["z"], ["last"], perm=[0, 2, 3, 1]),
    ]
    path = file_of(tmp_path / "four.onnx", nodes, ("index", "last", "y"))
    loaded = onnx.load(path)
    loaded.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    onnx.save(loaded, path)
    model, manifest = adopt(path, FACTS)
    np.testing.assert_allclose(answer(model), SCORES, atol=1e-4)
    assert manifest.provenance["foreign"]["notes"] == ["using its output y, not index, last"]


def test_classes_that_come_last_are_named_so(tmp_path: Path) -> None:
    path = file_of(tmp_path / "last.onnx", [node("Transpose", ["z"], ["y"], perm=[0, 2, 3, 1])])
    with pytest.raises(ModelError, match="NHWC.*--outputs-as-nchw"):
        adopt(path, FACTS)


# --- training mode


@pytest.mark.parametrize("as_node", [False, True])
def test_dropout_in_training_mode_is_named(as_node: bool, tmp_path: Path) -> None:
    for training in (True, False):
        flag = numpy_helper.from_array(np.array(training), "training")
        nodes = [node("Dropout", ["z", "half", "training"], ["y"])]
        if as_node:
            nodes.insert(0, node("Constant", [], ["training"], value=flag))
        path = file_of(tmp_path / "drop.onnx", nodes)
        if not as_node:
            made = onnx.load(path)
            made.graph.initializer.append(flag)
            onnx.save(made, path)
        if training:
            with pytest.raises(ModelError, match=r"Dropout in training mode.*model\.eval"):
                adopt(path, FACTS)
        else:
            np.testing.assert_allclose(answer(adopt(path, FACTS)[0]), SCORES, atol=1e-4)


def test_other_random_nodes_are_named(tmp_path: Path) -> None:
    nodes = [node("RandomNormalLike", ["z"], ["r"]), node("Add", ["z", "r"], ["y"])]
    with pytest.raises(ModelError, match="RandomNormalLike"):
        adopt(file_of(tmp_path / "random.onnx", nodes), FACTS)
