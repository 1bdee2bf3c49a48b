"""Graphs that nobody's exporter writes are refused in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rsedge.errors import InputError, ModelError
from rsedge.model.manifest import ClassInfo
from rsedge_export.graph.foreign import ForeignFacts, adopt

FACTS = ForeignFacts(tuple(ClassInfo(n, (i, i, i)) for i, n in enumerate("abc")), (0.5,) * 3, (0.5,) * 3)
SAME = helper.make_node("Identity", ["x"], ["y"])


def tensor(kind: int, shape: Sequence[int], data: bytes) -> onnx.TensorProto:
    return onnx.TensorProto(name="w", data_type=kind, dims=shape, raw_data=data)


def constant(outputs: Sequence[str] = ("c",), **attributes: object) -> onnx.NodeProto:
    return helper.make_node("Constant", [], outputs, **attributes)


def graph(
    *nodes: onnx.NodeProto, weights: Sequence[onnx.TensorProto] = (), side: int = 64
) -> onnx.ModelProto:
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, side, side))
    scores = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    made = helper.make_graph(nodes, "g", [image], [scores], list(weights))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def endless() -> onnx.ModelProto:
    model = graph(helper.make_node("F", ["x"], ["y"], domain="own"))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    call = helper.make_node("F", ["x"], ["o"], domain="own")
    model.functions.append(helper.make_function("own", "F", ["x"], ["o"], [call], imports))
    model.opset_import.append(imports[1])
    return model


ZERO = numpy_helper.from_array(np.array([0]), "s")
GRAPHS = {
    "a constant of nothing": graph(constant(), SAME),
    "a constant for nobody": graph(constant((), value_float=1.0), SAME),
    "a constant of two": graph(constant(value_float=1.0, value_int=2), SAME),
    "too few bytes": graph(constant(value=tensor(TensorProto.FLOAT, (10**6, 10**6), b"x")), SAME),
    "no such type": graph(SAME, weights=[tensor(777, (4,), bytes(16))]),
    "no answer": graph(helper.make_node("Slice", ["x", "s", "s"], ["y"]), weights=[ZERO]),
    "a function of itself": endless(),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_that_is_none_is_a_model_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / "theirs.onnx"
    path.write_bytes(GRAPHS[name].SerializeToString())
    with pytest.raises(ModelError, match="is not a valid ONNX graph"):
        adopt(path, FACTS)


@pytest.mark.parametrize("side", [8193, 2**31])
def test_a_tile_beyond_reason_is_not_tried(tmp_path: Path, side: int) -> None:
    path = tmp_path / "theirs.onnx"
    path.write_bytes(graph(SAME, side=side).SerializeToString())
    with pytest.raises(InputError, match="exceeds 8192 px"):
        adopt(path, FACTS)
