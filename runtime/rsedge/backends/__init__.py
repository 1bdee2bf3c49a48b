"""Runtimes for a model's arithmetic: ONNX Runtime, OpenVINO, TensorRT."""

from __future__ import annotations

from rsedge.backends.base import Backend
from rsedge.backends.speeds import Speed, fitting, load_speeds
from rsedge.errors import BackendError, InputError, ModelError
from rsedge.model.bundle import Bundle
from rsedge.model.engines import ENGINE_DEVICES

__all__ = ["DEVICES", "Backend", "open_backend"]

DEVICES = ("auto", "cpu", "cuda", "openvino", *ENGINE_DEVICES, "ort-tensorrt")  # choices of --device
UNMEASURED = "not measured on this machine; `rsedge verify` measures"


def open_backend(
    bundle: Bundle, device: str = "auto", threads: int | None = None, precision: str | None = None
) -> Backend:
    """Open the bundle's artifact on ``device``, one of ``DEVICES``.

    "cpu", "cuda" and "ort-tensorrt" use ONNX Runtime; "openvino" is the CPU through OpenVINO. "tensorrt" and
    "tensorrt-rtx" run the bundle's engine of ``precision`` (None: its only one); on other devices the bundle determines
    the precision. "auto"
    is the fastest device measured on this machine by `rsedge verify` for the bundle's precision, never a lower one;
    without measurements CUDA, else the CPU. ``backend.why`` gives the reason.

    Raises InputError if the device is unknown, BackendError if it or its package is missing, ModelError if the
    artifact does not load or does not match its manifest.
    """
    if device not in DEVICES:
        raise InputError(f"device {device!r} is unknown; choose one of {', '.join(DEVICES)}")
    if threads is not None and threads < 1:
        raise InputError(f"threads {threads} must be at least 1")
    open_it = _open_best if device == "auto" else _open
    backend = open_it(bundle, device, threads, precision)
    try:
        backend.check_contract()
    except BaseException:
        backend.close()
        raise
    return backend


def _open_best(bundle: Bundle, device: str, threads: int | None, precision: str | None) -> Backend:
    from rsedge.backends.ort import CUDA, offered_providers  # noqa: PLC0415 - see _open

    speeds, wrong = load_speeds(bundle)
    measured = fitting(speeds, bundle, threads, engines=precision is not None)
    news = [wrong] if wrong else []
    if not measured or (all(speed.device != "cuda" for speed in measured) and CUDA in offered_providers()):
        backend = _open(bundle, device, threads, precision)
        if not measured or backend.provider == CUDA:
            backend.why = "; ".join([*news, UNMEASURED])
            return backend
        backend.close()  # CUDA does not start, which is why it was not measured
    for speed in measured:
        try:
            backend = _open(bundle, speed.device, threads, precision)
        except (BackendError, ModelError) as error:
            news.append(f"{speed.device} was measured, but does not start now ({error})")
            continue
        if backend.version == speed.version:
            backend.why = "; ".join([_found(speed, len(measured)), *news])
            return backend
        news.append(
            f"{speed.device} was measured with version {speed.version}, but {backend.version} is installed"
        )
        backend.close()
    backend = _open(bundle, device, threads, precision)
    backend.why = "; ".join([*news, UNMEASURED])
    return backend


def _found(speed: Speed, count: int) -> str:
    which = "the only one" if count == 1 else f"fastest of {count}"
    return f"{which} measured on this machine on {speed.date[:10]}"


def _open(bundle: Bundle, device: str, threads: int | None, precision: str | None) -> Backend:
    # Imported on use, because each loads a library that may not be installed.
    if device == "openvino":
        from rsedge.backends.openvino import OpenVinoBackend  # noqa: PLC0415

        return OpenVinoBackend(bundle, threads)
    if device in ENGINE_DEVICES:
        from rsedge.backends.tensorrt import TensorRtBackend  # noqa: PLC0415

        return TensorRtBackend(bundle, precision, device)
    from rsedge.backends.ort import OrtBackend  # noqa: PLC0415

    return OrtBackend(bundle, device, threads)
