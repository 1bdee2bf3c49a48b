from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsedge.infer.journal import folder_of
from toys import read

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed")
Write = Callable[..., Path]
Noise = Callable[..., np.ndarray]
# Parts of one row of blocks, so that a small raster has many.
COMMAND = "import rsedge.raster.parts as p; p.PART_PIXELS = 1; from rsedge.cli import main; main()"
# Starts commands as a shell would, but from a process that has imported everything: fifty a minute are not many.
ZYGOTE = """
import json, os, signal, sys, threading, time
import rsedge.raster.parts as parts
parts.PART_PIXELS = 1
from rsedge.cli import main
import onnxruntime, rsedge.infer.segmentation, rsedge.infer.preview, rsedge.backends.ort, PIL.ImageFont
from rsedge.tiling.kernels import compiled
compiled()
STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}

def child(order):
    os.chdir(order["folder"])
    count, lock = 0, threading.Lock()
    def step(*what):
        nonlocal count
        with lock:
            count += 1
            if count == order["kill_at"]:
                os.kill(os.getpid(), signal.SIGKILL)
    def hook(event, args):
        if event in STEPS and order["folder"] in str(args[0]) and ".tif" in str(args[0]) + str(args[1]):
            step(event)
    def wrapped(call):
        def counted(*args):
            step()
            result = call(*args)
            step()
            return result
        return counted
    sys.addaudithook(hook)
    os.write, os.fsync = wrapped(os.write), wrapped(os.fsync)
    sys.argv = ["rsedge", *order["args"]]
    sys.stdin.close()
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1), os.dup2(log, 2)
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    sys.stdout.flush()
    sys.stderr.flush()
    (__import__("pathlib").Path("steps.txt")).write_text(str(count))
    os._exit(code)

print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    pid = os.fork()
    if not pid:
        child(order)
    if order["kill_after_s"] is not None:
        time.sleep(order["kill_after_s"])
        os.kill(pid, signal.SIGKILL)
    print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])), flush=True)
"""
Run = Callable[..., int]


@pytest.fixture(scope="module")
def zygote() -> Iterator[subprocess.Popen[str]]:
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        [sys.executable, "-c", ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def raster(write_raster: Write, noise: Noise) -> Path:
    """Five parts of 400 pixels across, with a hole."""
    pixels = noise(2300, 400)
    pixels[:, 600:900, :250] = 0
    return write_raster(pixels, nodata=0, tiled=True, blockxsize=128, blockysize=128)


@pytest.fixture
def run(zygote: subprocess.Popen[str], tmp_path: Path, raster: Path, bundle: Path) -> Run:
    """Runs ``rsedge infer`` into a folder: exit code, -9 where it was killed at a step or after a time."""

    def infer(folder: str, *more: str, kill_at: int = 0, kill_after_s: float | None = None) -> int:
        where = tmp_path / folder
        where.mkdir(exist_ok=True)
        args = [
            "infer",
            str(raster),
            "--out",
            str(where / "mask.tif"),
            "--model",
            str(bundle),
            "--threads",
            "1",
        ]
        order: dict[str, Any] = {"folder": str(where), "args": [*args, "-q", *more]}
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        zygote.stdin.write(json.dumps({**order, "kill_at": kill_at, "kill_after_s": kill_after_s}) + "\n")
        zygote.stdin.flush()
        return int(json.loads(zygote.stdout.readline()))

    return infer


def made(folder: Path) -> dict[str, str]:
    """Every file that a run left, by hash."""
    assert not [p.name for p in folder.iterdir() if p.is_dir()]
    noted = {"log.txt", "steps.txt"}
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name not in noted
    }


def log(folder: Path) -> str:
    return (folder / "log.txt").read_text()


EVERYTHING = ("--confidence", "--probabilities", "--preview", "preview.png")
NAMES = {"mask.tif", "mask.tif.aux.xml", "mask_confidence.tif", "mask_probabilities.tif", "preview.png"}


@pytest.mark.slow
@pytest.mark.parametrize("format", ["cog", "gtiff"])
def test_killed_at_any_step_and_resumed_it_is_the_same_to_the_byte(
    run: Run, tmp_path: Path, format: str
) -> None:
    """Killed before and after each of the steps that Python takes on the disk: all of the last, some of the rest."""
    options = ("--format", format, *EVERYTHING)
    assert run("whole", *options) == 0, log(tmp_path / "whole")
    whole, steps = made(tmp_path / "whole"), int((tmp_path / "whole" / "steps.txt").read_text())
    assert set(whole) == NAMES
    finishing, stride = (60, 9) if format == "cog" else (12, 4)
    chosen = [*range(2, steps - finishing, 37), *range(steps - finishing, steps + 1, stride)]
    for step in chosen:
        name = f"at{step}"
        assert run(name, *options, kill_at=step) == -signal.SIGKILL, step
        appeared = tmp_path / name / "mask.tif"
        assert not appeared.exists() or sha(appeared) == whole["mask.tif"]
        assert run(name, *options, "--resume") == 0, (step, log(tmp_path / name))
        assert made(tmp_path / name) == whole, step


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_killed_at_any_instant_and_resumed_it_is_the_same_to_the_byte(run: Run, tmp_path: Path) -> None:
    begin = time.monotonic()
    assert run("whole", *EVERYTHING) == 0
    took_s, whole = time.monotonic() - begin, made(tmp_path / "whole")
    random_s, killed = random.Random(7), 0
    for number in range(5):
        name = f"try{number}"
        for _ in range(1 + number % 3):  # up to three kills in a row
            after_s = random_s.uniform(0, took_s)
            code = run(name, *EVERYTHING, "--resume", kill_after_s=after_s)
            assert code in {0, -signal.SIGKILL}, log(tmp_path / name)
            killed += code != 0
        assert run(name, *EVERYTHING, "--resume") == 0, log(tmp_path / name)
        assert made(tmp_path / name) == whole
    assert killed > 2


def test_what_is_finished_is_not_done_again(run: Run, tmp_path: Path) -> None:
    assert run("whole") == 0
    steps = int((tmp_path / "whole" / "steps.txt").read_text())
    assert run("here", kill_at=steps - 8) == -signal.SIGKILL
    assert run("here") == 2
    assert "Mpx done" in log(tmp_path / "here")
    assert "--resume" in log(tmp_path / "here")
    lines = (folder_of(tmp_path / "here" / "mask.tif") / "journal.jsonl").read_text().split()
    assert lines
    before = {
        p.name: p.stat().st_mtime_ns for p in folder_of(tmp_path / "here" / "mask.tif").glob("*-*.mask")
    }
    assert len(before) == 5
    assert run("here", "--overlap", "0.5", "--resume") == 2
    assert "overlap was 0.25, is now 0.5" in log(tmp_path / "here")
    # Refused, nothing is touched.
    after = {p.name: p.stat().st_mtime_ns for p in folder_of(tmp_path / "here" / "mask.tif").glob("*-*.mask")}
    assert after == before
    assert run("here", "--resume", "--json") == 0
    facts = json.loads(log(tmp_path / "here").splitlines()[-1])
    assert facts["resumed_pixels"] == 2300 * 400
    assert facts["windows"] == 0
    assert made(tmp_path / "here") == made(tmp_path / "whole")


def test_a_changed_raster_is_not_gone_on_with(run: Run, raster: Path, tmp_path: Path) -> None:
    assert run("whole") == 0
    steps = int((tmp_path / "whole" / "steps.txt").read_text())
    assert run("here", kill_at=steps - 8) == -signal.SIGKILL
    facts = raster.stat()
    os.utime(raster, ns=(facts.st_atime_ns, facts.st_mtime_ns + 10**9))
    assert run("here", "--resume") == 2
    assert "the raster, or a file that it is made of, has changed" in log(tmp_path / "here")
    assert run("here", "--overwrite") == 0
    np.testing.assert_array_equal(read(tmp_path / "here" / "mask.tif"), read(tmp_path / "whole" / "mask.tif"))


SLOW_MODEL = """
import time, rsedge.backends.ort as ort
infer = ort.OrtBackend.stream
def stream(self, batches):
    for answer in infer(self, batches):
        time.sleep(0.02)
        yield answer
ort.OrtBackend.stream = stream
"""
# Seconds inside one call of a library, which no signal handler of Python's gets into.
SLOW_COPY = """
import hashlib, rasterio.shutil
def copy(*args, **more):
    if more.get("driver") == "COG":
        print("COPYING", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"a", b"b", 15_000_000)
rasterio.shutil.copy, real = (lambda *a, **m: (copy(*a, **m), real(*a, **m))), rasterio.shutil.copy
"""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("during", ["model", "copy"])
def test_ctrl_c_stops_soon_and_says_how_to_go_on(
    run: Run, tmp_path: Path, raster: Path, bundle: Path, during: str, stop: signal.Signals
) -> None:
    out = tmp_path / "here" / "mask.tif"
    out.parent.mkdir()
    slow = SLOW_MODEL if during == "model" else SLOW_COPY
    args = ["infer", str(raster), "--out", str(out), "--model", str(bundle), "--threads", "1", "-q"]
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", slow + COMMAND, *args],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            if during == "copy":
                assert process.stdout.readline() == "COPYING\n"
            else:
                while not list(folder_of(out).glob("*-*.mask")):
                    assert process.poll() is None
                    time.sleep(0.02)
            time.sleep(0.2)
            begin = time.monotonic()
            process.send_signal(stop)
            _, message = process.communicate(timeout=20)
            took_s = time.monotonic() - begin
        finally:
            process.kill()
    assert process.returncode == 130
    assert took_s < 2.5  # two, and a busy machine
    assert "interrupted" in message
    assert "--resume" in message
    assert "Traceback" not in message
    assert not out.exists()
    assert run("here", "--resume") == 0, log(tmp_path / "here")
    assert run("whole") == 0
    assert made(tmp_path / "here") == made(tmp_path / "whole")
