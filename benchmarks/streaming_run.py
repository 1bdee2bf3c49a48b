"""Starting of streaming.py's contenders: one process after the other, in turns, also timed from outside."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from streaming_tables import Row

from rsedge.errors import OutputError, RsedgeError

HERE = Path(__file__).parent
Facts = dict[str, Any]
Runs = dict[str, dict[str, list[float]]]  # contender, quantity, rounds
BYTES_A_PIXEL = 2.5  # of a sample raster in deflate (2.0) and a mask


class DiedError(RsedgeError):
    """A contender that did not finish; ``said``: its exit and last words."""

    def __init__(self, who: str, said: str) -> None:
        super().__init__(f"{who} {said}")
        self.said = said


def run_command(
    command: Sequence[str | Path], kill_after_s: float | None = None, env: Mapping[str, str] | None = None
) -> tuple[Facts, str]:
    """Run to the end, or to SIGKILL after ``kill_after_s``: seconds, CPU seconds and peak memory; standard output.

    Raises DiedError if it ends with an unexpected exit code.
    """
    words = [str(word) for word in command]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begin = time.perf_counter()
        process = subprocess.Popen(words, stdout=out, stderr=err, env={**os.environ, **(env or {})})
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            process.send_signal(signal.SIGKILL)
        _, status, usage = os.wait4(process.pid, 0)
        process_s = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        printed, complaint = out.read().decode(), err.read().decode()
    expected = 0 if kill_after_s is None else -signal.SIGKILL
    if process.returncode != expected:
        last = complaint.strip().splitlines()[-1:] or ["it said nothing"]
        raise DiedError(" ".join(words[:3]), f"ended with {process.returncode}, not {expected}: {last[0]}")
    facts = {
        "process_s": process_s,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_rss_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }
    return facts, printed


def run_script(
    script: str, name: str, python: Path | None = None, env: Mapping[str, str] | None = None, **args: Any
) -> Facts:
    """Run one contender of a streaming script in this folder; see ``run_file``."""
    return run_file(HERE / f"streaming_{script}.py", name, python, env, **args)


def run_file(
    file: Path, name: str, python: Path | None = None, env: Mapping[str, str] | None = None, **args: Any
) -> Facts:
    """Run one contender of a script; return its own facts and those measured from outside."""
    words = [python or sys.executable, file, name, json.dumps(args)]
    outside, printed = run_command(words, env=env)
    inside = json.loads(printed.strip().splitlines()[-1])
    if inside["peak_rss_bytes"] is None:
        del inside["peak_rss_bytes"]
    return {**outside, **inside}


def take_turns(contenders: Mapping[str, Callable[[], Facts]], rounds: int, *rasters: Path) -> Runs:
    """Run all contenders once per round, starting each round with another, with the rasters in the page cache."""
    runs: Runs = {name: {} for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        for raster in rasters:
            warm(raster)
        first = number % len(names)
        for name in names[first:] + names[:first]:
            facts = contenders[name]()
            print(
                f"round {number + 1}, {name}: {facts.get('wall_s', facts['process_s']):.2f} s",
                file=sys.stderr,
            )
            for key, value in facts.items():
                if isinstance(value, int | float):
                    runs[name].setdefault(key, []).append(value)
    return runs


def tolerated(
    contenders: Mapping[str, Callable[[], Facts]], died: dict[str, str]
) -> dict[str, Callable[[], Facts]]:
    """Wrap contenders for ``take_turns``: one that dies is noted in ``died`` and takes no further turn."""

    def turn(name: str) -> Facts:
        if name not in died:
            try:
                return contenders[name]()
            except DiedError as error:
                died[name] = error.said
        return {"process_s": math.nan}

    return {name: partial(turn, name) for name in contenders}


def warm(raster: Path) -> None:
    """Read the file once, so that disk speed does not matter."""
    with raster.open("rb") as file:
        while file.read(1 << 24):
            pass


@dataclass(frozen=True)
class Outcome:
    """Results of one part: figures with bars, tables for people, and all facts for the JSON."""

    rows: list[Row] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: Facts = field(default_factory=dict)

    def to_dict(self) -> Facts:
        """Return plain JSON values."""
        return {"bars": [r.to_dict() for r in self.rows], "notes": self.notes, **self.facts}


@dataclass(frozen=True)
class Bench:
    """Folder of the parts and number of their measurements."""

    work: Path
    rounds: int
    size: int | None
    geodeep_python: Path | None

    @cached_property
    def conditions(self) -> Facts:
        """Return the conditions before the first measurement."""
        return run_script("own", "conditions")

    @cached_property
    def models(self) -> Facts:
        """Return paths of the 1x1-convolution models."""
        return run_script("inputs", "models", folder=str(self.work))

    @cached_property
    def geodeep(self) -> Path | None:
        """Return the interpreter with geodeep, if any."""
        path = self.geodeep_python
        return path if path is not None and path.exists() else None

    def versions(self) -> Facts:
        """Return versions of our libraries and of those in geodeep's interpreter."""
        own = run_script("peers", "versions")
        return {
            "own": own,
            "geodeep": self.geodeep and run_script("peers", "versions", self.geodeep, geodeep=True),
        }

    def raster(self, width: int, height: int) -> Path:
        """Return a sample raster of that size, in the page cache."""
        path = self.work / f"{width}x{height}.tif"
        wanted = BYTES_A_PIXEL * width * height
        if not path.exists() and (free := shutil.disk_usage(self.work).free) < wanted:
            raise OutputError(
                f"{path} and its masks need {wanted / 1e9:.1f} GB, but {self.work} has {free / 1e9:.1f} GB free. Name "
                "a larger folder with --work, or a smaller --size"
            )
        run_script("inputs", "raster", out=str(path), width=width, height=height)
        warm(path)
        return path

    def segment(self, raster: Path, model: str | None, format: str = "gtiff") -> Facts:
        """Run rsedge once; the mask is ``mask_of``."""
        out = str(self.mask_of(raster, format if model else "b0"))
        return run_script("own", "segment", raster=str(raster), out=out, model=model, format=format)

    def mask_of(self, raster: Path, contender: str) -> Path:
        """Return the path of a contender's mask."""
        return self.work / f"{raster.stem}-{contender}.tif"

    def run_geodeep(self, raster: Path) -> Facts:
        """Run geodeep once. Raises DiedError if geodeep dies, e.g. out of memory."""
        out = str(self.mask_of(raster, "geodeep"))
        return run_script(
            "peers", "geodeep", self.geodeep, raster=str(raster), out=out, model=self.models["geodeep"]
        )
