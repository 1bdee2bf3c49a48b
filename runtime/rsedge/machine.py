"""Facts of this machine and this process: cores, processor, board, GPUs, load, memory."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

CPUINFO, BOARD = Path("/proc/cpuinfo"), Path("/proc/device-tree/model")
GPUS = Path("/proc/driver/nvidia/gpus")
TEGRA_RELEASE = Path("/etc/nv_tegra_release")  # exists only on Jetsons
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
M_MMAP_THRESHOLD = -3  # from malloc.h


def usable_cores() -> int:
    """Return the number of cores this process may use; a container or taskset may limit it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """Return the processor's name, else the board's (ARM's cpuinfo names none), else the architecture."""
    for line in _text(CPUINFO).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return board_name() or platform.processor() or platform.machine() or "unknown"


def load_1min() -> float | None:
    """Return the load: processes that wanted a core, averaged over the last minute; None if unknown."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def board_name() -> str | None:
    """Return the name of a Jetson or another board; None if unknown."""
    return _text(BOARD).strip("\0 \n") or None


def gpu_names() -> tuple[str, ...]:
    """Return the names of the GPUs that NVIDIA's driver lists."""
    said = list[str]()
    for path in sorted(GPUS.glob("*/information")):
        lines = _text(path).splitlines()
        said += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return tuple(said)


def l4t_release(path: Path | None = None) -> str | None:
    """Return the system release of a Jetson, such as "36.4.0" (JetPack 6.1); None on other machines."""
    text = _text(path or TEGRA_RELEASE)
    if not text:
        return None
    found = re.search(r"R(\d+).*?REVISION:\s*([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else "unknown"


def power_mode() -> str | None:
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


def governor() -> str | None:
    """Return the policy that sets the first core's clock, such as "powersave"; None if unknown."""
    return _text(GOVERNOR).strip() or None


@cache
def return_large_arrays() -> None:
    """Make glibc return large arrays to the system when they are freed.

    Otherwise glibc raises its threshold to 32 MiB after the first is freed, and keeps the memory of freed strips.
    """
    try:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 4 << 20)
    except (AttributeError, OSError, TypeError):
        return  # another C library without this threshold


def return_freed_memory() -> None:
    """Return freed memory to the system, if the C library can; otherwise each thread keeps it."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return


def begin_peak() -> None:
    """Reset the peak of resident memory, if the system can."""
    with suppress(OSError):
        CLEAR_REFS.write_text("5", encoding="ascii")


def peak_rss_bytes() -> int:
    """Return the peak resident memory of this process, since ``begin_peak`` if the system can reset it."""
    return _status("VmHWM") or _usage_bytes()


def rss_bytes() -> int:
    """Return the resident memory of this process; the peak so far if the system reports only the peak."""
    return _status("VmRSS") or _usage_bytes()


def _status(key: str) -> int | None:
    try:
        found = re.search(rf"^{key}:\s*(\d+) kB", STATUS.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _usage_bytes() -> int:
    # Only a fallback, because on Linux a process inherits its parent's peak.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def machine_bytes() -> int:
    """Return the memory of this machine, or of the container that this process runs in."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in CGROUP_LIMITS:
        try:
            total = min(total, int(limit.read_text(encoding="ascii")))
        except (OSError, ValueError):  # the file is missing or says "max"
            continue
    return total


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
