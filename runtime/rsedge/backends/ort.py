"""ONNX Runtime on the CPU, on CUDA or with its TensorRT provider."""

from __future__ import annotations

import os
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Barrier
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.backends.base import Backend, TensorSpec
from rsedge.backends.in_order import in_order
from rsedge.backends.ort_module import import_onnxruntime
from rsedge.errors import BackendError, ModelError
from rsedge.files import user_cache
from rsedge.machine import usable_cores
from rsedge.model.bundle import Bundle

# It turns float biases into integers, and fp16 scales make these underflow (88 instead of 99.6 % right).
INEXACT = ["WeightBiasQuantization"]
CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
BY_DEVICE = {"cuda": CUDA, "ort-tensorrt": TENSORRT}  # devices with a provider of their own
CUDA_BATCH = 8  # tiles that fill a GPU
KNOWS_TF32 = (1, 18)  # the first onnxruntime with the setting
OUT_OF_MEMORY = ("out of memory", "failed to allocate memory", "cuda failure 2:", "bfcarena")  # in lower case


class OrtBackend(Backend):
    """A bundle's ONNX in an ONNX Runtime session.

    ``device`` "auto" uses CUDA if this onnxruntime offers and starts it, else the CPU; "cuda", "cpu" and
    "ort-tensorrt" (ONNX Runtime's TensorRT provider) use exactly that or raise BackendError.

    CUDA runs copy pixels and scores themselves, so ``copy_s`` stays 0 and copies count as the model's time. If a
    batch does not fit the device's memory, it is halved, down to one tile, and ``batch`` keeps the size that fitted.
    This was tested with a session that simulates a full GPU, not on a real one.

    On the CPU ``streams`` calls of the session run at once, on ``threads`` threads in all; on GPUs there is one.
    """

    name = "onnxruntime"
    kept = 3

    def __init__(
        self, bundle: Bundle, device: str = "auto", threads: int | None = None, streams: int = 1
    ) -> None:
        super().__init__(bundle)
        ort = import_onnxruntime()
        _check_offered(device, tuple(ort.get_available_providers()))
        self.version, self.threads = str(ort.__version__), threads or usable_cores()
        model = bundle.artifact_bytes()
        try:
            self._session = ort.InferenceSession(
                model,
                _session_options(ort, self.threads, streams),
                providers=_providers(ort, device, bundle),
                disabled_optimizers=INEXACT,
            )
        except Exception as error:  # onnxruntime raises a dozen unrelated types
            raise ModelError(
                f"{bundle.artifact} does not load in onnxruntime {ort.__version__}: {_first_line(error)}"
            ) from error
        # Fallback would keep the model's bytes and, when a run fails, reload them on another device than requested.
        self._session.disable_fallback()
        self._session._model_bytes = None
        self.provider = self._session.get_providers()[0]
        if device in BY_DEVICE and self.provider != BY_DEVICE[device]:
            raise BackendError(
                f"device {device} was asked for, but onnxruntime fell back to {self.provider}; check the driver "
                "and CUDA libraries with `nvidia-smi`, or use --device cpu"
            )
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) < 1:
            raise ModelError(f"{bundle.artifact} has {len(inputs)} inputs, but must have one")
        self._input, self._output = inputs[0], outputs[0]
        self.batch = CUDA_BATCH if self.provider == CUDA else 1
        # TensorRT would build another engine, which takes minutes, for each new number of tiles.
        self._most = 1 if self.provider == TENSORRT else sys.maxsize  # tiles in one call of the session
        self._pool: ThreadPoolExecutor | None = None
        if streams > 1 and self.provider == CPU:
            self.streams, self.in_flight = (
                streams,
                streams + 1,
            )  # the next waits for the first thread to be free
            self._pool = ThreadPoolExecutor(streams, "rsedge-stream")
        self._turn = _Turn(self.kept + self.in_flight - 1, bundle)

    @property
    def input_spec(self) -> TensorSpec:
        """The graph's input."""
        return _spec(self._input)

    @property
    def output_spec(self) -> TensorSpec:
        """The graph's output."""
        return _spec(self._output)

    def _run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        m = self.bundle.manifest
        scores = np.empty((len(batch), len(m.classes), m.tile, m.tile), np.float32)
        self._answer(batch, scores)
        return scores

    def _answers(self, batches: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float32]]:
        """See ``Backend._answers``. Writes scores into the same arrays in turn, so that tiles allocate nothing."""
        if self._pool is not None:
            yield from in_order(batches, self._submit, _result, _end, self.in_flight)
            return
        for batch in batches:
            scores = self._turn.next(len(batch))
            self._answer(batch, scores)
            yield scores

    def _warm_streams(self, tile: NDArray[Any]) -> None:
        """See ``Backend._warm_streams``. All begin together, because the memory bound counts on all having run."""
        assert self._pool is not None
        all_there = Barrier(self.streams)

        def run(_: int) -> None:
            all_there.wait()
            self._run(tile)

        deque(self._pool.map(run, range(self.streams)), maxlen=0)

    def _submit(self, batch: NDArray[Any]) -> Future[NDArray[np.float32]]:
        """Begin a batch in another thread, with a copy of the pixels, so callers may reuse theirs."""
        assert self._pool is not None
        scores = self._turn.next(len(batch))
        with self.copying("copy_in"):
            pixels = np.array(batch)

        def answer() -> NDArray[np.float32]:
            self._answer(pixels, scores)
            return scores

        return self._pool.submit(answer)

    def _answer(self, batch: NDArray[Any], scores: NDArray[np.float32]) -> None:
        """Write the scores of ``batch``, in as few calls as the device's memory allows."""
        at = 0
        while at < len(batch):
            part = slice(at, min(at + self._most, len(batch)))
            try:
                self._call(np.ascontiguousarray(batch[part]), scores[part])
            except Exception as error:  # as above
                self._shrink(part.stop - at, error)
            else:
                at = part.stop

    def _call(self, pixels: NDArray[Any], scores: NDArray[np.float32]) -> None:
        binding = self._session.io_binding()
        binding.bind_cpu_input(self._input.name, pixels)
        binding.bind_output(self._output.name, "cpu", 0, np.float32, scores.shape, scores.ctypes.data)
        self._session.run_with_iobinding(binding)

    def _shrink(self, tiles: int, error: Exception) -> None:
        """Halve the number of tiles per call after an out-of-memory error. Raises BackendError for other errors."""
        said = str(error).lower()
        if not any(sign in said for sign in OUT_OF_MEMORY):
            raise BackendError(f"the model failed on {self.provider}: {_first_line(error)}") from error
        if tiles == 1:
            m = self.bundle.manifest
            raise BackendError(
                f"one tile of {m.tile} px does not fit the memory of {self.provider} ({_first_line(error)}); stop "
                "other users (see `nvidia-smi`), use --device cpu, or export the model with a smaller tile"
            ) from error
        self._most = min(self._most, tiles // 2)  # another stream may have found less
        self.batch = min(self.batch, self._most)

    def close(self) -> None:
        """Free the session."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        del self._session


class _Turn:
    """``count`` arrays of scores, used in turn over all streams of a backend."""

    def __init__(self, count: int, bundle: Bundle) -> None:
        m = bundle.manifest
        self._shape = len(m.classes), m.tile, m.tile
        self._arrays = [np.empty((0, *self._shape), np.float32)] * count
        self._at = 0

    def next(self, tiles: int) -> NDArray[np.float32]:
        """Return the least recently used array, (tiles, classes, tile, tile)."""
        self._at = (self._at + 1) % len(self._arrays)
        if len(self._arrays[self._at]) < tiles:
            self._arrays[self._at] = np.empty((tiles, *self._shape), np.float32)
        return self._arrays[self._at][:tiles]


def _result(answer: Future[NDArray[np.float32]]) -> NDArray[np.float32]:
    return answer.result()


def _end(answer: Future[NDArray[np.float32]]) -> None:
    """Cancel a call that has not begun, and wait for one that has."""
    answer.cancel()
    wait([answer])


def offered_providers() -> tuple[str, ...]:
    """Return this onnxruntime's providers. Raises BackendError if onnxruntime is missing."""
    return tuple(import_onnxruntime().get_available_providers())


def _check_offered(device: str, offered: tuple[str, ...]) -> None:
    """Raise BackendError if a device requested by name is not among the providers."""
    if BY_DEVICE.get(device, CPU) not in offered:
        raise BackendError(
            f"device {device} was asked for, but this onnxruntime offers {', '.join(offered)}; install "
            '`pip install "rsedge[gpu]"` in place of [cpu] (x86-64; on a Jetson NVIDIA\'s own onnxruntime-gpu '
            "wheel), or use --device cpu"
        )


def _session_options(ort: Any, threads: int, streams: int) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # A session has one pool, of one thread less than this, and each call works in its own thread, too.
    options.intra_op_num_threads = threads - streams + 1
    options.inter_op_num_threads = 1
    # Spinning workers would occupy the core that decodes the next rows (in the field: half the speed).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _providers(ort: Any, device: str, bundle: Bundle) -> list[str | tuple[str, dict[str, str]]]:
    """Return the providers to try, in order, with their settings."""
    if device == "cpu" or CUDA not in ort.get_available_providers():
        return [CPU]
    cuda = (CUDA, _cuda_options(ort))
    return [(TENSORRT, _tensorrt_options(bundle)), cuda, CPU] if device == "ort-tensorrt" else [cuda, CPU]


def _cuda_options(ort: Any) -> dict[str, str]:
    # EXHAUSTIVE, the default, would time every convolution again for the smaller last batch of a row.
    options = {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"}
    if tuple(int(n) for n in re.findall(r"\d+", ort.__version__)[:2]) >= KNOWS_TF32:
        options["use_tf32"] = "0"  # otherwise a GPU silently rounds an fp32 file's factors to 10 bits
    return options


def _tensorrt_options(bundle: Bundle) -> dict[str, str]:
    """Return settings for the file's precision; engines are kept in the user's cache, in a folder per file."""
    folder = user_cache() / "ort-tensorrt" / bundle.sha256
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BackendError(
            f"{folder} cannot be made to keep engines: {error.strerror}; set XDG_CACHE_HOME to another folder"
        ) from error
    if bundle.precision == "fp32":
        # The provider has no option for TF32; TensorRT reads this variable when it builds.
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    return {
        "trt_fp16_enable": str(
            bundle.precision in {"fp16", "int8-trt10"}
        ),  # int8-trt10's other layers are fp16
        "trt_int8_enable": str(bundle.precision.startswith("int8")),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(folder),
    }


def _spec(node: Any) -> TensorSpec:
    shape = tuple(side if isinstance(side, int) else None for side in node.shape)
    inner = str(node.type).removeprefix("tensor(").removesuffix(")")
    return TensorSpec(shape, {"float": "float32", "double": "float64"}.get(inner, inner))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
