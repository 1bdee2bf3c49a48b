"""Runtimes for a model's arithmetic: ONNX Runtime, OpenVINO, TensorRT."""

from __future__ import annotations

from rsedge.backends.base import Backend
from rsedge.backends.speeds import ON_CPU, Speed, fitting, load_speeds
from rsedge.errors import BackendError, InputError, ModelError
from rsedge.machine import usable_cores
from rsedge.model.bundle import Bundle
from rsedge.model.engines import ENGINE_DEVICES

__all__ = ["DEVICES", "Backend", "open_backend"]

DEVICES = ("auto", "cpu", "cuda", "openvino", *ENGINE_DEVICES, "ort-tensorrt")  # choices of --device
UNMEASURED = "not measured on this machine; `rsedge verify` measures"


def open_backend(
    bundle: Bundle,
    device: str = "auto",
    threads: int | None = None,
    precision: str | None = None,
    streams: int | None = 1,
) -> Backend:
    """Open the bundle's artifact on ``device``, one of ``DEVICES``.

    "cpu", "cuda" and "ort-tensorrt" use ONNX Runtime; "openvino" is the CPU through OpenVINO. "tensorrt" and
    "tensorrt-rtx" run the bundle's engine of ``precision`` (None: its only one); on other devices the bundle determines
    the precision. "auto"
    is the fastest device measured on this machine by `rsedge verify` for the bundle's precision, never a lower one;
    without measurements CUDA, else the CPU. ``backend.why`` gives the reason.

    ``streams`` tiles are in work at once on the CPU, sharing ``threads`` (None: all cores); None is the fastest number
    measured here for the device, else one. Scores do not depend on it.

    Raises InputError if the device is unknown or a number impossible, BackendError if the device or its package is
    missing, ModelError if the artifact does not load or does not match its manifest.
    """
    check_numbers(device, threads, streams)
    if device == "auto":
        backend = _open_best(bundle, threads, precision, streams)
    else:
        streams = _measured_streams(bundle, device, threads) if streams is None else streams
        backend = _open(bundle, device, threads, precision, streams)
    try:
        backend.check_contract()
    except BaseException:
        backend.close()
        raise
    return backend


def check_numbers(device: str, threads: int | None, streams: int | None) -> None:
    """Raise InputError if the device is unknown or cannot have that many threads and streams."""
    if device not in DEVICES:
        raise InputError(f"device {device!r} is unknown; choose one of {', '.join(DEVICES)}")
    if threads is not None and threads < 1:
        raise InputError(f"threads {threads} must be at least 1")
    if streams is None or streams == 1:
        return
    if streams < 1:
        raise InputError(f"streams {streams} must be at least 1")
    if device not in {"auto", *ON_CPU}:
        raise InputError(
            f"streams are for the CPU, and {device} takes its tiles another way; leave streams out"
        )
    if streams > (threads or usable_cores()):
        raise InputError(
            f"{streams} streams need a thread each, but the model has {threads or usable_cores()}; give fewer streams "
            "or more threads"
        )


def _measured_streams(bundle: Bundle, device: str, threads: int | None) -> int:
    """Return the fastest number of streams measured here on ``device``, else one."""
    if device not in ON_CPU:
        return 1
    measured = fitting(load_speeds(bundle)[0], bundle, threads)
    return next((speed.streams for speed in measured if speed.device == device), 1)


def _open_best(bundle: Bundle, threads: int | None, precision: str | None, streams: int | None) -> Backend:
    from rsedge.backends.ort import CUDA, offered_providers  # noqa: PLC0415 - see _open

    speeds, wrong = load_speeds(bundle)
    measured = of_streams(fitting(speeds, bundle, threads, engines=precision is not None), streams)
    news = [wrong] if wrong else []
    if not measured or (all(speed.device != "cuda" for speed in measured) and CUDA in offered_providers()):
        backend = _open(bundle, "auto", threads, precision, streams or 1)
        if not measured or backend.provider == CUDA:
            backend.why = "; ".join([*news, UNMEASURED])
            return backend
        backend.close()  # CUDA does not start, which is why it was not measured
    for speed in measured:
        try:
            backend = open_measured(bundle, speed, threads, precision, streams)
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
    backend = _open(bundle, "auto", threads, precision, streams or 1)
    backend.why = "; ".join([*news, UNMEASURED])
    return backend


def of_streams(measured: tuple[Speed, ...], streams: int | None) -> tuple[Speed, ...]:
    """Return the measurements of that many streams, else those of one, which still rank the devices."""
    if streams is None:
        return measured
    return next(
        (fit for n in (streams, 1) if (fit := tuple(speed for speed in measured if speed.streams == n))), ()
    )


def open_measured(
    bundle: Bundle, speed: Speed, threads: int | None, precision: str | None, streams: int | None = None
) -> Backend:
    """Open what was measured, with its number of streams unless ``streams`` is given."""
    count = (streams or speed.streams) if speed.device in ON_CPU else 1
    return _open(bundle, speed.device, threads, precision, count)


def _found(speed: Speed, count: int) -> str:
    which = "the only one" if count == 1 else f"fastest of {count}"
    return f"{which} measured on this machine on {speed.date[:10]}"


def _open(bundle: Bundle, device: str, threads: int | None, precision: str | None, streams: int) -> Backend:
    # Imported on use, because each loads a library that may not be installed.
    if device == "openvino":
        from rsedge.backends.openvino import OpenVinoBackend  # noqa: PLC0415

        return OpenVinoBackend(bundle, threads, streams)
    if device in ENGINE_DEVICES:
        from rsedge.backends.tensorrt import TensorRtBackend  # noqa: PLC0415

        return TensorRtBackend(bundle, precision, device)
    from rsedge.backends.ort import OrtBackend  # noqa: PLC0415

    return OrtBackend(bundle, device, threads, streams)
