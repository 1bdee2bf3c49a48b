"""Description of the machine: hardware, power mode and software versions."""

from __future__ import annotations

import platform
import shutil
import subprocess
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rsedge.bench.facts import Machine
from rsedge.machine import board_name, cpu_name, gpu_names, load_1min, machine_bytes, usable_cores
from rsedge.version import __version__

GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
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
        power_mode=_power_mode(),
        governor=_governor(),
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


def _power_mode() -> str | None:
    """Return a Jetson's power mode, such as "MAXN", which sets clocks and cores; None on other machines."""
    tool = shutil.which("nvpmodel")
    if tool is None:
        return None
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run([tool, "-q"], capture_output=True, text=True, timeout=10, check=True)
        for line in done.stdout.splitlines():
            if line.startswith("NV Power Mode"):
                return line.partition(":")[2].strip() or None
    return None


def _governor() -> str | None:
    with suppress(OSError):
        return GOVERNOR.read_text(encoding="ascii").strip()
    return None
