"""OpenVINO on a CPU: the one that makes INT8 faster than FP32 there."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.backends.base import Backend, TensorSpec
from rsedge.bundle import Bundle
from rsedge.conditions import usable_cores
from rsedge.errors import BackendError, ModelError


class OpenVinoBackend(Backend):
    """A bundle's ONNX compiled by OpenVINO for the CPU, in the arithmetic of the file.

    The graph is compiled for the number of tiles in a batch: for one at the start, for any other when
    it first comes. Raises BackendError where OpenVINO is missing, ModelError where it refuses the file.
    """

    name = "openvino"

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        super().__init__(bundle)
        self._openvino = _import_openvino()
        self.version = str(self._openvino.__version__).partition("-")[0]  # without the build's number
        self.threads = threads or usable_cores()
        self.provider = f"OpenVINO CPU {'.'.join(self.version.split('.')[:2])}"
        self._core = self._openvino.Core()
        model = self._read()
        if len(model.inputs) != 1 or len(model.outputs) < 1:
            raise ModelError(f"{bundle.artifact} has {len(model.inputs)} inputs; a model has one")
        self._input_spec, self._output_spec = _spec(model.inputs[0]), _spec(model.outputs[0])
        self._requests: dict[int, Any] = {1: self._compile(model, 1)}

    @property
    def input_spec(self) -> TensorSpec:
        """The graph's input."""
        return self._input_spec

    @property
    def output_spec(self) -> TensorSpec:
        """The graph's output."""
        return self._output_spec

    def _run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        count = len(batch)
        if count not in self._requests:
            self._requests[count] = self._compile(self._read(), count)
        request = self._requests[count]
        try:
            request.infer({0: np.ascontiguousarray(batch)}, share_inputs=True)
        except RuntimeError as error:
            raise BackendError(f"the model failed on {self.provider}: {_last_line(error)}") from error
        # A copy: the next run overwrites the request's own memory.
        return np.array(request.get_output_tensor(0).data, np.float32)

    def close(self) -> None:
        """Free the compiled graphs."""
        self._requests.clear()
        del self._core

    def _read(self) -> Any:
        try:
            return self._core.read_model(os.fspath(self.bundle.artifact))
        except RuntimeError as error:
            raise self._refusal(error) from error

    def _compile(self, model: Any, batch: int) -> Any:
        """An inference request for ``batch`` tiles at a time."""
        shape = model.inputs[0].partial_shape
        shape[0] = batch
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads,
            # Else a CPU with AMX computes an fp32 file in bfloat16, and says nothing.
            "INFERENCE_PRECISION_HINT": "f32",
            # Pinned workers would share their cores with the threads that decode and encode, though others idle.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            model.reshape(shape)
            return self._core.compile_model(model, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: RuntimeError) -> ModelError:
        return ModelError(
            f"{self.bundle.artifact} does not load in OpenVINO {self.version}: {_last_line(error)}"
        )


def _import_openvino() -> Any:
    try:
        import openvino  # noqa: PLC0415 - an extra, and slow to load
    except ImportError as error:
        raise BackendError('openvino is not installed; run `pip install "rsedge[openvino]"`') from error
    return openvino


def _spec(port: Any) -> TensorSpec:
    shape = tuple(side.get_length() if side.is_static else None for side in port.partial_shape)
    return TensorSpec(shape, np.dtype(port.element_type.to_dtype()).name)


def _last_line(error: Exception) -> str:
    """What OpenVINO complains of; the lines before it name places in its sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
