"""What tests with NVIDIA's compiler share: whether it is here, and a graph small enough to compile in a second."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rsedge.backends.rtx import INSTALL, is_installed
from toys import TILE

needs_rtx = pytest.mark.skipif(not is_installed(), reason=f"NVIDIA's compiler is not here: {INSTALL}")


def small_graph(kind: type[np.floating], tile: int = TILE) -> onnx.ModelProto:
    """Return pixels, a 3x3 convolution to 16 channels, ReLU, and a 1x1 convolution to three scores."""
    rng, to = np.random.default_rng(0), helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    weights = {
        "first": rng.normal(0, 0.1, (16, 3, 3, 3)).astype(kind),
        "second": rng.normal(0, 0.1, (3, 16, 1, 1)).astype(kind),
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["real"], name="cast", to=to),
        helper.make_node("Conv", ["real", "first"], ["wide"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["wide"], ["mean"], name="relu"),  # a name that rsedge's own output once had
        helper.make_node("Conv", ["mean", "second"], ["narrow"], name="conv2"),
        helper.make_node("Cast", ["narrow"], ["scores"], name="out", to=TensorProto.FLOAT),
    ]
    shape = ["batch", 3, tile, tile]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
