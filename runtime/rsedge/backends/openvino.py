"""OpenVINO on a CPU: the backend on which INT8 is faster than FP32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.backends.base import Backend, TensorSpec
from rsedge.backends.in_order import in_order
from rsedge.errors import BackendError, ModelError
from rsedge.machine import usable_cores
from rsedge.model.bundle import Bundle


class OpenVinoBackend(Backend):
    """A bundle's ONNX compiled by OpenVINO for the CPU, at the file's precision.

    The graph is compiled per batch size: for one tile at the start, for other sizes on first use. ``streams``
    requests are computed at once, on ``threads`` threads in all, while the next is loaded.

    Raises BackendError if OpenVINO is missing, ModelError if it rejects the file.
    """

    name = "openvino"
    kept = 3

    def __init__(self, bundle: Bundle, threads: int | None = None, streams: int = 1) -> None:
        super().__init__(bundle)
        self.streams, self.in_flight = streams, streams + 1
        self._openvino = _import_openvino()
        self.version = str(self._openvino.__version__).partition("-")[0]  # without the build number
        self.threads = threads or usable_cores()
        self.provider = f"OpenVINO CPU {'.'.join(self.version.split('.')[:2])}"
        self._core = self._openvino.Core()
        model = self._read()
        if len(model.inputs) != 1 or len(model.outputs) < 1:
            raise ModelError(f"{bundle.artifact} has {len(model.inputs)} inputs, but must have one")
        self._input_spec, self._output_spec = _spec(model.inputs[0]), _spec(model.outputs[0])
        self._turns: dict[int, _Turn] = {1: self._compile(model, 1)}

    @property
    def input_spec(self) -> TensorSpec:
        """The graph's input."""
        return self._input_spec

    @property
    def output_spec(self) -> TensorSpec:
        """The graph's output."""
        return self._output_spec

    def _run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        request = self._loaded(batch)
        with self._failing():
            request.infer()
        # A copy, because a later run overwrites the request's own memory.
        with self.copying("copy_out"):
            return np.array(request.get_output_tensor(0).data, np.float32)

    def _answers(self, batches: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float32]]:
        """See ``Backend._answers``. Loads the next batch while others are computed; answers are not copied."""
        return in_order(batches, self._begin, self._awaited, _settle, self.in_flight)

    def _begin(self, batch: NDArray[Any]) -> Any:
        request = self._loaded(batch)
        with self._failing():
            request.start_async()
        return request

    def close(self) -> None:
        """Free the compiled graphs."""
        self._turns.clear()
        del self._core

    def _loaded(self, batch: NDArray[Any]) -> Any:
        """Return the next request for as many tiles, loaded with a copy of the pixels, so callers may reuse theirs."""
        count = len(batch)
        if count not in self._turns:
            self._turns[count] = self._compile(self._read(), count)
        request = self._turns[count].next()
        pixels = request.get_input_tensor(0).data
        if (batch.shape, batch.dtype) != (pixels.shape, pixels.dtype):
            raise BackendError(
                f"the model takes {pixels.dtype} of shape {pixels.shape}, not {batch.dtype} of shape {batch.shape}"
            )
        with self.copying("copy_in"):
            np.copyto(pixels, batch)
        return request

    def _awaited(self, request: Any) -> NDArray[np.float32]:
        with self._failing():
            request.wait()
        scores: NDArray[np.float32] = request.get_output_tensor(0).data
        return scores

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise BackendError(f"the model failed on {self.provider}: {_last_line(error)}") from error

    def _read(self) -> Any:
        model = self.bundle.artifact_bytes()
        try:
            return self._core.read_model(BytesIO(model))
        except RuntimeError as error:
            raise self._refusal(error) from error

    def _compile(self, model: Any, batch: int) -> _Turn:
        """Compile the model into inference requests for ``batch`` tiles."""
        shape = model.inputs[0].partial_shape
        shape[0] = batch
        settings = {
            "PERFORMANCE_HINT": "LATENCY" if self.streams == 1 else "THROUGHPUT",
            "NUM_STREAMS": self.streams,
            "INFERENCE_NUM_THREADS": self.threads,
            # Otherwise a CPU with AMX silently computes an fp32 file in bfloat16.
            "INFERENCE_PRECISION_HINT": "f32",
            # Pinned workers would share their cores with the decoding and encoding threads while others idle.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            model.reshape(shape)
            compiled = self._core.compile_model(model, "CPU", settings)
            # For the answers that stay valid, of which one is being computed, and the others on the way.
            count = self.kept + self.in_flight - 1
            return _Turn([compiled.create_infer_request() for _ in range(count)])
        except RuntimeError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: RuntimeError) -> ModelError:
        return ModelError(
            f"{self.bundle.artifact} does not load in OpenVINO {self.version}: {_last_line(error)}"
        )


class _Turn:
    """Requests of one compiled graph, each with its own memory, used in turn."""

    def __init__(self, requests: list[Any]) -> None:
        self._requests, self._at = requests, 0

    def next(self) -> Any:
        """Return the least recently used request."""
        self._at = (self._at + 1) % len(self._requests)
        return self._requests[self._at]


def _settle(request: Any) -> None:
    with suppress(RuntimeError):
        request.wait()


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
    """Return the last line, which is OpenVINO's complaint; the lines before name places in its sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
