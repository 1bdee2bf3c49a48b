"""The machine's facts from the kernel's files; nothing is imported that a broken package could break."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
from pathlib import Path

from rsedge.doctor.facts import Machine
from rsedge.machine import (
    board_name,
    cpu_name,
    governor,
    gpu_names,
    l4t_release,
    machine_bytes,
    power_mode,
    usable_cores,
)

DRIVER = Path("/proc/driver/nvidia/version")
TOOLKIT = Path("/usr/local/cuda/version.json")
PCI = Path("/sys/bus/pci/devices")
NVIDIA, DISPLAY = "0x10de", "0x03"  # vendor, and first byte of the class
JETPACKS = {"35": "5", "36": "6", "38": "7"}  # by the system's major release
PYTHONS = {"5": "3.8", "6": "3.10", "7": "3.12"}  # JetPack's Python, which its TensorRT is built for


def this_machine() -> Machine:
    """Describe the current machine."""
    gpus, l4t = gpu_names(), l4t_release()
    return Machine(
        cpu=cpu_name(),
        cores=usable_cores(),
        board=board_name(),
        l4t=l4t,
        jetpack=JETPACKS.get(l4t.partition(".")[0]) if l4t else None,
        gpus=gpus,
        idle_gpus=0 if gpus or l4t else _cards(),
        driver=_driver(),
        cuda=_toolkit(),
        power_mode=power_mode(),
        governor=governor(),
        memory_bytes=machine_bytes(),
        free_disk_bytes=free_bytes(Path.cwd()),
        system=platform.platform(),
        python=platform.python_version(),
        executable=sys.executable,
        venv=sys.prefix != sys.base_prefix,
        sees_system_packages=sees_system_packages(Path(sys.prefix)),
    )


def sees_system_packages(prefix: Path) -> bool:
    """Return True unless ``prefix`` is a virtual environment that hides the system's packages."""
    settings = _read(prefix / "pyvenv.cfg")
    found = re.search(r"^include-system-site-packages\s*=\s*(\w+)", settings, re.MULTILINE)
    return found is None or found[1].lower() == "true"


def free_bytes(folder: Path) -> int | None:
    """Return the free space of a folder's disk, or of the nearest folder above that exists; None if unknown."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def is_writable(folder: Path) -> bool:
    """Return True if files can be made in a folder, or the folder itself in the nearest above that exists."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _cards() -> int:
    """Count NVIDIA's graphics cards on the bus."""
    return sum(
        _read(path / "vendor").strip() == NVIDIA and _read(path / "class").startswith(DISPLAY)
        for path in PCI.glob("*")
    )


def _driver() -> str | None:
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", _read(DRIVER))
    return found[0] if found else None


def _toolkit() -> str | None:
    try:
        return str(json.loads(_read(TOOLKIT))["cuda"]["version"])
    except (ValueError, KeyError, TypeError):
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
