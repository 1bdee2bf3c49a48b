"""TensorRT for RTX: its packages, what marks its plans, and its cache of kernels finished on the device."""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rsedge.errors import BackendError
from rsedge.files import check_private, open_own, real_folder, user_cache, whole_or_nothing

# NVIDIA's package; its bindings; where these find the libraries: NVIDIA's, or those of a provider for ONNX Runtime.
PACKAGE, BINDINGS, LIBS = "tensorrt_rtx", "tensorrt_rtx_bindings", "tensorrt_rtx_libs"
MODULES = (PACKAGE, BINDINGS)  # either will do
PROVIDER = "onnxruntime_ep_nv_tensorrt_rtx"
LIBRARY, PARSER = "libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1"  # SONAMEs, in the order of need
INSTALL = 'pip install "rsedge[rtx]"'
MAGIC = b"vtrt"  # the first bytes of its plans, and of no plan of TensorRT
MOST_CACHE_BYTES = 256 << 20


def is_installed() -> bool:
    """Return True if Python's bindings can be imported, without importing them."""
    return any(map(find_spec, MODULES))


def import_tensorrt_rtx() -> Any:
    """Import TensorRT for RTX; no GPU or driver is needed. Raises BackendError if it is missing or does not fit.

    Bindings look for their libraries by SONAME, so those of another package than their own are loaded first.
    """
    try:
        if find_spec(PACKAGE) is not None:
            return _checked(importlib.import_module(PACKAGE))
        if find_spec(BINDINGS) is not None and find_spec(LIBS) is None:
            _load_libraries()
        return _checked(importlib.import_module(BINDINGS))
    except ModuleNotFoundError as error:
        raise BackendError(f"TensorRT for RTX is not installed; run `{INSTALL}`") from error
    except (ImportError, OSError) as error:
        raise BackendError(
            f"TensorRT for RTX does not load ({error}); install its parts in one version: `{INSTALL}`"
        ) from error


def _load_libraries() -> None:
    """Load the libraries of the provider's package, whose file names are versions, for all that follow."""
    spec = find_spec(PROVIDER)
    folders = [Path(place) for place in spec.submodule_search_locations or ()] if spec else []
    for soname in (LIBRARY, PARSER) if sys.platform == "linux" else ():
        found = sorted(file for folder in folders for file in folder.glob(f"{soname}*"))
        if found:
            ctypes.CDLL(os.fspath(found[-1]), mode=ctypes.RTLD_GLOBAL)


def _checked(trt: Any) -> Any:
    """Return the module. Raises BackendError if the library is of another version, as calls would then misfit."""
    said = library_version()
    own = ".".join(re.findall(r"\d+", str(trt.__version__))[:3])
    if said is not None and said != own:
        raise BackendError(
            f"TensorRT for RTX is here in two versions: Python's bindings are {trt.__version__}, the library is "
            f"{said}; install its parts in one version: `{INSTALL}`"
        )
    return trt


def library_version() -> str | None:
    """Return the version of the loaded library, "1.7.1"; None if that cannot be told."""
    try:
        library = ctypes.CDLL(LIBRARY)  # already loaded, so found by its SONAME
        parts = [getattr(library, f"getInferLib{part}Version")() for part in ("Major", "Minor", "Patch")]
    except (OSError, AttributeError):
        return None
    return ".".join(map(str, parts))


class JitCache:
    """Kernels that TensorRT for RTX finished on this device, kept for the next run; only a speed-up.

    They are code, so they are read only from a cache folder that, like all above it, no other user can write. Where it
    cannot be written, each run finishes its kernels again.
    """

    def __init__(self, engine: Any, key: str) -> None:
        self._folder = real_folder(user_cache())
        self._path = self._folder / f"tensorrt-rtx-{key[:32]}.jit"
        self.config = config = engine.create_runtime_config()
        self._jit = jit = config.create_runtime_cache()
        self._known = self._read()
        if self._known and not jit.deserialize(self._known):
            self._known = b""  # of another driver or GPU
        config.set_runtime_cache(jit)

    def keep(self) -> None:
        """Write what was added since the file was read, if the folder is safe and can be written."""
        jit = self._jit
        memory = jit.serialize()
        data = b"" if memory is None else bytes(memory)
        if not data or data == self._known or len(data) > MOST_CACHE_BYTES:
            return
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            check_private(self._folder)
            with whole_or_nothing(self._path) as partial:
                partial.write_bytes(data)
            self._known = data

    def _read(self) -> bytes:
        with suppress(OSError):
            check_private(self._folder)
            with open(open_own(self._path, os.O_RDONLY), "rb") as file:
                data = file.read(MOST_CACHE_BYTES + 1)
            return data if len(data) <= MOST_CACHE_BYTES else b""
        return b""
