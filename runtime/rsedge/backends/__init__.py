"""Where a model's arithmetic runs."""

from __future__ import annotations

from rsedge.backends.base import DEVICES, Backend
from rsedge.bundle import Bundle
from rsedge.errors import InputError

__all__ = ["DEVICES", "Backend", "open_backend"]


def open_backend(bundle: Bundle, device: str = "auto", threads: int | None = None) -> Backend:
    """Open the bundle's artifact on ``device``: "auto", "cpu" or "cuda".

    Raises BackendError when the requested device or its package is missing, ModelError when the
    artifact does not load or is not what the manifest says.
    """
    if device not in DEVICES:
        raise InputError(f"device {device!r} is unknown; choose one of {', '.join(DEVICES)}")
    if threads is not None and threads < 1:
        raise InputError(f"threads {threads} must be at least 1")
    from rsedge.backends.ort import OrtBackend  # noqa: PLC0415 - loads onnxruntime

    backend = OrtBackend(bundle, device, threads)
    backend.check_contract()
    return backend
