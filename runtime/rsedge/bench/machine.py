"""Description of the machine: hardware, power mode and software versions."""

from __future__ import annotations

import platform
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version

from rsedge.bench.facts import Machine
from rsedge.machine import (
    board_name,
    cpu_name,
    governor,
    gpu_names,
    load_1min,
    machine_bytes,
    power_mode,
    usable_cores,
)
from rsedge.version import __version__

LIBRARIES = ("numpy", "rasterio", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "torch")


def this_machine() -> Machine:
    """Describe the current machine. Call before measuring, because a benchmark adds load."""
    return Machine(
        cpu=cpu_name(),
        cores=usable_cores(),
        board=board_name(),
        gpus=gpu_names(),
        memory_bytes=machine_bytes(),
        system=platform.platform(),
        python=platform.python_version(),
        power_mode=power_mode(),
        governor=governor(),
        versions={"rsedge": __version__, **_versions()},
        load_1min_before=load_1min(),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _versions() -> dict[str, str]:
    import rasterio  # noqa: PLC0415 - only for the version of its GDAL

    found = {"gdal": rasterio.__gdal_version__}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
