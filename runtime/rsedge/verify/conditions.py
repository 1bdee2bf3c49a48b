"""What a measurement was made on: the machine, as far as it says itself, and the model that ran."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

from rsedge.backends import Backend
from rsedge.machine import cpu_name, load_1min, usable_cores
from rsedge.version import __version__


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
