"""What is missing for more and what is wrong, each with the command for this very machine."""

from __future__ import annotations

import platform
import re
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distributions, requires
from pathlib import Path

from rsedge.doctor.facts import Finding, Library, Machine, Way
from rsedge.doctor.system import PYTHONS, free_bytes, is_writable
from rsedge.files import user_cache

LEAST_DISK_BYTES = 1 << 30
X86 = ("x86_64", "AMD64")
FULL_POWER = "MAXN"  # names of Jetsons' modes without a limit begin with it
SHARED = re.compile(r"onnxruntime([-_.](gpu|openvino|directml|rocm|migraphx|training|qnn))?", re.IGNORECASE)


def onnxruntime_packages() -> tuple[str, ...]:
    """Return the names of installed packages that all write into the folder ``onnxruntime``."""
    names = {str(d.metadata["Name"]) for d in distributions() if d.metadata["Name"]}
    return tuple(sorted(name for name in names if SHARED.fullmatch(name)))


def missing(machine: Machine, libraries: Sequence[Library], compiled: bool) -> tuple[Finding, ...]:
    """List what this machine could use and does not have."""
    state = {lib.name: lib.state for lib in libraries}
    found = list[Finding]()
    if state["onnxruntime"] == "missing":
        extra = "gpu" if machine.gpus and not machine.l4t else "cpu"
        found.append(Finding("onnxruntime", "the backend of every ONNX file", _install(extra)))
    for module, package in (("numpy", "numpy"), ("rasterio", "rasterio"), ("PIL", "Pillow")):
        if state[module] == "missing":
            found.append(Finding(package, "rsedge needs it", _pip(package)))
    if state["openvino"] == "missing" and platform.machine() in X86:
        found.append(Finding("openvino", "int8 at about twice the speed on this CPU", _install("openvino")))
    if not compiled:
        found.append(
            Finding(
                "a C compiler", "without one blending and overviews run in numpy, slower", _install("fast")
            )
        )
    if state["tensorrt"] == "missing" and machine.has_gpu:
        found.append(_tensorrt(machine))
    if machine.idle_gpus:
        found.append(
            Finding(
                "NVIDIA's driver",
                "a GPU is on the bus, but no driver lists it",
                "sudo ubuntu-drivers install",
            )
        )
    return tuple(found)


def wrong(
    machine: Machine,
    libraries: Sequence[Library],
    ways: Sequence[Way],
    packages: Sequence[str],
    speeds: str | None,
) -> tuple[Finding, ...]:
    """List what keeps rsedge from running, or from running fast."""
    found = [
        Finding(f"{lib.name} {lib.detail}", f"version {lib.version or 'unknown'}", _again(lib))
        for lib in libraries
        if lib.state == "failed"
    ]
    if len(packages) > 1:
        keep = next((p for p in packages if p.endswith("gpu")), packages[0])
        found.append(
            Finding(
                f"{len(packages)} packages share the folder onnxruntime: {', '.join(packages)}",
                "which files win depends on the order of installation, and the GPU may be gone",
                f"{_python()} -m pip uninstall -y {' '.join(packages)} && {_pip(keep)}",
            )
        )
    found += _of_gpu(machine, ways)
    found += [
        Finding(f"device {way.device} does not run", str(way.why_not), None)
        for way in ways
        if not way.runs and way.device not in {"tensorrt"}
    ]
    return (*found, *_of_power(machine), *_of_disk(), *([Finding("speeds file", speeds)] if speeds else []))


def _of_gpu(machine: Machine, ways: Sequence[Way]) -> list[Finding]:
    """Return what is wrong if there is a GPU and nothing runs on it."""
    if not machine.has_gpu or any(w.runs for w in ways if w.device in {"cuda", "tensorrt", "ort-tensorrt"}):
        return []
    name = ", ".join(machine.gpus) or machine.board or "the Jetson's GPU"
    if any(way.device == "tensorrt" for way in ways):
        return [
            Finding(
                f"{name} is unused: TensorRT works, but no engine was built",
                next(str(w.why_not) for w in ways if w.device == "tensorrt"),
                "rsedge export --trt --bundle BUNDLE",
            )
        ]
    if machine.l4t:
        return [Finding(f"{name} is unused", "the model runs on the CPU; TensorRT is missing or broken")]
    # pip leaves the CPU's package, and its files win where both are there.
    swap = f"{_python()} -m pip uninstall -y onnxruntime && {_install('gpu')}"
    return [Finding(f"{name} is unused", "the model runs on the CPU; onnxruntime starts no CUDA", swap)]


def _of_power(machine: Machine) -> list[Finding]:
    found = []
    if machine.power_mode and not machine.power_mode.upper().startswith(FULL_POWER):
        command = "sudo nvpmodel -m 0 && sudo jetson_clocks"
        why = "it limits clocks and cores; mode 0 is the fastest of most boards (`nvpmodel -p --verbose` lists them)"
        found.append(Finding(f"power mode {machine.power_mode}", why, command))
    if machine.governor == "powersave" and not _is_scaled_by_driver():
        command = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        found.append(Finding("CPU governor powersave", "it holds the clock at its lowest", command))
    return found


def _is_scaled_by_driver() -> bool:
    """Return True if the driver raises the clock under load also with "powersave", as Intel's and AMD's do."""
    driver = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_driver")
    try:
        return driver.read_text(encoding="ascii").strip() in {"intel_pstate", "amd-pstate-epp"}
    except OSError:
        return False


def _of_disk() -> list[Finding]:
    found, cache = list[Finding](), user_cache()
    for folder, what in ((Path.cwd(), "this folder"), (cache, "the cache folder")):
        free = free_bytes(folder)
        if free is not None and free < LEAST_DISK_BYTES:
            why = f"{free / 2**20:.0f} MiB are free for {folder}; a run keeps parts of the result there"
            found.append(Finding(f"the disk of {what} is full", why, f"df -h {shlex.quote(str(folder))}"))
    if not is_writable(cache):
        why = "compiled loops, measured speeds and engines are not kept from run to run"
        found.append(Finding(f"{cache} is not writable", why, "export XDG_CACHE_HOME=/a/folder/of/yours"))
    return found


def _tensorrt(machine: Machine) -> Finding:
    """Return how to get TensorRT: from pip in a PC, from JetPack on a Jetson, whose Python must fit."""
    if not machine.l4t:
        return Finding("TensorRT", "engines for this GPU", _install("trt"))
    wanted = PYTHONS.get(machine.jetpack or "")
    here = ".".join(machine.python.split(".")[:2])
    prefix = shlex.quote(sys.prefix if machine.venv else "/opt/rsedge")
    if wanted == "3.8":
        why = "JetPack 5's TensorRT is built for Python 3.8, and rsedge needs 3.10: flash JetPack 6 or later"
        return Finding("TensorRT", why, None)
    if wanted and wanted != here:
        why = f"JetPack {machine.jetpack}'s TensorRT is built for Python {wanted}, this is {here}"
        command = f"/usr/bin/python{wanted} -m venv --system-site-packages /opt/rsedge-py{wanted}"
        return Finding("TensorRT", why, f"sudo apt install nvidia-jetpack python3-venv && sudo {command}")
    if not machine.sees_system_packages:
        why = "this virtual environment hides the system's packages, among them JetPack's TensorRT"
        return Finding("TensorRT", why, f"/usr/bin/python3 -m venv --system-site-packages {prefix}")
    why = "it comes with JetPack, never from pip"
    return Finding("TensorRT", why, f"sudo apt install nvidia-jetpack && {_pip('pycuda')}")


def _again(lib: Library) -> str | None:
    if lib.name in {"tensorrt", "C compiler"}:  # JetPack's is not pip's; a compiler is the system's
        return None
    name = {"PIL": "Pillow"}.get(lib.name, lib.name)
    return f"{_python()} -m pip install --force-reinstall --no-cache-dir {name}"


def _python() -> str:
    return shlex.quote(sys.executable)


def _pip(*requirements: str) -> str:
    return f"{_python()} -m pip install {' '.join(map(shlex.quote, requirements))}"


def _install(extra: str) -> str:
    """Return the command that installs what an extra of rsedge needs, without rsedge itself."""
    known = {
        "cpu": ["onnxruntime"],
        "gpu": ["onnxruntime-gpu"],
        "fast": ["ziglang"],
        "trt": ["pycuda", "tensorrt"],
    }
    wanted = list[str]()
    try:
        for line in requires("rsedge") or ():
            requirement, _, marker = line.partition(";")
            if re.search(rf"extra\s*==\s*['\"]{extra}['\"]", marker):
                wanted.append(requirement.strip())
    except PackageNotFoundError:  # run from its sources
        pass
    return _pip(*(wanted or known.get(extra, [extra])))
