"""Access to TensorRT and CUDA, with clear errors if something is missing."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rsedge.errors import BackendError
from rsedge.machine import BOARD, l4t_release
from rsedge.model.engines import RTX, TENSORRT, Device

OLDEST = (8, 5)  # JetPack 5, the first with named tensors and execute_async_v3
STRONGLY_TYPED = (10, 0)
JETSON_VENV = "a virtual environment sees it only if made with `python3 -m venv --system-site-packages`"


def import_tensorrt() -> Any:
    """Import the tensorrt module. Raises BackendError if it is missing, does not load or is too old."""
    try:
        trt = importlib.import_module("tensorrt")
    except ImportError as error:
        if l4t_release():
            fix = f"on a Jetson install JetPack: `sudo apt install nvidia-jetpack`; {JETSON_VENV}"
        else:
            fix = 'run `pip install "rsedge[trt]"` (on a Jetson install JetPack instead)'
        what = "is not installed" if isinstance(error, ModuleNotFoundError) else f"does not load ({error})"
        raise BackendError(f"TensorRT {what}; {fix}") from error
    if version(trt) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise BackendError(
            f"TensorRT {trt.__version__} is too old; rsedge needs {oldest} or later (on a Jetson: JetPack 5 or later)"
        )
    return trt


def version(trt: Any) -> tuple[int, int]:
    """Return the major and minor version."""
    major, minor = re.findall(r"\d+", trt.__version__)[:2]
    return int(major), int(minor)


def is_rtx(trt: Any) -> bool:
    """Return True for TensorRT for RTX, whose versions began at 1 when TensorRT's were at 10."""
    return str(getattr(trt, "__name__", "")).startswith("tensorrt_rtx")


def strongly_typed(trt: Any) -> bool:
    """Return True if networks take their types from the ONNX; before TensorRT 10, builder flags set them."""
    return is_rtx(trt) or version(trt) >= STRONGLY_TYPED


def device_name(gpu: str) -> str:
    """Return the GPU's name, with the board on a Jetson, because CUDA calls them all "Orin" but plans differ."""
    try:
        board = BOARD.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return gpu
    return f"{gpu} ({board})" if "Jetson" in board else gpu


class Gpu:
    """Primary context of the first CUDA device, which TensorRT uses too. A context manager.

    Raises BackendError if pycuda or a GPU is missing.
    """

    def __init__(self) -> None:
        self.driver = _import_pycuda()
        try:
            self.driver.init()
            self._device = self.driver.Device(0)
            self._primary = self._device.retain_primary_context()
        except Exception as error:  # pycuda's errors share no base class of their own
            raise BackendError(
                f"no CUDA device is usable ({error}); check `nvidia-smi` (on a Jetson `tegrastats`), give a container "
                "the GPU (`--runtime nvidia` or `--gpus all`), or run the model on the CPU"
            ) from error

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current in this thread during the block only, because torch may use CUDA as well."""
        self._primary.push()
        try:
            yield
        finally:
            self._primary.pop()

    def free_bytes(self) -> int:
        """Return free device memory in bytes. Needs ``current``."""
        free_bytes, _ = self.driver.mem_get_info()
        return int(free_bytes)

    def facts(self, trt: Any) -> Device:
        """Return what a plan depends on."""
        major, minor = self._device.compute_capability()
        newest = self.driver.get_driver_version()
        return Device(
            name=device_name(str(self._device.name())),
            sm=f"{major}{minor}",
            tensorrt=str(trt.__version__),
            cuda=".".join(map(str, self.driver.get_version()[:2])),
            driver_cuda=f"{newest // 1000}.{newest % 1000 // 10}",
            l4t=l4t_release(),
            library=RTX if is_rtx(trt) else TENSORRT,
        )

    def close(self) -> None:
        """Release the context, which ends with its last holder."""
        self._primary = None

    def __enter__(self) -> Gpu:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _import_pycuda() -> Any:
    try:
        return importlib.import_module("pycuda.driver")
    except ModuleNotFoundError as error:
        raise BackendError("pycuda is not installed; run `pip install pycuda`") from error
    except ImportError as error:  # its libcuda.so.1 comes with the driver
        raise BackendError(
            f"pycuda does not load ({error}); install NVIDIA's driver, or give the container the GPU"
        ) from error
