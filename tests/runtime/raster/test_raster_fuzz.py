"""Damaged rasters and side files: refused with an error, or the mask that rasterio and numpy give.

Seeded. The long run: ``pytest -m fuzz tests/runtime/raster/test_raster_fuzz.py``.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import raster_worker
import rsedge

LIMIT_S, MOST_FAULTS = 60.0, 100
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is opened is watched by inotify")


class Worker:
    """A process that segments, which may crash or hang."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._heard = b""
        self._errors = (folder / "stderr.txt").open("w+")
        tests = Path(raster_worker.__file__)
        path = os.pathsep.join([str(tests.parent), str(Path(rsedge.__file__).parents[1])])
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-W", "ignore", str(tests), str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip

    def ask(self, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Send a seed; return its input and its outcome."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the answer tells
            self._process.stdin.write(b"%d\n" % seed)
            self._process.stdin.flush()
        begun = self._line()
        return begun, self._line() if "end" not in begun else begun

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while b"\n" not in self._heard:
            if not select.select([self._process.stdout], [], [], LIMIT_S)[0]:
                return {"end": "fault", "fault": f"nothing heard for {LIMIT_S} s"}
            more = os.read(self._process.stdout.fileno(), 65536)
            if not more:
                self._process.wait()
                self._errors.seek(0)
                return {
                    "end": "fault",
                    "fault": f"died, {self._process.returncode}: {self._errors.read()[-2500:]}",
                }
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return dict(json.loads(line))

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()


def run(folder: Path, seeds: Iterable[int]) -> Counter[str]:
    """Count the outcomes. Fails with the commands that reproduce each fault."""
    ends, faults, workers = Counter[str](), list[str](), 1
    worker = Worker(folder / "0")
    try:
        for seed in seeds:
            begun, end = worker.ask(seed)
            ends[end["end"]] += 1
            if end["end"] in {"chance", "long"}:
                sys.stdout.write(f"{end['end']} {begun}\n")
            if end["end"] == "fault":
                faults.append(f"seed {seed}, {begun.get('kind')} ({begun.get('path')}): {end['fault']}")
                sys.stdout.write(f"{faults[-1]}\n")
                assert len(faults) < MOST_FAULTS, "and so on"
                if not worker.lives or "heard" in end["fault"]:
                    worker.end()
                    worker, workers = Worker(folder / str(workers)), workers + 1
    finally:
        worker.end()
    sys.stdout.write(f"{dict(ends)}\n")
    assert not faults, (
        f"{len(faults)} faults; `echo SEED | python {raster_worker.__file__} NEW_FOLDER`:\n"
        + "\n".join(faults)
    )
    return ends


def test_some_odd_rasters(tmp_path: Path) -> None:
    ends = run(tmp_path, range(60))
    assert ends["mask"] > 10
    assert ends["refused"] > 10


@pytest.mark.fuzz
def test_many_odd_rasters(tmp_path: Path) -> None:
    ends = run(tmp_path, range(1000, 6000))
    assert sum(ends.values()) == 5000
    assert ends["mask"] > 1000
    assert ends["refused"] > 1000
    assert ends["long"] + ends["chance"] < 500
