"""Power, clocks and throttling, as far as the device reports them: Jetson's INA3221, NVIDIA's driver, RAPL.

Values come from kernel files and nvidia-smi. A missing or forbidden sensor is a note, never an error. Each reading
names the only source of its power: the board's rails if it has any, else the GPU for models that run on the GPU, else
the CPU's package.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PERIOD_S = 0.2  # time between two samples
TOTALS = ("VDD_IN", "POM_5V_IN")  # rails of a Jetson that feed all others
GPU_NAMES = re.compile(r"gpu|gv11b|ga10b|gp10b|gb10b")  # Jetson GPUs among the kernel's devfreq devices
SMI_QUERY = "power.draw,clocks.sm,clocks_throttle_reasons.active"
FIRST_LINE_S = 5.0  # time for nvidia-smi to print its first line
LEAST_SAMPLES = 3  # power samples; the mean of fewer says nothing
SLOWED = 0x4 | 0x8 | 0x20 | 0x40 | 0x80  # power cap, hardware, heat (software, hardware), power brake


@dataclass
class Reading:
    """Sensor values while a block ran. ``energy_j`` None: no sensor, or too few samples."""

    seconds: float = 0.0
    power_source: str | None = None  # source of ``energy_j``
    energy_j: float | None = None
    cpu_mhz: list[float] = field(default_factory=list)
    gpu_mhz: list[float] = field(default_factory=list)
    throttled: bool | None = None
    cost_s: float = 0.0  # processor time that sampling took


class Sensors:
    """The sensors of this machine. ``root``: folder of /sys and /proc; ``smi``: nvidia-smi, None: as on PATH."""

    def __init__(self, root: Path = Path("/"), smi: str | None = None) -> None:
        self._root, self.notes = root, list[str]()
        self._smi = smi or shutil.which("nvidia-smi")
        self._rails = _rails(root)
        self._counters = [] if self._rails else self._readable_counters()
        self._clocks = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        devfreq = sorted((root / "sys/class/devfreq").glob("*"))
        self._gpu_clocks = [d / "cur_freq" for d in devfreq if GPU_NAMES.search(d.name)]
        self._events = [
            *(root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count"),
            *(root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt"),
        ]

    @property
    def clock_source(self) -> str:
        """Sources of the clocks."""
        said = ["cpufreq"] * bool(self._clocks) or ["/proc/cpuinfo"]
        return ", ".join([*said, *["devfreq"] * bool(self._gpu_clocks), *["nvidia-smi"] * bool(self._smi)])

    @contextmanager
    def watch(self, on_gpu: bool = False) -> Iterator[Reading]:
        """Sample every ``PERIOD_S`` while the block runs; the reading is complete when the block ends."""
        reading, rails_w, stop = Reading(), list[float](), threading.Event()
        smi = _Smi(self._smi) if self._smi and on_gpu else None
        counters = [] if smi else self._counters
        events, counted = sum(_numbers(self._events)), _joules(counters)
        looker = threading.Thread(target=self._look, args=(reading, rails_w, stop), daemon=True)
        begin = time.perf_counter()
        looker.start()
        try:
            yield reading
        finally:
            reading.seconds = time.perf_counter() - begin
            stop.set()
            looker.join()
            if smi:
                reading.cost_s += smi.end()
                reading.gpu_mhz += smi.mhz
            self._add_power(reading, rails_w, smi, counters, counted)
            if self._events or (smi and smi.masks):
                more = sum(_numbers(self._events)) > events
                reading.throttled = more or any(mask & SLOWED for mask in (smi.masks if smi else ()))

    def _add_power(
        self,
        reading: Reading,
        rails_w: Sequence[float],
        smi: _Smi | None,
        counters: Sequence[Path],
        before: Sequence[tuple[float, float]],
    ) -> None:
        """Add the energy to ``reading`` from its one source of power."""
        watts = rails_w if self._rails else smi.watts if smi else []
        if counters:
            reading.power_source = "the CPU package (RAPL)"
            after = _joules(counters)
            reading.energy_j = sum(
                (now - was) % wrap for (now, wrap), (was, _) in zip(after, before, strict=True)
            )
        elif watts:
            rails = f"INA3221 {', '.join(rail.label for rail in self._rails)}"
            reading.power_source = rails if self._rails else "the first GPU alone (nvidia-smi)"
            if len(watts) >= LEAST_SAMPLES:
                reading.energy_j = sum(watts) / len(watts) * reading.seconds
            else:
                self._note(
                    "power is not shown for rasters that take less than a second; give a larger --size"
                )

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def device_bytes(self, pid: int) -> int | None:
        """Return the bytes that a process holds on a discrete GPU, as the driver lists them; None if not listed."""
        if not self._smi:
            return None
        query = [self._smi, "--query-compute-apps=pid,used_gpu_memory", "--format=csv,noheader,nounits"]
        with suppress(OSError, subprocess.SubprocessError, ValueError):
            done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
            rows = [line.split(",") for line in done.stdout.splitlines() if "," in line]
            mib = [int(row[1]) for row in rows if int(row[0]) == pid]
            return sum(mib) << 20 if mib else None
        return None

    def _look(self, reading: Reading, watts: list[float], stop: threading.Event) -> None:
        while True:
            if clocks := self._cpu_mhz():
                reading.cpu_mhz.append(sum(clocks) / len(clocks))
            if hertz := _numbers(self._gpu_clocks):
                reading.gpu_mhz.append(max(hertz) / 1e6)
            if self._rails:
                with suppress(OSError, ValueError):
                    watts.append(sum(rail.watts() for rail in self._rails))
            if stop.wait(PERIOD_S):
                reading.cost_s = time.thread_time()
                return

    def _cpu_mhz(self) -> list[float]:
        if self._clocks:
            return [khz / 1e3 for khz in _numbers(self._clocks)]
        text = _text(self._root / "proc/cpuinfo") or ""
        return [float(mhz) for mhz in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", text, re.MULTILINE)]

    def _readable_counters(self) -> list[Path]:
        """Return RAPL's energy counters of whole packages; since 2020 only root may read them by default."""
        zones = sorted((self._root / "sys/class/powercap").glob("intel-rapl:*"))
        # The other zones are parts of packages, or (psys) contain packages.
        packages = [zone for zone in zones if (_text(zone / "name") or "").startswith("package")]
        counters = [package / "energy_uj" for package in packages if (package / "energy_uj").exists()]
        try:
            for path in counters:
                path.read_text(encoding="ascii")
        except OSError as error:
            self.notes.append(
                f"power is not shown: {path} cannot be read ({error.strerror}); as root `chmod a+r {path}` allows it"
            )
            return []
        return counters


@dataclass(frozen=True)
class _Rail:
    """One channel of an INA3221."""

    label: str
    millivolts: Path
    milliamperes: Path

    def watts(self) -> float:
        volts, amperes = (float(p.read_text(encoding="ascii")) for p in (self.millivolts, self.milliamperes))
        return volts * amperes / 1e6


def _rails(root: Path) -> list[_Rail]:
    """Return the rail that feeds all other rails, else all rails."""
    found = list[_Rail]()
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if (_text(folder / "name") or "").strip() != "ina3221":
            continue
        for label in sorted(folder.glob("in*_label")):
            name, number = (_text(label) or "").strip(), label.name[2 : -len("_label")]
            rail = _Rail(name, folder / f"in{number}_input", folder / f"curr{number}_input")
            if rail.milliamperes.exists():  # the chip's sums of shunt voltages have no current
                found.append(rail)
    return [rail for rail in found if rail.label in TOTALS] or found


class _Smi:
    """A running nvidia-smi that samples the first GPU: watts, MHz, and a bit mask of throttle reasons.

    A device that does not report a value prints "[N/A]".
    """

    def __init__(self, tool: str) -> None:
        self.watts, self.mhz, self.masks = list[float](), list[float](), list[int]()
        self._told = threading.Event()
        every = f"-lms={round(1e3 * PERIOD_S)}"
        command = [tool, "-i=0", f"--query-gpu={SMI_QUERY}", "--format=csv,noheader,nounits", every]
        self._process: subprocess.Popen[str] | None = None
        with suppress(OSError):
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            self._listener = threading.Thread(target=self._listen, daemon=True)
            self._listener.start()
            self._told.wait(FIRST_LINE_S)

    def end(self) -> float:
        """Stop nvidia-smi and return the processor time that it took, seconds."""
        if self._process is None:
            return 0.0
        self._process.terminate()
        _, status, used = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._listener.join()
        return used.ru_utime + used.ru_stime

    def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self._process.stdout:
            for line in self._process.stdout:
                draw, clock, mask = (*(part.strip() for part in line.split(",")), "", "", "")[:3]
                with suppress(ValueError):
                    self.watts.append(float(draw))
                with suppress(ValueError):
                    self.mhz.append(float(clock))
                with suppress(ValueError):
                    self.masks.append(int(mask, 16))
                self._told.set()
        self._told.set()  # nvidia-smi ended without a line


def _joules(counters: Sequence[Path]) -> list[tuple[float, float]]:
    """Return (value, value at which the counter wraps to 0) of each counter, joules."""
    wraps = [_numbers([path.with_name("max_energy_range_uj")]) or [float("inf")] for path in counters]
    shown = [float(path.read_text(encoding="ascii")) for path in counters]
    return [(value / 1e6, wrap[0] / 1e6) for value, wrap in zip(shown, wraps, strict=True)]


def _numbers(paths: Sequence[Path]) -> list[float]:
    """Return the numbers in the files; skip files that cannot be read."""
    found = list[float]()
    for path in paths:
        with suppress(OSError, ValueError):
            found.append(float(path.read_text(encoding="ascii")))
    return found


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
