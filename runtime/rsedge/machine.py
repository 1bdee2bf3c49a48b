"""Describe this machine and this process: cores, processor, board, GPUs, load, memory."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import resource
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

CPUINFO, BOARD = Path("/proc/cpuinfo"), Path("/proc/device-tree/model")
GPUS = Path("/proc/driver/nvidia/gpus")
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
M_MMAP_THRESHOLD = -3  # of malloc.h


def usable_cores() -> int:
    """Cores this process may use (a container or taskset may grant fewer than there are)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """The processor, else the board (ARM's cpuinfo names none: a Jetson or a Pi), else its architecture."""
    for line in _text(CPUINFO).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return board_name() or platform.processor() or platform.machine() or "unknown"


def load_1min() -> float | None:
    """Processes that wanted a core, averaged over the last minute; None where the system does not count."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def board_name() -> str | None:
    """A Jetson's or another board's; None where the system names none."""
    return _text(BOARD).strip("\0 \n") or None


def gpu_names() -> tuple[str, ...]:
    """The GPUs that NVIDIA's driver lists."""
    said = list[str]()
    for path in sorted(GPUS.glob("*/information")):
        lines = _text(path).splitlines()
        said += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return tuple(said)


@cache
def return_large_arrays() -> None:
    """Have glibc give large arrays back to the system when they are freed.

    Else it raises its threshold to 32 MiB once the first was freed, and keeps holes where strips had been.
    """
    try:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 4 << 20)
    except (AttributeError, OSError, TypeError):
        return  # another C library, which has no such threshold


def return_freed_memory() -> None:
    """Give what was freed back to the system, where the C library can: else each thread keeps what it has had."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return


def begin_peak() -> None:
    """Have the highest resident memory counted anew from here on, where the system can."""
    with suppress(OSError):
        CLEAR_REFS.write_text("5", encoding="ascii")


def peak_rss_bytes() -> int:
    """Highest resident memory of this process, since ``begin_peak`` where the system can tell."""
    return _status("VmHWM") or _usage_bytes()


def rss_bytes() -> int:
    """Resident memory of this process now; the highest so far where the system does not tell."""
    return _status("VmRSS") or _usage_bytes()


def _status(key: str) -> int | None:
    try:
        found = re.search(rf"^{key}:\s*(\d+) kB", STATUS.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _usage_bytes() -> int:
    # Not the first choice: Linux hands a parent's peak on to the program that it starts.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def machine_bytes() -> int:
    """Memory of this machine, or of the container that this process lives in."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in CGROUP_LIMITS:
        try:
            total = min(total, int(limit.read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return total


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
