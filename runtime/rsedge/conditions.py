"""What a measurement was made on: the machine, as far as it says itself."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from rsedge.version import __version__

if TYPE_CHECKING:
    from rsedge.backends import Backend

CPUINFO, BOARD = Path("/proc/cpuinfo"), Path("/proc/device-tree/model")


@dataclass(frozen=True)
class Conditions:
    """What the numbers hold for."""

    cpu: str
    cores: int  # that this process may use
    threads: int
    load_1min_before: float | None  # well above 0: others had the cores too, and times are too long
    backend: str
    backend_version: str
    provider: str
    precision: str
    rsedge_version: str
    date: str  # UTC, ISO 8601

    @classmethod
    def of(cls, model: Backend) -> Conditions:
        """Those of now; take them before measuring, which makes load of its own."""
        return cls(
            cpu=cpu_name(),
            cores=usable_cores(),
            threads=model.threads,
            load_1min_before=load_1min(),
            backend=model.name,
            backend_version=model.version,
            provider=model.provider,
            precision=model.bundle.precision,
            rsedge_version=__version__,
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )


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
    return _text(BOARD).strip("\0 \n") or platform.processor() or platform.machine() or "unknown"


def load_1min() -> float | None:
    """Processes that wanted a core, averaged over the last minute; None where the system does not count."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
