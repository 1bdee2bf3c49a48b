"""TensorRT and TensorRT for RTX: run an engine built by `rsedge export --trt`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.backends.base import Backend, TensorSpec
from rsedge.backends.gpu import Gpu, import_tensorrt, is_rtx
from rsedge.backends.rtx import MAGIC, JitCache, import_tensorrt_rtx
from rsedge.errors import BackendError, ModelError, RsedgeError
from rsedge.model.bundle import Bundle
from rsedge.model.engines import ENGINE_DEVICES, RTX, Device, PlanFacts, choose, command, plan_path

# Tensors of every rsedge engine; the last two are added during the build (rsedge_export.engines), under names that no
# network uses: some have a "mean".
PIXELS, SCORES, CLASSES, MEAN = "pixels", "scores", "rsedge.classes", "rsedge.mean"
DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "UINT8": "uint8"}
# Waiting threads sleep, because a spinning one would occupy the core that decodes the next rows.
EVENT_FLAGS = ("DISABLE_TIMING", "BLOCKING_SYNC")


class TensorRtBackend(Backend):
    """The engine of ``bundle`` that fits this device, of ``precision`` or (None) the only one.

    ``device``: "tensorrt" or "tensorrt-rtx". Engines are never built or guessed: if none fits, ModelError lists every
    difference and the command that builds one. Raises BackendError if TensorRT, pycuda, a GPU or device memory is
    missing.
    """

    threads = 1  # one CPU thread feeds the GPU
    classes_on_device = True
    kept = 1

    def __init__(self, bundle: Bundle, precision: str | None = None, device: str = "tensorrt") -> None:
        super().__init__(bundle)
        self.name, self._library = device, ENGINE_DEVICES[device]
        if not bundle.path.is_dir():
            raise ModelError(
                f"{bundle.path} is a file, but TensorRT engines are kept in a bundle; give the bundle's folder"
            )
        trt = import_tensorrt_rtx() if self._library == RTX else import_tensorrt()
        self._slots: list[_Slot] = []
        self._jit: JitCache | None = None
        self._stack = ExitStack()
        try:
            self._gpu = self._stack.enter_context(Gpu())
            here = self._gpu.facts(trt)
            self.facts = facts = choose(bundle, precision, here)
            self.trouble = facts.problem
            self.version, self.provider = here.tensorrt, f"{self._library} {here.tensorrt} on {here.name}"
            path = plan_path(bundle.path, facts)
            self.bundle = replace(bundle, artifact=path, sha256=facts.sha256, precision=facts.precision)
            self._stack.callback(self._release)
            with self._device_errors(), self._gpu.current():
                self._load(trt, facts, here)
        except BaseException:
            self.close()
            raise

    @property
    def input_spec(self) -> TensorSpec:
        """The engine's input."""
        return self._specs[PIXELS]

    @property
    def output_spec(self) -> TensorSpec:
        """The engine's scores."""
        return self._specs[SCORES]

    @property
    def record(self) -> dict[str, Any]:
        """The exporter's record of the engine's source: int8-trt8 or int8-trt10 for int8, not the CPU's int8."""
        return self.bundle.record(self.facts.source)

    def _answers(self, batches: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float32]]:
        """See ``Backend._answers``. Enqueues the next batch before waiting for the current one."""
        return self._stream(batches, SCORES)

    def _classes(self, batches: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.uint8]]:
        """See ``Backend._classes``. Uses the engine's own argmax; near ties may differ from the host's."""
        for classes in self._stream(batches, CLASSES):
            yield classes[:, 0].astype(np.uint8)

    def close(self) -> None:
        """Free the engine and its device and pinned memory."""
        self._stack.close()

    def _run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        return np.concatenate([part.copy() for part in self._answers(self._parts(batch))])

    def _parts(self, batch: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """Split a batch into parts that the engine accepts."""
        return (batch[at : at + self._most] for at in range(0, len(batch), self._most))

    def _load(self, trt: Any, facts: PlanFacts, here: Device) -> None:
        driver, bundle = self._gpu.driver, self.bundle
        self._need(facts.size_bytes, "the engine's weights")
        rebuild = f"build it again: {command(bundle.path, facts.precision, here.target)}"
        plan = bundle.artifact_bytes()
        if plan.startswith(MAGIC) != is_rtx(trt):
            other = next(name for name in ENGINE_DEVICES.values() if name != self._library)
            raise ModelError(f"{bundle.artifact} is a plan of {other}, not of {self._library}; {rebuild}")
        logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = runtime = trt.Runtime(logger)
        self._engine = engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise ModelError(f"{self._library} {self.version} does not load {bundle.artifact}; {rebuild}")
        names = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
        if names != {PIXELS, SCORES, CLASSES, MEAN}:
            raise ModelError(
                f"{bundle.artifact} has tensors {', '.join(sorted(names))}, which are not rsedge's; {rebuild}"
            )
        self._specs = {name: _spec(engine, name) for name in (PIXELS, SCORES, CLASSES, MEAN)}
        _, _, most = engine.get_tensor_profile_shape(PIXELS, 0)
        self._most = int(most[0])
        scratch_bytes = (
            engine.device_memory_size_v2
            if hasattr(engine, "device_memory_size_v2")
            else engine.device_memory_size
        )
        buffers_bytes = 2 * sum(_size_bytes(spec, self._most) for spec in self._specs.values())
        self._need(scratch_bytes + buffers_bytes, "the engine's activations and buffers")
        if is_rtx(trt):
            self._jit = JitCache(engine, facts.sha256)
            self._context = engine.create_execution_context(self._jit.config)
        else:
            self._context = engine.create_execution_context()
        if self._context is None:
            raise BackendError(
                f"{self._library} could not prepare {bundle.artifact}: out of device memory; free some"
            )
        for _ in range(2):
            self._slots.append(
                _Slot(driver)
            )  # appended before it allocates, so that a partial allocation is freed too
            self._slots[-1].allocate(driver, self._specs, self._most)
        self._in_flight: _Slot | None = None  # the slot whose computation was enqueued last
        self._batch = 0  # tiles in the context's input shape

    def _need(self, size_bytes: int, what: str) -> None:
        free_bytes = self._gpu.free_bytes()
        if size_bytes > free_bytes:
            raise BackendError(
                f"{what} need {size_bytes / 1e6:.0f} MB of device memory, but {free_bytes / 1e6:.0f} MB are free; "
                "stop other users of the GPU (see `nvidia-smi`, on a Jetson `tegrastats`)"
            )

    def _stream(self, batches: Iterable[NDArray[Any]], wanted: str) -> Iterator[NDArray[Any]]:
        """Yield the output ``wanted`` of each batch, a view on pinned memory, valid until the next is requested."""
        waiting: _Slot | None = None
        try:
            for count, batch in enumerate(batches):
                slot = self._slots[count % 2]
                with self._device_errors(), self._gpu.current():
                    self._enqueue(slot, batch, wanted)
                ready, waiting = waiting, slot
                if ready is not None:
                    yield self._collect(ready, wanted)
            if waiting is not None:
                yield self._collect(waiting, wanted)
        except BaseException:  # also if the caller leaves early, because memory in use must not be reused
            with self._gpu.current():
                for slot in self._slots:
                    slot.settle()
            raise

    def _enqueue(self, slot: _Slot, batch: NDArray[Any], wanted: str) -> None:
        driver, context, tiles = self._gpu.driver, self._context, len(batch)
        pinned = slot.host[PIXELS]
        if (batch.shape[1:], batch.dtype) != (pinned.shape[1:], pinned.dtype):
            raise BackendError(
                f"the engine takes {self._show_batch()}, not {batch.dtype} of shape {batch.shape}"
            )
        slot.tiles = tiles
        with self.copying("copy_in"):  # on the host only; the device's copy overlaps the previous batch
            pinned[:tiles] = batch
            driver.memcpy_htod_async(slot.device[PIXELS], pinned[:tiles], slot.stream)
        if self._in_flight is not None:
            # One context has one scratch memory, so computations run in sequence while copies overlap them.
            slot.stream.wait_for_event(self._in_flight.computed)
        if tiles != self._batch:
            if self._in_flight is not None:
                self._in_flight.done.synchronize()
            if not context.set_input_shape(PIXELS, batch.shape):
                raise BackendError(f"the engine takes {self._show_batch()}, not {tiles} tiles")
            self._batch = tiles
        for name, allocation in slot.device.items():
            context.set_tensor_address(name, int(allocation))
        if not context.execute_async_v3(slot.stream.handle):
            raise BackendError(f"the model failed on {self.provider}; see its message above")
        slot.computed.record(slot.stream)
        for name in (wanted, MEAN):
            driver.memcpy_dtoh_async(slot.host[name][:tiles], slot.device[name], slot.stream)
        slot.done.record(slot.stream)
        self._in_flight = slot

    def _collect(self, slot: _Slot, wanted: str) -> NDArray[Any]:
        with self._device_errors(), self._gpu.current():
            slot.computed.synchronize()
            with self.copying("copy_out"):
                slot.done.synchronize()
        # The mean of all scores, taken on the device, so that NaN and infinity do not pass for class 0.
        self.check_finite(slot.host[MEAN][: slot.tiles])
        answer: NDArray[Any] = slot.host[wanted][: slot.tiles]
        return answer

    def _show_batch(self) -> str:
        spec = self._specs[PIXELS]
        return f"{spec.dtype} of shape (1 to {self._most}, {', '.join(map(str, spec.shape[1:]))})"

    def _device_errors(self) -> _DeviceErrors:
        return _DeviceErrors(self.provider)

    def _release(self) -> None:
        with self._gpu.current():
            for slot in self._slots:
                slot.free()
            self._slots.clear()
            if self._jit is not None:
                with suppress(Exception):  # after a device fault; the next run finishes its kernels again
                    self._jit.keep()
            self._jit = None
            self._in_flight = self._context = self._engine = self._runtime = None  # in this order


class _DeviceErrors:
    """Context that turns pycuda's errors, which share no base but Exception, into BackendError."""

    def __init__(self, provider: str) -> None:
        self._provider = provider

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, RsedgeError):
            raise BackendError(f"the model failed on {self._provider}: {error}") from error


class _Slot:
    """Host (pinned) and device memory for one batch, and its stream."""

    def __init__(self, driver: Any) -> None:
        self.tiles = 0
        self.stream = driver.Stream()
        flags = 0
        for name in EVENT_FLAGS:
            flags |= int(getattr(driver.event_flags, name))
        self.computed, self.done = driver.Event(flags), driver.Event(flags)
        self.host: dict[str, NDArray[Any]] = {}
        self.device: dict[str, Any] = {}

    def allocate(self, driver: Any, specs: Mapping[str, TensorSpec], most: int) -> None:
        """Allocate memory for ``most`` tiles of every tensor, reused for all batches."""
        for name, spec in specs.items():
            self.host[name] = driver.pagelocked_empty(_shape(spec, most), np.dtype(spec.dtype))
            self.device[name] = driver.mem_alloc(_size_bytes(spec, most))

    def settle(self) -> None:
        """Wait until nothing uses the memory."""
        with suppress(Exception):  # after a device fault every call fails, and the error has been reported
            self.stream.synchronize()

    def free(self) -> None:
        """Wait for the stream, then free device memory; pinned memory is freed with its last view."""
        self.settle()
        for allocation in self.device.values():
            with suppress(Exception):
                allocation.free()
        self.device.clear()
        self.host.clear()


def _spec(engine: Any, name: str) -> TensorSpec:
    shape = tuple(None if side < 0 else int(side) for side in engine.get_tensor_shape(name))
    dtype = str(engine.get_tensor_dtype(name).name)
    return TensorSpec(shape, DTYPES.get(dtype, dtype))


def _shape(spec: TensorSpec, most: int) -> tuple[int, ...]:
    return tuple(most if side is None else side for side in spec.shape)


def _size_bytes(spec: TensorSpec, most: int) -> int:
    return int(np.prod(_shape(spec, most))) * np.dtype(spec.dtype).itemsize
