"""What an examination finds: frozen values, printed by ``rsedge doctor --json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

SCHEMA_KEY, SCHEMA = "rsedge_doctor_schema", 1
State = Literal["ok", "missing", "failed"]


@dataclass(frozen=True)
class Machine:
    """Hardware and system, read from the kernel's files."""

    cpu: str
    cores: int  # usable by this process
    board: str | None
    l4t: str | None  # release of a Jetson's system
    jetpack: str | None  # major version
    gpus: tuple[str, ...]  # named by NVIDIA's driver
    idle_gpus: int  # NVIDIA's cards on the bus, if there is no driver
    driver: str | None  # NVIDIA's
    cuda: str | None  # the toolkit
    power_mode: str | None
    governor: str | None
    memory_bytes: int
    free_disk_bytes: int | None  # in the current folder
    system: str
    python: str
    executable: str
    venv: bool
    sees_system_packages: bool  # a virtual environment may not

    @property
    def has_gpu(self) -> bool:
        """True if the machine has an NVIDIA GPU with a driver; a Jetson's is part of the board."""
        return bool(self.gpus or self.l4t)


@dataclass(frozen=True)
class Library:
    """A library that rsedge can use: imported in a process of its own, or not there."""

    name: str
    state: State
    version: str | None = None
    detail: str | None = None  # providers, the GPU, or why it failed


@dataclass(frozen=True)
class Way:
    """A device on which the model ran, or could not, in a process of its own."""

    device: str
    runs: bool
    provider: str | None = None
    version: str | None = None  # of the library that ran it
    why_not: str | None = None


@dataclass(frozen=True)
class Measured:
    """One of `rsedge verify`'s measurements that is valid on this machine."""

    precision: str
    device: str
    provider: str
    version: str  # of the library that was measured
    tile_ms: float  # median of one tile
    tile: int  # pixels a side
    agreement: float  # share of pixels with the class of fp32
    date: str


@dataclass(frozen=True)
class Finding:
    """Something missing or wrong, why it matters, and the command that mends it on this machine."""

    what: str
    why: str
    command: str | None = None


@dataclass(frozen=True)
class Checkup:
    """Result of an examination. ``why_not``: why rsedge cannot segment here; None if it can."""

    rsedge: str
    model: str
    machine: Machine
    libraries: tuple[Library, ...]
    ways: tuple[Way, ...]
    speeds: tuple[Measured, ...]
    missing: tuple[Finding, ...]
    wrong: tuple[Finding, ...]
    why_not: str | None

    @property
    def can_segment(self) -> bool:
        """True if a raster was segmented here."""
        return self.why_not is None

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {SCHEMA_KEY: SCHEMA, "can_segment": self.can_segment, **asdict(self)}
