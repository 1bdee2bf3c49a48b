"""Where a model's arithmetic runs."""

from __future__ import annotations

from rsedge.backends.base import Backend
from rsedge.bundle import Bundle
from rsedge.errors import InputError

__all__ = ["DEVICES", "Backend", "open_backend"]

DEVICES = ("auto", "cpu", "cuda", "openvino", "tensorrt", "ort-tensorrt")  # what a user can ask for


def open_backend(
    bundle: Bundle, device: str = "auto", threads: int | None = None, precision: str | None = None
) -> Backend:
    """Open the bundle's artifact on ``device``, one of ``DEVICES``.

    "cpu" and "cuda" are ONNX Runtime's, "auto" the better of the two; "openvino" is the CPU through
    OpenVINO. "tensorrt" takes, of the bundle's engines, that of ``precision`` (None: the engine that is
    there); for the others it is the bundle that says the precision.

    Raises InputError when there is no such device, BackendError when the requested one or its package
    is missing, ModelError when the artifact does not load or is not what the manifest says.
    """
    if device not in DEVICES:
        raise InputError(f"device {device!r} is unknown; choose one of {', '.join(DEVICES)}")
    if threads is not None and threads < 1:
        raise InputError(f"threads {threads} must be at least 1")
    backend = _open(bundle, device, threads, precision)
    try:
        backend.check_contract()
    except BaseException:
        backend.close()
        raise
    return backend


def _open(bundle: Bundle, device: str, threads: int | None, precision: str | None) -> Backend:
    # Imported here: each loads a library of its own, which may not be installed.
    if device == "openvino":
        from rsedge.backends.openvino import OpenVinoBackend  # noqa: PLC0415

        return OpenVinoBackend(bundle, threads)
    if device == "tensorrt":
        from rsedge.backends.tensorrt import TensorRtBackend  # noqa: PLC0415

        return TensorRtBackend(bundle, precision)
    from rsedge.backends.ort import OrtBackend  # noqa: PLC0415

    return OrtBackend(bundle, device, threads)
