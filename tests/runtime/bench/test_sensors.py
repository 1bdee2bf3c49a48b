from __future__ import annotations

import stat
import time
from pathlib import Path

import pytest

from rsedge.bench.sensors import PERIOD_S, Sensors

NO_SMI = "/nowhere/nvidia-smi"


def put(root: Path, **files: object) -> None:
    """Write files of an imaginary kernel below ``root``; ``__`` in a name stands for ``/``."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def rail(root: Path, chip: int, number: int, label: str, millivolts: int, milliamperes: int) -> None:
    folder = root / f"sys/class/hwmon/hwmon{chip}"
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"name": "ina3221", f"in{number}_label": label, f"in{number}_input": millivolts}
    for name, text in {**facts, f"curr{number}_input": milliamperes}.items():
        (folder / name).write_text(f"{text}\n")


class TestJetson:
    def test_the_rail_that_feeds_all_is_taken(self, tmp_path: Path) -> None:
        rail(tmp_path, 1, 1, "VDD_IN", 5000, 2000)  # 10 W
        rail(tmp_path, 1, 2, "VDD_CPU_GPU_CV", 5000, 1000)
        # A Jetson's nvidia-smi reports the power of a part only, if any.
        sensors = Sensors(tmp_path, smi(tmp_path, "2, 300, 0x0\\n"))
        with sensors.watch(on_gpu=True) as reading:
            time.sleep(4 * PERIOD_S)
        assert reading.power_source == "INA3221 VDD_IN"
        assert reading.energy_j == pytest.approx(10 * reading.seconds)

    def test_else_all_rails_together(self, tmp_path: Path) -> None:
        rail(tmp_path, 1, 1, "VDD_GPU_SOC", 12000, 500)  # 6 W
        rail(tmp_path, 2, 1, "VIN_SYS_5V0", 5000, 800)  # 4 W
        (tmp_path / "sys/class/hwmon/hwmon1/in7_label").write_text("sum of shunt voltages\n")
        other = tmp_path / "sys/class/hwmon/hwmon3"
        other.mkdir()
        (other / "name").write_text("nvme\n")
        sensors = Sensors(tmp_path)
        with sensors.watch() as reading:
            time.sleep(4 * PERIOD_S)
        assert reading.power_source == "INA3221 VDD_GPU_SOC, VIN_SYS_5V0"
        assert reading.energy_j == pytest.approx(10 * reading.seconds)

    def test_too_short_a_time_has_no_power_and_a_note(self, tmp_path: Path) -> None:
        rail(tmp_path, 1, 1, "VDD_IN", 5000, 2000)
        sensors = Sensors(tmp_path)
        for _ in range(2):
            with sensors.watch() as reading:
                pass
            assert reading.energy_j is None
        assert sensors.notes == [
            "power is not shown for rasters that take less than a second; give a larger --size"
        ]

    def test_clocks_and_an_overcurrent_event(self, tmp_path: Path) -> None:
        put(tmp_path, sys__devices__system__cpu__cpu0__cpufreq__scaling_cur_freq=1_000_000)
        put(tmp_path, sys__devices__system__cpu__cpu1__cpufreq__scaling_cur_freq=2_000_000)
        gpu = tmp_path / "sys/class/devfreq/17000000.gpu/cur_freq"
        gpu.parent.mkdir(parents=True)
        gpu.write_text("612000000\n")
        put(tmp_path, sys__class__hwmon__hwmon5__oc1_event_cnt=3)
        sensors = Sensors(tmp_path)
        assert sensors.clock_source == "cpufreq, devfreq"
        with sensors.watch() as quiet:
            pass
        assert (quiet.cpu_mhz[0], quiet.gpu_mhz[0], quiet.throttled) == (1500, 612, False)
        with sensors.watch() as slowed:
            put(tmp_path, sys__class__hwmon__hwmon5__oc1_event_cnt=4)
        assert slowed.throttled is True


class TestRapl:
    def test_energy_is_the_counters_difference(self, tmp_path: Path) -> None:
        names = {"energy_uj": 999_000_000, "max_energy_range_uj": 1_000_000_000}
        zones = tmp_path / "sys/class/powercap"
        # A core is part of its package, and psys contains the package.
        for folder, kind in (
            (zones / "intel-rapl:0", "package-0"),
            (zones / "intel-rapl:0:0", "core"),
            (zones / "intel-rapl:1", "psys"),
        ):
            folder.mkdir(parents=True)
            for name, value in {**names, "name": kind}.items():
                (folder / name).write_text(f"{value}\n")
        sensors = Sensors(tmp_path, smi(tmp_path, "60, 300, 0x0\\n"))  # irrelevant to a model on the CPU
        with sensors.watch() as reading:
            for folder in zones.iterdir():
                (folder / "energy_uj").write_text("4000000\n")  # the counter wrapped to 0 at 1000 J
        assert reading.power_source == "the CPU package (RAPL)"
        assert reading.energy_j == pytest.approx(5)

    def test_no_permission_is_a_note(self, tmp_path: Path) -> None:
        # A folder cannot be read as a file, not even by root.
        (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").mkdir(parents=True)
        (tmp_path / "sys/class/powercap/intel-rapl:0/name").write_text("package-0\n")
        sensors = Sensors(tmp_path)
        assert "energy_uj cannot be read" in sensors.notes[0]
        assert "chmod" in sensors.notes[0]
        with sensors.watch() as reading:
            pass
        assert (reading.energy_j, reading.power_source) == (None, None)


def smi(folder: Path, lines: str, apps: str = "") -> str:
    """Write a script that prints like nvidia-smi."""
    path = folder / "nvidia-smi"
    path.write_text(
        f'#!/bin/sh\ncase "$1" in --query-compute-apps*) printf "{apps}";; *) printf "{lines}"; exec sleep 30;; esac\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


class TestNvidia:
    def test_power_clocks_and_what_slows_it(self, tmp_path: Path) -> None:
        lines = "60.5, 1410, 0x0000000000000000\\n61.5, 1400, 0x0000000000000020\\n61, 1400, 0x0\\n"
        sensors = Sensors(tmp_path, smi(tmp_path, lines))
        with sensors.watch(on_gpu=True) as reading:
            time.sleep(1)
        assert reading.power_source == "the first GPU alone (nvidia-smi)"
        assert reading.energy_j == pytest.approx(61 * reading.seconds)
        assert (reading.gpu_mhz, reading.throttled) == ([1410, 1400, 1400], True)
        assert reading.cost_s > 0

    def test_what_it_does_not_tell_is_unknown(self, tmp_path: Path) -> None:
        sensors = Sensors(tmp_path, smi(tmp_path, "[N/A], [N/A], [N/A]\\n"))
        with sensors.watch(on_gpu=True) as reading:
            time.sleep(0.5)
        assert (reading.energy_j, reading.gpu_mhz, reading.throttled) == (None, [], None)

    def test_idle_and_application_clocks_are_no_throttling(self, tmp_path: Path) -> None:
        sensors = Sensors(tmp_path, smi(tmp_path, "20, 300, 0x0000000000000001\\n20, 300, 0x2\\n"))
        with sensors.watch(on_gpu=True) as reading:
            time.sleep(1)
        assert reading.throttled is False

    def test_memory_of_a_process(self, tmp_path: Path) -> None:
        sensors = Sensors(tmp_path, smi(tmp_path, "", "41, 100\\n42, 700\\n42, 24\\n"))
        assert sensors.device_bytes(42) == 724 << 20
        assert sensors.device_bytes(43) is None

    def test_a_tool_that_does_not_start_is_no_error(self, tmp_path: Path) -> None:
        sensors = Sensors(tmp_path, NO_SMI)
        with sensors.watch(on_gpu=True) as reading:
            pass
        assert (reading.energy_j, sensors.device_bytes(1)) == (None, None)


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    put(tmp_path, proc__cpuinfo="cpu MHz\t\t: 2000.5\ncpu MHz\t\t: 1000.5")
    sensors = Sensors(tmp_path)
    with sensors.watch() as reading:
        pass
    assert reading.cpu_mhz[0] == 1500.5
    assert (reading.energy_j, reading.throttled, reading.power_source, sensors.notes) == (
        None,
        None,
        None,
        [],
    )
    assert reading.seconds > 0
    assert reading.cost_s > 0
