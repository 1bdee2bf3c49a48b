"""ONNX Runtime, on CPU or CUDA."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.backends.base import Backend, TensorSpec
from rsedge.bundle import Bundle
from rsedge.conditions import usable_cores
from rsedge.errors import BackendError, ModelError

# It makes float biases integers, and of fp16 scales theirs underflows (88 % of the pixels right instead of 99.6).
INEXACT = ["WeightBiasQuantization"]
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class OrtBackend(Backend):
    """A bundle's ONNX in an ONNX Runtime session.

    ``device`` "auto" takes CUDA where this onnxruntime offers and starts it, else the CPU; "cuda" or
    "cpu" get exactly that or a BackendError.
    """

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, device: str = "auto", threads: int | None = None) -> None:
        super().__init__(bundle)
        ort = _import_onnxruntime()
        offered = ort.get_available_providers()
        if device == "cuda" and CUDA not in offered:
            raise BackendError(
                f"device cuda was asked for, this onnxruntime offers {', '.join(offered)}; install "
                '`pip install "rsedge[gpu]"` in place of [cpu] (x86-64; on a Jetson NVIDIA\'s own onnxruntime-gpu '
                "wheel), or use --device cpu"
            )
        use_cuda = device != "cpu" and CUDA in offered
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.version, self.threads = str(ort.__version__), threads or usable_cores()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        # Spinning workers would take the core that decodes the next rows (field: half the speed).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(
                os.fspath(bundle.artifact),
                options,
                providers=[CUDA, CPU] if use_cuda else [CPU],
                disabled_optimizers=INEXACT,
            )
        except Exception as error:  # onnxruntime raises a dozen unrelated types here
            raise ModelError(
                f"{bundle.artifact} does not load in onnxruntime {ort.__version__}: {_first_line(error)}"
            ) from error
        self.provider = self._session.get_providers()[0]
        if device == "cuda" and self.provider != CUDA:
            raise BackendError(
                f"device cuda was asked for, but onnxruntime fell back to {self.provider}; check the driver "
                "and CUDA libraries with `nvidia-smi`, or use --device cpu"
            )
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) < 1:
            raise ModelError(f"{bundle.artifact} has {len(inputs)} inputs; a model has one")
        self._input, self._output = inputs[0], outputs[0]

    @property
    def input_spec(self) -> TensorSpec:
        """The graph's input."""
        return _spec(self._input)

    @property
    def output_spec(self) -> TensorSpec:
        """The graph's output."""
        return _spec(self._output)

    def _run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        try:
            (scores,) = self._session.run([self._output.name], {self._input.name: batch})
        except Exception as error:  # as above
            raise BackendError(f"the model failed on {self.provider}: {_first_line(error)}") from error
        return np.asarray(scores, np.float32)

    def close(self) -> None:
        """Free the session."""
        del self._session


def offered_providers() -> tuple[str, ...]:
    """What this onnxruntime can run on. Raises BackendError where there is none."""
    return tuple(_import_onnxruntime().get_available_providers())


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime  # noqa: PLC0415 - an extra, and slow to load
    except ImportError as error:
        raise BackendError(
            'onnxruntime is not installed; run `pip install "rsedge[cpu]"` (or `"rsedge[gpu]"` for CUDA)'
        ) from error
    return onnxruntime


def _spec(node: Any) -> TensorSpec:
    shape = tuple(side if isinstance(side, int) else None for side in node.shape)
    inner = str(node.type).removeprefix("tensor(").removesuffix(")")
    return TensorSpec(shape, {"float": "float32", "double": "float64"}.get(inner, inner))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
