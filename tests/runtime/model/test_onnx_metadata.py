from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rsedge.errors import ModelError
from rsedge.model.onnx_metadata import onnx_metadata
from toys import pointwise_graph, pointwise_manifest


def external(name: str = "w", listed: bool = True) -> onnx.TensorProto:
    """A tensor with weights in a file beside the graph."""
    tensor = numpy_helper.from_array(np.zeros((3, 3), np.float32), name)
    tensor.ClearField("raw_data")
    if listed:
        tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    return tensor


def branch(tensor: onnx.TensorProto) -> onnx.GraphProto:
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 3])
    return helper.make_graph([helper.make_node("Constant", [], ["y"], value=tensor)], "branch", [], [out])


def as_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(external())


def as_entry_alone(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(external(listed=False))


def as_constant(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=external()))


def in_a_list(model: onnx.ModelProto) -> None:
    node = model.graph.node.add(op_type="Custom", output=["c"])
    node.attribute.add(name="all", type=onnx.AttributeProto.TENSORS).tensors.append(external())


def in_a_branch(model: onnx.ModelProto) -> None:
    both = {
        "then_branch": branch(external()),
        "else_branch": branch(numpy_helper.from_array(np.zeros((3, 3)))),
    }
    model.graph.node.append(helper.make_node("If", ["cond"], ["c"], **both))


def sparse(model: onnx.ModelProto) -> None:
    made = onnx.SparseTensorProto()
    made.values.CopyFrom(external())
    model.graph.sparse_initializer.append(made)


def in_a_function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Constant", [], ["y"], value=external())
    model.functions.append(helper.make_function("d", "f", [], ["y"], [node], [helper.make_opsetid("", 18)]))


def for_training(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.CopyFrom(branch(external()))


def wrapped_number(model: onnx.ModelProto) -> bytes:
    """The enum is 2**32 + 1, of which parsers take the lower half."""
    tensor = numpy_helper.from_array(np.zeros((3, 3), np.float32), "w").SerializeToString()
    tensor += b"\x70\x81\x80\x80\x80\x10"
    graph = model.graph.SerializeToString() + b"\x2a" + bytes([len(tensor)]) + tensor
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    size = bytes([len(graph) & 127 | 128, len(graph) >> 7])
    return rest.SerializeToString() + b"\x3a" + size + graph


WAYS = [
    as_initializer, as_entry_alone, as_constant, in_a_list, in_a_branch, sparse, in_a_function, for_training,
    wrapped_number,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_weights_in_other_files_are_refused(way: Callable[[onnx.ModelProto], bytes | None]) -> None:
    model = pointwise_graph(pointwise_manifest())
    data = way(model)
    with pytest.raises(ModelError, match=r"m\.onnx keeps weights in other files"):
        onnx_metadata(data or model.SerializeToString(), "m.onnx")


def test_names_that_sound_like_it_are_none() -> None:
    model = pointwise_graph(pointwise_manifest())
    model.graph.node[1].name = "location"
    model.graph.node.append(
        helper.make_node("Constant", [], ["location"], value=numpy_helper.from_array(np.zeros(3), "location"))
    )
    assert "rsedge" in onnx_metadata(model.SerializeToString(), "m")


@pytest.mark.parametrize(
    "data",
    [b"\x08\x01" * 10_000_000, b"\x72\x04\x0a\x02ab" * 1_600_000, b"\x3a\x80\xb5\x18" + b"\x08\x01" * 200_000,
     b"\x80\x80\x80\x80\x80\x01\x01"],
    ids=["fields", "metadata", "graph", "number"],
)  # fmt: skip
def test_more_than_any_model_holds_is_refused_soon(data: bytes) -> None:
    begin = time.process_time()
    with pytest.raises(ModelError, match="not an ONNX file"):
        onnx_metadata(data, "m.onnx")
    assert time.process_time() - begin < 2
