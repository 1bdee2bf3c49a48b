"""Nobody is told anything: what onnxruntime does by itself when it is imported."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rsedge.backends.ort_module import TELEMETRY_OFF, import_onnxruntime
from toys import read

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = ("runtime", "train", "export", "benchmarks")
# Runs where there is nothing of rsedge, and says so to onnxruntime itself.
OWN = {"benchmarks/streaming_peers.py"}


def importers(path: Path) -> bool:
    """Whether a module names onnxruntime in an import, at its top or in a function, or as text to import_module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        named: list[str] = []
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            named = [node.module or ""]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in {
            "import_module",
            "__import__",
        }:
            named = [str(getattr(a, "value", "")) for a in node.args]
        if any(name.split(".")[0] == "onnxruntime" for name in named):
            return True
    return False


def test_one_function_imports_onnxruntime() -> None:
    code = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    if not (ROOT / "benchmarks").is_dir():
        pytest.skip("not a clone")
    found = {path.relative_to(ROOT).as_posix() for path in code if importers(path)}
    assert found == {"runtime/rsedge/backends/ort_module.py", *OWN}
    for name in OWN:
        assert f'os.environ.setdefault("{TELEMETRY_OFF}", "1")' in (ROOT / name).read_text(encoding="utf-8")


def test_images_and_unit_say_so_too() -> None:
    if not (ROOT / "docker").is_dir():
        pytest.skip("not a clone")
    files = [*(ROOT / "docker").glob("Dockerfile*"), ROOT / "docker" / "rsedge-watch.service"]
    assert len(files) == 5
    for path in files:
        assert re.search(rf"^(ENV|Environment=).*{TELEMETRY_OFF}=1", path.read_text(), re.MULTILINE), path


def test_who_wants_telemetry_can_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TELEMETRY_OFF, "0")
    import_onnxruntime()
    assert os.environ[TELEMETRY_OFF] == "0"
    monkeypatch.delenv(TELEMETRY_OFF)
    import_onnxruntime()
    assert os.environ[TELEMETRY_OFF] == "1"


class Traced:
    """Runs ``python -m rsedge ...`` in a home of its own, and under strace where there is one."""

    def __init__(self, folder: Path) -> None:
        self.home, self.log = folder / "home", folder / "calls"
        self.home.mkdir()
        self._env = {k: v for k, v in os.environ.items() if k not in {TELEMETRY_OFF, "XDG_CACHE_HOME"}}
        self._env |= {"HOME": str(self.home), "TMPDIR": str(folder)}
        probe = ["strace", "-f", "-e", "trace=network", "-o", os.devnull, "true"]
        self.sees_sockets = bool(shutil.which("strace")) and subprocess.run(
            probe, capture_output=True, check=False
        ).returncode == 0  # fmt: skip

    def start(self, *args: object) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "rsedge", *map(str, args)]
        if self.sees_sockets:
            words = ["strace", "-f", "-e", "trace=network", "-o", str(self.log), *words]
        return subprocess.Popen(
            words,
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def check(self) -> None:
        """Nothing in the home but rsedge's own cache; no socket of the internet's."""
        left = [p.relative_to(self.home).as_posix() for p in self.home.rglob("*") if p.is_file()]
        assert not [name for name in left if not name.startswith(".cache/rsedge/")]
        if self.sees_sockets:
            calls = self.log.read_text(errors="replace").splitlines()
            assert not [call for call in calls if re.search(r"AF_INET|AF_PACKET|getaddrinfo", call)]


@pytest.fixture
def traced(tmp_path: Path) -> Traced:
    return Traced(tmp_path)


def test_infer_tells_nobody(traced: Traced, bundle: Path, write_raster, noise, tmp_path: Path) -> None:
    raster = write_raster(noise(80, 80))
    process = traced.start(
        "infer", raster, "--out", tmp_path / "mask.tif", "--model", bundle, "--device", "cpu"
    )
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert read(tmp_path / "mask.tif").shape == (80, 80)
    traced.check()


def test_watch_tells_nobody_while_it_waits(
    traced: Traced, bundle: Path, write_raster, noise, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    write_raster(noise(80, 80)).rename(tmp_path / "in" / "a.tif")
    out = tmp_path / "out"
    process = traced.start(
        "watch", tmp_path / "in", "--out-dir", out, "--model", bundle, "--device", "cpu", "--settle", 0, "--every", 0.2
    )  # fmt: skip
    try:
        end = time.monotonic() + 120
        while not (out / "a.tif").exists() and time.monotonic() < end and process.poll() is None:
            time.sleep(0.1)
        time.sleep(3)  # what sends does so by and by
    finally:
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert np.isin(read(out / "a.tif"), (0, 1, 2)).all(), said
    traced.check()
