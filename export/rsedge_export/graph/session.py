"""ONNX Runtime sessions of graphs in memory, for measurements during export."""

from __future__ import annotations

from typing import Any

import onnx


def open_session(model: onnx.ModelProto) -> Any:
    """Return a session on the CPU provider."""
    from rsedge.backends.ort_module import import_onnxruntime  # noqa: PLC0415
    from rsedge.machine import usable_cores  # noqa: PLC0415 - `rsedge export --help` needs none of it

    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
