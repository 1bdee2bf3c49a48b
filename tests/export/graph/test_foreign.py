from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from rsedge import open_model
from rsedge.errors import InputError, ModelError
from rsedge.model.bundle import file_sha256, write_bundle_manifest
from rsedge.score.labels import ClassTable
from rsedge_export.graph.foreign import ForeignFacts, adopt
from rsedge_export.graph.onnx_file import save
from rsedge_export.graph.session import open_session
from toys import CLASSES

SIDE = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FACTS = ForeignFacts(CLASSES, MEAN, STD, gsd_m=(0.25, 1.0))
PIXELS = np.random.default_rng(3).integers(0, 256, (3, 3, SIDE, SIDE)).astype(np.uint8)


class Net(nn.Module):
    """Scores at a quarter of the tile, upsampled when asked to; the batch goes through a reshape."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1)
        )
        self.head, self.whole = nn.Conv2d(8, 3, 1), whole

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        deep = self.body(image)
        deep = deep * deep.mean((2, 3), keepdim=True).sigmoid()
        deep = deep.flatten(2).unflatten(2, deep.shape[2:])
        return up(self.head(deep)) if self.whole else self.head(deep)


def up(scores: torch.Tensor) -> torch.Tensor:
    return nn.functional.interpolate(scores, scale_factor=4, mode="bilinear")


def truth(pixels: NDArray[Any], max_value: float = 255.0) -> NDArray[Any]:
    """Compute the expected scores: preprocessing in numpy, the network in torch."""
    with torch.inference_mode():
        return Net(True).eval()(torch.from_numpy(normalised(pixels, max_value))).numpy()


def normalised(pixels: NDArray[Any] = PIXELS, max_value: float = 255.0) -> NDArray[np.float32]:
    shape = (1, 3, 1, 1)
    return ((pixels / max_value - np.reshape(MEAN, shape)) / np.reshape(STD, shape)).astype(np.float32)


def export(path: Path, whole: bool = True, free: bool = True, opset: int = 18) -> Path:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Net(whole).eval(),
            (torch.zeros(2 if free else 1, 3, SIDE, SIDE),),
            path,
            dynamo=True,
            input_names=["image"],
            output_names=["logits"],
            opset_version=opset,
            dynamic_shapes=({0: torch.export.Dim("n")},) if free else None,
            external_data=False,
            verbose=False,
        )
    return path


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("foreign") / "usual.onnx")


def answers(model: onnx.ModelProto, pixels: NDArray[Any] = PIXELS) -> NDArray[Any]:
    (scores,) = open_session(model).run(["scores"], {"pixels": pixels})
    return np.asarray(scores)


def graph(
    shape: Sequence[int | str] = (1, 3, SIDE, SIDE),
    kind: int = TensorProto.FLOAT,
    out: Sequence[int | str] | None = None,
    nodes: Callable[[], list[onnx.NodeProto]] = lambda: [helper.make_node("Relu", ["x"], ["y"])],
    out_kind: int = TensorProto.FLOAT,
    opset: int = 17,
) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes(),
        "made",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", out_kind, out)],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def refused(model: onnx.ModelProto, tmp_path: Path, facts: ForeignFacts = FACTS) -> str:
    path = tmp_path / "foreign.onnx"
    onnx.save(model, path)
    with pytest.raises((ModelError, InputError)) as caught:
        adopt(path, facts)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_what_goes_in_comes_out_of_a_bundle(usual: Path, tmp_path: Path) -> None:
    model, manifest = adopt(usual, FACTS)
    save(model, manifest, "fp32", tmp_path / "model.fp32.onnx")
    write_bundle_manifest(tmp_path, manifest)
    with open_model(tmp_path, "cpu", 1) as backend:
        found = backend.infer(PIXELS)
    np.testing.assert_allclose(found, truth(PIXELS), atol=1e-4)
    assert (manifest.tile, manifest.name, manifest.fill) == (SIDE, "usual", (124.0, 116.0, 104.0))
    assert manifest.gsd_m == (0.25, 1.0)
    foreign = manifest.provenance["foreign"]
    assert foreign["file"] == "usual.onnx"
    assert foreign["sha256"] == file_sha256(usual)
    trained = sum(p.numel() for p in Net(True).parameters())
    assert abs(manifest.complexity["params"] - trained) <= 16  # the exporter folded the batch norm


def test_the_graph_suits_the_quantizer(usual: Path) -> None:
    model, _ = adopt(usual, FACTS)
    names = [n.name for n in model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    assert "Constant" not in {n.op_type for n in model.graph.node}
    assert "ReduceMean" not in {n.op_type for n in model.graph.node}
    assert [o.version for o in model.opset_import] == [18]
    text = str(model)
    assert "doc_string" not in text.replace('doc_string: ""', "")
    assert str(Path.cwd()) not in text
    onnx.checker.check_model(model, full_check=True)


def test_scores_of_a_lower_resolution_are_upsampled(tmp_path: Path) -> None:
    model, _ = adopt(export(tmp_path / "low.onnx", whole=False), FACTS)
    np.testing.assert_allclose(answers(model), truth(PIXELS), atol=1e-4)


def test_a_batch_of_one_is_made_free(tmp_path: Path) -> None:
    made = graph((1, 3, SIDE, SIDE), out=(1, 3, SIDE, SIDE))
    onnx.save(made, tmp_path / "one.onnx")
    model, _ = adopt(tmp_path / "one.onnx", FACTS)
    batch = [v.type.tensor_type.shape.dim[0].dim_param for v in (*model.graph.input, *model.graph.output)]
    assert batch == ["batch", "batch"]
    assert answers(model).shape == PIXELS.shape


def test_a_network_exported_for_a_batch_of_one(tmp_path: Path) -> None:
    path = export(tmp_path / "one.onnx", free=False)
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    np.testing.assert_allclose(answers(adopt(path, FACTS)[0]), truth(PIXELS), atol=1e-4)


def test_other_facts_of_the_pixels(usual: Path) -> None:
    wide = PIXELS.astype(np.uint16) * 40
    facts = replace(FACTS, max_value=10000.0, dtype="uint16", name="own", tile=SIDE, bands=("r", "g", "nir"))
    model, manifest = adopt(usual, facts)
    np.testing.assert_allclose(answers(model, wide), truth(wide, 10000.0), atol=1e-4)
    assert manifest.name == "own"
    assert manifest.bands == ("r", "g", "nir")
    assert manifest.fill == (4850.0, 4560.0, 4060.0)


def test_means_of_values_as_stored_want_a_max_value_of_one(usual: Path) -> None:
    stored = {"mean": tuple(255 * m for m in MEAN), "std": tuple(255 * s for s in STD)}
    with pytest.raises(InputError, match="--max-value 1"):
        replace(FACTS, **stored)
    model, manifest = adopt(usual, replace(FACTS, max_value=1.0, **stored))
    np.testing.assert_allclose(answers(model), truth(PIXELS), atol=1e-4)
    assert manifest.fill == (124.0, 116.0, 104.0)


def test_float_rasters_keep_their_fill() -> None:
    facts = replace(FACTS, dtype="float32", max_value=1.0, mean=(-0.5, 0.25, 0.4))
    assert facts.fill == (-0.5, 0.25, 0.4)


def test_free_height_and_width_need_a_tile(tmp_path: Path) -> None:
    free = graph(("n", 3, "h", "w"))
    assert "--tile 512" in refused(free, tmp_path)
    model, manifest = adopt(tmp_path / "foreign.onnx", replace(FACTS, tile=48))
    assert manifest.tile == 48
    assert answers(model, np.zeros((2, 3, 48, 48), np.uint8)).shape == (2, 3, 48, 48)


def test_names_that_clash_and_nodes_without_a_name(tmp_path: Path) -> None:
    """The foreign graph calls an inner tensor "pixels" and its input "scores"; two nodes share a name."""
    weight = numpy_helper.from_array(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), "pixels.gain")
    nodes = [
        helper.make_node("Conv", ["scores", "pixels.gain"], ["pixels"], name="pixels.cast"),
        helper.make_node("Relu", ["pixels"], ["unused"], name="twice"),
        helper.make_node("Relu", ["pixels"], ["pixels_"], name="twice"),
        helper.make_node("Neg", ["pixels_"], ["pixels/gain"]),
        helper.make_node("Sub", ["pixels_", "pixels/gain"], ["y"]),
        helper.make_node("Neg", ["y"], ["second"]),
    ]
    made = graph(nodes=lambda: nodes)
    made.graph.input[0].name = "scores"
    made.graph.initializer.append(weight)
    made.graph.output.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, None))
    made.doc_string = made.graph.node[0].doc_string = "/home/somebody"
    onnx.save(made, tmp_path / "clash.onnx")
    model, _ = adopt(tmp_path / "clash.onnx", replace(FACTS, output="y"))
    np.testing.assert_allclose(answers(model), 2 * normalised().clip(0), atol=1e-4)
    assert [v.name for v in model.graph.output] == ["scores"]
    onnx.checker.check_model(model, full_check=True)
    names = [n.name for n in model.graph.node]
    assert len(set(names)) == len(names) == 7  # what nobody reads is gone
    assert b"somebody" not in model.SerializeToString()


def test_weights_among_the_inputs_and_constants_as_nodes(tmp_path: Path) -> None:
    """Both are how old exporters write; opset 11 is converted upwards."""
    factor = numpy_helper.from_array(np.full((1, 3, 1, 1), 2, np.float32), "factor")
    nodes = [
        helper.make_node("Constant", [], ["one"], value_float=1.0),
        helper.make_node("Mul", ["x", "factor"], ["product"]),
        helper.make_node("Add", ["product", "one"], ["y"]),
    ]
    made = graph(nodes=lambda: nodes, opset=12)
    made.ir_version = 3
    made.graph.initializer.append(factor)
    made.graph.input.append(helper.make_tensor_value_info("factor", TensorProto.FLOAT, (1, 3, 1, 1)))
    onnx.save(made, tmp_path / "old.onnx")
    model, manifest = adopt(tmp_path / "old.onnx", FACTS)
    assert [v.name for v in model.graph.input] == ["pixels"]
    assert manifest.complexity["params"] == 4
    np.testing.assert_allclose(answers(model), 2 * normalised() + 1, atol=1e-4)


@pytest.mark.parametrize("opset", [13, 17, 20])
def test_other_opsets_become_18(tmp_path: Path, opset: int) -> None:
    onnx.save(graph(opset=opset), tmp_path / "other.onnx")
    model, manifest = adopt(tmp_path / "other.onnx", FACTS)
    assert [o.version for o in model.opset_import] == [18]
    assert manifest.provenance["foreign"]["opset"] == opset


def test_an_opset_that_cannot_be_converted(tmp_path: Path) -> None:
    gelu = graph(nodes=lambda: [helper.make_node("Gelu", ["x"], ["y"])], opset=20)
    said = refused(gelu, tmp_path)
    assert "unsupported opset 20" in said
    assert "opset_version=18" in said


def test_a_conversion_that_changes_the_answers(usual: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: onnx.ModelProto) -> None:
        last = model.graph.node[-1]
        last.CopyFrom(helper.make_node("Neg", [last.output[0] + ".wrong"], last.output, name="wrong"))
        model.graph.node[-2].output[0] = last.input[0]

    monkeypatch.setattr("rsedge_export.graph.foreign.pool_spatial_means", wrong)
    with pytest.raises(ModelError, match="gives other answers in opset 18"):
        adopt(usual, FACTS)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (graph((1, SIDE, SIDE, 3)), "inputs-as-nchw"),
        (graph((1, 3, SIDE)), "four axes"),
        (graph((1, 4, SIDE, SIDE)), "--band-names"),
        (graph((4, 3, SIDE, SIDE)), "fixed at 4"),
        (graph((1, 3, SIDE, 2 * SIDE)), "height = width"),
        (graph(kind=TensorProto.FLOAT16, out_kind=TensorProto.FLOAT16), "float16"),
        (
            graph(
                nodes=lambda: [helper.make_node("ArgMax", ["x"], ["y"], axis=1)], out_kind=TensorProto.INT64
            ),
            "classes rather than scores",
        ),
        (
            graph(nodes=lambda: [helper.make_node("ReduceMax", ["x"], ["y"], axes=[1], keepdims=0)]),
            "before any argmax",
        ),
        (
            graph(nodes=lambda: [helper.make_node("ReduceMax", ["x"], ["y"], axes=[1])]),
            "one channel for each",
        ),
        (graph(nodes=lambda: [helper.make_node("Concat", ["x", "x"], ["y"], axis=1)]), "6 scores per pixel"),
        (graph(nodes=lambda: [helper.make_node("Concat", ["x", "x"], ["y"], axis=2)]), "tile's resolution"),
        (graph(nodes=lambda: [helper.make_node("Log", ["x"], ["y"])]), "NaN"),
        (
            graph(nodes=lambda: [helper.make_node("FusedThing", ["x"], ["y"], domain="com.microsoft")]),
            "com.microsoft.FusedThing",
        ),
        (graph(nodes=lambda: [helper.make_node("Nothing", ["x"], ["y"])]), "does not run"),
        (
            graph(
                nodes=lambda: [
                    helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
                    helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
                ]
            ),
            "already quantized",
        ),
        (
            graph(nodes=lambda: [helper.make_node("Loop", ["", "", "x"], ["y"], body=graph().graph)]),
            "control flow",
        ),
    ],
)
def test_what_a_file_may_not_be(model: onnx.ModelProto, said: str, tmp_path: Path) -> None:
    assert said in refused(model, tmp_path)


def test_a_tile_that_the_file_contradicts(tmp_path: Path) -> None:
    assert "Leave out --tile" in refused(graph(), tmp_path, replace(FACTS, tile=64))


def test_operators_by_their_other_name_and_functions_of_the_file(tmp_path: Path) -> None:
    made = graph(
        nodes=lambda: [
            helper.make_node("Relu", ["x"], ["z"], domain="ai.onnx"),
            helper.make_node("Twice", ["z"], ["y"], domain="own"),
        ]
    )
    add = helper.make_node("Add", ["a", "a"], ["b"])
    made.functions.append(
        helper.make_function("own", "Twice", ["a"], ["b"], [add], [helper.make_opsetid("", 17)])
    )
    made.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(made, tmp_path / "function.onnx")
    model, _ = adopt(tmp_path / "function.onnx", FACTS)
    np.testing.assert_allclose(answers(model), 2 * normalised().clip(0), atol=1e-4)


def test_several_inputs(tmp_path: Path) -> None:
    two = graph(nodes=lambda: [helper.make_node("Add", ["x", "z"], ["y"])])
    two.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, (1, 3, SIDE, SIDE)))
    assert "2 inputs (x, z)" in refused(two, tmp_path)


@pytest.mark.parametrize("shape", [(1, 3, SIDE, SIDE), (1, 3, SIDE, -1)])
def test_a_batch_inside_the_graph_cannot_be_freed(shape: tuple[int, ...], tmp_path: Path) -> None:
    made = graph(nodes=lambda: [helper.make_node("Reshape", ["x", "shape"], ["y"])])
    made.graph.initializer.append(numpy_helper.from_array(np.array(shape), "shape"))
    assert "torch.export.Dim('batch')" in refused(made, tmp_path)


def test_a_batch_whose_tiles_meet(tmp_path: Path) -> None:
    """The mean goes over the batch: two tiles at once answer otherwise than one after the other."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0, 1, 2, 3]),
        helper.make_node("Sub", ["x", "mean"], ["sub"]),
        helper.make_node("Mul", ["sub", "mean"], ["y"]),
    ]
    assert "for two tiles at once" in refused(graph(nodes=lambda: nodes), tmp_path)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        adopt(tmp_path / "missing.onnx", FACTS)
    for text in (b"", b"no protobuf at all"):
        (tmp_path / "text.onnx").write_bytes(text)
        with pytest.raises(ModelError, match="damaged"):
            adopt(tmp_path / "text.onnx", FACTS)


def test_weights_in_another_file(usual: Path, tmp_path: Path) -> None:
    whole = onnx.load(usual)
    path = tmp_path / "model.onnx"
    onnx.save(whole, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    np.testing.assert_allclose(answers(adopt(path, FACTS)[0]), truth(PIXELS), atol=1e-4)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"Copy both|cannot be read"):
        adopt(path, FACTS)


def test_our_own_file_needs_no_facts(usual: Path, tmp_path: Path) -> None:
    model, manifest = adopt(usual, FACTS)
    save(model, manifest, "fp32", tmp_path / "own.onnx")
    with pytest.raises(ModelError, match="Use it directly"):
        adopt(tmp_path / "own.onnx", FACTS)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dtype": "int8"}, "uint8, uint16, float32"),
        ({"tile": 0}, "at least 1 pixel"),
        ({"max_value": 0.0}, "positive number"),
        ({"max_value": float("nan")}, "positive number"),
        ({"mean": (0.5,)}, "1 means and 3 standard deviations for 3 bands"),
        ({"std": (0.2, 0.0, 0.2)}, "not positive"),
        ({"mean": (-0.1, 0.5, 0.5)}, "not uint8 values"),
        ({"mean": (float("nan"), 0.5, 0.5)}, "not uint8 values"),
        ({"classes": CLASSES[:1]}, "1 classes"),
        ({"gsd_m": (1.0, 0.25)}, "finest"),
    ],
)
def test_facts_check_themselves(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        replace(FACTS, **changes)


def test_classes_come_from_a_class_table(usual: Path, tmp_path: Path) -> None:
    table = tmp_path / "classes.toml"
    table.write_text('ignore = ["#000000"]\n[classes]\na = "#FF0000"\nb = "#00FF00"\nc = "#0000FF"\n')
    _, manifest = adopt(usual, replace(FACTS, classes=ClassTable.read(table).classes))
    assert [c.name for c in manifest.classes] == ["a", "b", "c"]


@pytest.mark.parametrize("tile", [None, 64])
@pytest.mark.parametrize(
    "shape",
    [
        ("b", "h", "w", 3),
        ("b", "h", "w", 4),  # of other bands than were told of
        (1, SIDE, SIDE, 4),
        ("b", "h", 64, 3),
    ],
)
@pytest.mark.parametrize("back", [True, False])
def test_bands_that_come_last_are_no_tile(
    shape: tuple[int | str, ...], tile: int | None, back: bool, tmp_path: Path
) -> None:
    """Whatever sizes are free, and wherever the scores have their classes."""
    first = helper.make_node("Transpose", ["x"], ["t" if back else "y"], perm=[0, 3, 1, 2])
    last = helper.make_node("Transpose", ["t"], ["y"], perm=[0, 2, 3, 1])
    model = graph(shape, nodes=lambda: [first, last] if back else [first])
    said = refused(model, tmp_path, replace(FACTS, tile=tile))
    assert "bands come last (NHWC)" in said
    assert "--inputs-as-nchw" in said
    assert "Leave out --tile" not in said


def test_classes_that_come_last_of_free_sizes_are_named(tmp_path: Path) -> None:
    last = helper.make_node("Transpose", ["x"], ["y"], perm=[0, 2, 3, 1])
    model = graph(("b", 3, "h", "w"), out=("b", "h", "w", 3), nodes=lambda: [last])
    assert "--outputs-as-nchw" in refused(model, tmp_path, replace(FACTS, tile=64))


def test_a_tiny_tile_of_a_file_wants_to_be_confirmed(tmp_path: Path) -> None:
    said = refused(graph(("b", 3, 16, 16)), tmp_path)
    assert "--tile 16" in said
    path = tmp_path / "tiny.onnx"
    onnx.save(graph(("b", 3, 16, 16)), path)
    assert adopt(path, replace(FACTS, tile=16))[1].tile == 16
