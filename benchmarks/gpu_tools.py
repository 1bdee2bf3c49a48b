"""Tools shared by the parts of gpu.py: steps that may fail, rsedge as a process, GPU memory in use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streaming_run import DiedError

from rsedge.errors import RsedgeError

Facts = dict[str, Any]
MIB = 2**20
LOOK_MS = 50  # between two readings of the GPU's memory
LOG_CHARS = 300


def attempt(what: str, call: Callable[..., Facts], *args: Any) -> Facts:
    """Return the facts of ``call(*args)`` named ``what``, or its error, so that the next steps still run."""
    try:
        return {"what": what, **call(*args)}
    except Exception as error:
        said = str(error).strip() or "it said nothing"
        kind = "" if isinstance(error, RsedgeError) else f"{type(error).__name__}: "
        return {"what": what, "failed": f"{kind}{said}"[:LOG_CHARS]}


def rsedge(*words: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Facts:
    """Return a command's JSON, even if it found a fault, and its seconds including the start of Python.

    Raises DiedError with the last line of its errors if there is no JSON.
    """
    begin = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-m", "rsedge", *map(str, words)],
        capture_output=True, text=True, check=False, cwd=cwd, env={**os.environ, **(env or {})},
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    said = process.stdout.strip().splitlines()
    if not said or not said[-1].startswith("{"):
        last = process.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise DiedError(f"rsedge {words[0]}", f"ended with {process.returncode}: {last[0]}")
    return {**json.loads(said[-1]), "process_s": seconds}


@dataclass
class Used:
    """GPU memory in use, bytes: before a block and its maximum during the block; None without a GPU."""

    before: int | None = None
    peak: int | None = None

    @property
    def own(self) -> int | None:
        """Return the most that the block added."""
        return None if self.before is None or self.peak is None else self.peak - self.before


@contextmanager
def gpu_memory(device: str) -> Iterator[Used]:
    """Watch the first GPU's memory by nvidia-smi, which also counts other programs."""
    used, tool = Used(), shutil.which("nvidia-smi")
    if device == "cpu" or tool is None:
        yield used
        return
    query = [tool, "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    used.before = _peak(subprocess.run(query, capture_output=True, text=True, check=False).stdout)
    with subprocess.Popen([*query, f"--loop-ms={LOOK_MS}"], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield used
        finally:
            process.terminate()
            used.peak = _peak(process.communicate()[0])


def _peak(text: str) -> int | None:
    found = [int(line) for line in text.splitlines() if line.strip().isdigit()]
    return max(found) * MIB if found else None


@dataclass(frozen=True)
class Rsedge:
    """The command line on one device, with a folder for results."""

    device: str
    work: Path

    def infer(
        self, raster: Path, model: Path, precision: str, device: str, env: Mapping[str, str] | None = None
    ) -> Facts:
        """Segment one raster into a mask in ``work``, and return times and memory."""
        mask = self.mask(raster, precision, device)
        words: Sequence[str | Path] = (
            "infer", raster, "--out", mask, "--model", model, "--precision", precision, "--device", device,
            "--overwrite", "--json", "--quiet",
        )  # fmt: skip
        with gpu_memory(device) as used:
            found = rsedge(*words, env=env)
        kept = ("provider", "precision", "mpx_per_s", "seconds", "windows", "peak_rss_bytes")
        return {
            **{key: found[key] for key in kept},
            "process_s": found["process_s"],
            "gpu_bytes": used.own,
        }

    def mask(self, raster: Path, precision: str, device: str) -> Path:
        """Return the path of the mask that ``infer`` writes."""
        return self.work / f"{raster.stem}-{precision}-{device}.tif"
