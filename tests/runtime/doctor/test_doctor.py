"""`rsedge doctor` on machines that are not this one: fake trees of the kernel's files, and packages that crash."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import rsedge.machine as machine
from rsedge.cli.doctor import _speed
from rsedge.doctor import advice, system
from rsedge.doctor.child import ask
from rsedge.doctor.facts import Library, Machine, Measured, Way

CRASH = "import os\nos.abort()\n"
NAMES = ("numpy", "rasterio", "PIL", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx")
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], Machine]:
    """Describes a machine with these files of /proc, /sys, /etc and /usr, and no others."""
    root = tmp_path / "root"
    for module in (machine, system):
        for name, path in vars(module).copy().items():
            if isinstance(path, Path) and path.is_absolute():
                monkeypatch.setattr(module, name, root / path.relative_to("/"))

    def describe(files: dict[str, str]) -> Machine:
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return system.this_machine()

    return describe


def orin(release: str = "R36 (release), REVISION: 4.0, GCID: 1") -> dict[str, str]:
    return {
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano\0",
        "etc/nv_tegra_release": f"# {release}",
        "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "12.6.68"}}',
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    }


PC = {
    "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA RTX A2000\nIRQ: 1\n",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May\n",
}


def libraries(**states: str) -> list[Library]:
    return [Library(name, states.get(name, "ok")) for name in NAMES]  # type: ignore[arg-type]


def test_a_jetson_is_told_from_its_files(
    tree: Callable[[dict[str, str]], Machine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvpmodel"
    tool.write_text("#!/bin/sh\necho 'NV Power Mode: 7W'\necho 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = tree(orin())
    assert (found.board, found.l4t, found.jetpack) == ("NVIDIA Jetson Orin Nano", "36.4.0", "6")
    assert (found.cuda, found.power_mode, found.governor) == ("12.6.68", "7W", "schedutil")
    assert found.has_gpu
    (power,) = [f for f in advice.wrong(found, [], [], ["onnxruntime"], None) if "power" in f.what]
    assert "sudo nvpmodel -m 0" in str(power.command)
    full = replace(found, power_mode="MAXN_SUPER")
    assert not [f for f in advice.wrong(full, [], [], [], None) if "power" in f.what]


@pytest.mark.parametrize(
    ("release", "python", "sees", "why", "command"),
    [
        ("R36 (release), REVISION: 4.0", "3.10.12", False, "hides", "python3 -m venv --system-site-packages"),
        (
            "R36 (release), REVISION: 4.0",
            "3.12.3",
            True,
            "built for Python 3.10, this is 3.12",
            "python3.10 -m venv",
        ),
        ("R38 (release), REVISION: 2.0", "3.10.1", True, "built for Python 3.12", "python3.12 -m venv"),
        ("R36 (release), REVISION: 4.0", "3.10.12", True, "never from pip", "apt install nvidia-jetpack"),
        ("R35 (release), REVISION: 4.1", "3.10.12", True, "flash JetPack 6", None),
    ],
)
def test_tensorrt_of_a_jetson_needs_jetpacks_python_and_its_packages(
    tree: Callable[[dict[str, str]], Machine],
    release: str,
    python: str,
    sees: bool,
    why: str,
    command: str | None,
) -> None:
    found = replace(tree(orin(release)), python=python, sees_system_packages=sees)
    (trt,) = [f for f in advice.missing(found, libraries(tensorrt="missing"), True) if f.what == "TensorRT"]
    assert why in trt.why
    assert command is None if trt.command is None else str(command) in trt.command


def test_a_venv_says_whether_it_sees_the_systems_packages(tmp_path: Path) -> None:
    assert system.sees_system_packages(tmp_path)  # no venv
    for said, sees in (("true", True), ("false", False)):
        (tmp_path / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = {said}\n")
        assert system.sees_system_packages(tmp_path) == sees


def test_a_gpu_that_is_there_and_unused(tree: Callable[[dict[str, str]], Machine]) -> None:
    found = tree(PC)
    assert (found.gpus, found.driver, found.l4t) == (("NVIDIA RTX A2000",), "535.183.01", None)
    cpu, cuda = Way("cpu", True), Way("cuda", True)
    (unused,) = [f for f in advice.wrong(found, [], [cpu], [], None) if "unused" in f.what]
    assert "NVIDIA RTX A2000" in unused.what
    assert "pip uninstall -y onnxruntime && " in str(unused.command)
    assert "onnxruntime-gpu" in str(unused.command)
    assert not [f for f in advice.wrong(found, [], [cpu, cuda], [], None) if "unused" in f.what]
    broken = advice.wrong(found, [], [cpu, replace(cuda, runs=False, why_not="fell back")], [], None)
    assert [f.why for f in broken if f.what == "device cuda does not run"] == ["fell back"]
    assert [f for f in broken if "unused" in f.what]


def test_a_card_without_a_driver(tree: Callable[[dict[str, str]], Machine]) -> None:
    bus = "sys/bus/pci/devices/0000:01:00"
    found = tree(
        {
            f"{bus}.0/vendor": "0x10de\n", f"{bus}.0/class": "0x030000\n",
            f"{bus}.1/vendor": "0x10de\n", f"{bus}.1/class": "0x040300\n",  # its sound
            f"{bus}.2/vendor": "0x8086\n", f"{bus}.2/class": "0x030000\n",
        }
    )  # fmt: skip
    assert (found.idle_gpus, found.has_gpu) == (1, False)
    assert "NVIDIA's driver" in [f.what for f in advice.missing(found, libraries(), True)]


def test_a_machine_without_any_of_the_files(tree: Callable[[dict[str, str]], Machine]) -> None:
    found = tree({})
    assert (found.board, found.gpus, found.l4t, found.driver, found.governor) == (None, (), None, None, None)
    assert advice.missing(found, libraries(), True) == ()


def test_commands_name_this_python(tree: Callable[[dict[str, str]], Machine]) -> None:
    gone = {"onnxruntime": "missing", "rasterio": "missing"}
    found = {f.what: str(f.command) for f in advice.missing(tree({}), libraries(**gone), False)}
    assert set(found) == {"onnxruntime", "rasterio", "a C compiler"}
    assert all(command.startswith(f"{sys.executable} -m pip install ") for command in found.values())
    assert "ziglang" in found["a C compiler"]


def test_two_packages_of_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime", "onnxruntime-gpu", "onnxruntime-extensions"):
        folder = tmp_path / f"{name.replace('-', '_')}-1.20.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.20.0\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert advice.onnxruntime_packages() == ("onnxruntime", "onnxruntime-gpu")


def test_the_one_for_the_gpu_stays(tree: Callable[[dict[str, str]], Machine]) -> None:
    (two,) = [
        f
        for f in advice.wrong(tree({}), [], [], ["onnxruntime", "onnxruntime-gpu"], None)
        if "packages" in f.what
    ]
    assert str(two.command).endswith("pip install onnxruntime-gpu")
    assert "uninstall -y onnxruntime onnxruntime-gpu" in str(two.command)


def test_disk_and_cache(
    tree: Callable[[dict[str, str]], Machine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tree({})
    assert not [f for f in advice.wrong(found, [], [], [], None) if "writable" in f.what]
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    usage = shutil.disk_usage(tmp_path)._replace(free=5 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    said = [f"{f.what} {f.why}" for f in advice.wrong(found, [], [], [], None)]
    assert sum("is full 5 MiB are free" in text for text in said) == 2
    assert sum("is not writable" in text for text in said) == 1


def run(folder: Path, bundle: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the command with ``folder`` first on Python's path."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "rsedge", "doctor", "--model", str(bundle), *options]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def crashing(folder: Path, name: str, text: str = CRASH) -> Path:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(text)
    return folder


def state_of(facts: dict[str, Any], name: str) -> tuple[str, str | None]:
    return next((lib["state"], lib["detail"]) for lib in facts["libraries"] if lib["name"] == name)


@pytest.mark.slow
def test_an_extra_that_crashes_at_import_is_named_and_the_rest_is_examined(
    tmp_path: Path, bundle: Path
) -> None:
    done = run(crashing(tmp_path, "openvino"), bundle, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    state, detail = state_of(facts, "openvino")
    assert (state, "SIGABRT" in str(detail)) == ("failed", True)
    assert [f["what"] for f in facts["wrong"] if "openvino" in f["what"]]
    assert facts["can_segment"]
    assert [w["device"] for w in facts["ways"] if w["runs"]] == ["cpu"]
    assert state_of(facts, "onnxruntime")[0] == "ok"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["numpy", "rasterio", "onnxruntime"])
def test_without_a_library_that_it_needs_rsedge_cannot_segment(
    tmp_path: Path, bundle: Path, name: str
) -> None:
    done = run(crashing(tmp_path, name), bundle)
    assert done.returncode == 1, done.stdout
    assert "SIGABRT" in done.stderr
    assert "cannot segment here" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert f"pip install --force-reinstall --no-cache-dir {name}" in done.stdout
    if name != "numpy":  # the others need it
        assert "numpy" in done.stdout


@pytest.mark.slow
def test_plain_words(tmp_path: Path, bundle: Path) -> None:
    done = run(tmp_path, bundle)
    assert done.returncode == 0, done.stderr
    for text in (
        "On this machine",
        "not measured: `rsedge verify`",
        "Missing for more",
        "Wrong",
        "can segment here",
    ):
        assert text in done.stdout
    assert run(tmp_path, tmp_path / "none.rsedge").returncode == 1


def test_a_probe_that_hangs_raises_or_ends_is_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (
        ("hangs", "import time\ntime.sleep(60)\n"),
        ("raises", "raise RuntimeError('libx.so\\nis missing')\n"),
        ("ends", "import os, sys\nsys.stderr.write('no CPU')\nsys.stderr.flush()\nos._exit(3)\n"),
        ("talks", "print('{}')\n__version__ = '1'\n"),
    ):
        crashing(tmp_path, name, text)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert ask("library", "hangs", limit_s=1.5).failed == "does not answer within 1.5 s"
    assert ask("library", "raises").failed == "libx.so is missing"
    assert ask("library", "ends").failed == "ends the process with exit code 3; it last said: no CPU"
    assert ask("library", "talks").facts == {"version": "1"}


def test_a_failed_backend_points_to_the_doctor(call_rsedge: Call, bundle: Path, tmp_path: Path) -> None:
    command = ("infer", tmp_path / "r.tif", "--out", tmp_path / "m.tif", "--model", bundle)
    code, _, complaint = call_rsedge(*command, "--device", "cuda")
    assert (code, "`rsedge doctor`" in complaint) == (1, True), complaint
    code, _, complaint = call_rsedge(*command)  # no raster: nothing that a doctor mends
    assert (code, "doctor" in complaint) == (2, False)


def test_speeds_of_another_version_are_not_this_ones() -> None:
    measured = Measured(
        "int8", "openvino", "OpenVINO CPU", "2025.1", 12.5, 512, 0.9812, "2026-01-02T03:04:05"
    )
    way = Way("openvino", True, "OpenVINO CPU", "2025.1")
    assert _speed([measured], way) == "int8 12.5 ms per 512 px tile, 98.12% as fp32 (2026-01-02)"
    later = _speed([measured], replace(way, version="2026.4"))
    assert later == "measured with version 2025.1, 2026.4 is installed: `rsedge verify` again"
    assert _speed([measured], replace(way, device="cpu")) == "not measured: `rsedge verify`"
