"""Conditions of a measurement: the machine, as far as it is known, and the model that ran."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

from rsedge.backends import Backend
from rsedge.machine import cpu_name, load_1min, usable_cores
from rsedge.version import __version__


@dataclass(frozen=True)
class Conditions:
    """Machine and model that a measurement is valid for."""

    cpu: str
    cores: int  # usable by this process
    threads: int
    load_1min_before: (
        float | None
    )  # if well above 0, other programs used the cores too, and times are too long
    backend: str
    backend_version: str
    provider: str
    precision: str
    rsedge_version: str
    date: str  # UTC, ISO 8601

    @classmethod
    def of(cls, model: Backend) -> Conditions:
        """Describe the current machine. Call before measuring, because a benchmark adds load."""
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
