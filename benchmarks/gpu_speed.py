"""Table 4's networks in torch, for gpu.py: all open at once, each in its own process, and timed alone, in turns.

    python benchmarks/gpu_speed.py '{"network": "efficientnet_b0", "way": "eager", "dtype": "fp32", ...}'

The process opens its network, reports that it is ready, and measures whenever it reads a line. torch.compile thus
works on all networks at the same time, and nothing else runs while one is timed.
"""

from __future__ import annotations

import json
import math
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from streaming_tables import Spread, ratios

Facts = dict[str, Any]
HERE = Path(__file__)
ANSWER_S = 60.0  # limit for timing a network; far more than needed
GRACE_S = 5.0


def eager(how: Facts) -> Iterator[Facts]:
    """Measure Table 4 in plain torch."""
    return _speeds("eager", how["networks"], how["dtypes"], how)


def compiled(how: Facts) -> Iterator[Facts]:
    """Measure Table 4 after torch.compile."""
    return _speeds("compile", how["compile_networks"], how["compile_dtypes"], how)


def _speeds(way: str, networks: list[str], dtypes: list[str], how: Facts) -> Iterator[Facts]:
    from rsedge_train.nets.authors import TABLE_4  # noqa: PLC0415 - loads torch, which a network's process does itself

    named = ("batch", "tile", "warmup", "seconds", "device", "rounds")
    return speeds(
        way, networks=networks, dtypes=dtypes, printed_fps={name: row.fps for name, row in TABLE_4.items()},
        threads=how["threads"], tf32=False, ready_s=how["limit_s"] * 0.8, **{key: how[key] for key in named},
    )  # fmt: skip


def speeds(
    way: str,
    networks: Sequence[str],
    dtypes: Sequence[str],
    rounds: int,
    ready_s: float,
    printed_fps: Mapping[str, float],
    **how: Any,
) -> Iterator[Facts]:
    """Yield FPS of each network in each dtype after every round; the first network is the teacher.

    Networks that are not ready after ``ready_s`` are ended and reported.
    """
    with ExitStack() as stack:
        every = {
            (network, dtype): stack.enter_context(Runner(network=network, way=way, dtype=dtype, **how))
            for dtype in dtypes
            for network in networks
        }
        end = time.monotonic() + ready_s
        for (network, dtype), runner in every.items():
            if (why := runner.wait_ready(max(0.0, end - time.monotonic()))) is not None:
                runner.end()
                yield {"what": f"{way} {dtype} {network}", "failed": why}
        ready = {key: runner for key, runner in every.items() if runner.ready}
        walls: dict[tuple[str, str], list[float]] = {key: [] for key in ready}
        keys = list(ready)
        for number in range(rounds if keys else 0):
            first = number % len(keys)
            for key in keys[first:] + keys[:first]:
                walls[key].append(ready[key].measure() if ready[key].ready else math.nan)
            for (network, dtype), own in walls.items():
                if not ready[network, dtype].ready:
                    yield {"what": f"{way} {dtype} {network}", "failed": "it failed while being timed"}
                    continue
                teacher = walls.get((networks[0], dtype))
                if teacher is not None and not np.isfinite(teacher).all():
                    teacher = None
                yield {
                    "what": f"{way} {dtype} {network}",
                    **_row(own, teacher, how["batch"]),
                    "paper_x_teacher": _over(printed_fps, network, networks[0]),
                    **ready[network, dtype].facts,
                }


def _row(own: Sequence[float], teacher: Sequence[float] | None, batch: int) -> Facts:
    fps = Spread.of([batch / wall for wall in own])
    return {
        "rounds": len(own),
        "ms_a_batch": 1e3 * median(own),
        "fps": vars(fps),
        "x_teacher": None if teacher is None else vars(ratios(teacher, own)),
    }


def _over(fps: Mapping[str, float], network: str, teacher: str) -> float | None:
    return fps[network] / fps[teacher] if network in fps and teacher in fps else None


class Runner:
    """Process of one network; a context manager that ends the process."""

    def __init__(self, **how: Any) -> None:
        self.ready, self.facts = False, Facts()
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, str(HERE), json.dumps(how)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True,
        )  # fmt: skip
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                self._lines.put(line)
        self._lines.put(None)

    def wait_ready(self, seconds: float) -> str | None:
        """Return why the network does not run, or None if it does."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            return "it was not ready in time"
        if line is None:
            return self._last_words()
        self.ready, self.facts = True, json.loads(line)
        return None

    def measure(self) -> float:
        """Return the median seconds of a forward pass; NaN, and no longer ready, if the process fails."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        try:
            line = self._lines.get(timeout=ANSWER_S)
        except queue.Empty:
            line = None
        if line is None:
            self.end()
            self.ready = False
            return math.nan
        found = json.loads(line)
        self.facts |= {key: found[key] for key in ("device_peak_bytes",)}
        return float(found["wall_s"])

    def _last_words(self) -> str:
        self._process.wait()
        self._said.seek(0)
        lines = self._said.read().strip().splitlines() or ["it said nothing"]
        return lines[-1][:300]

    def end(self) -> None:
        """Stop the process if it is still running."""
        self._process.kill()
        self._process.wait(GRACE_S)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def _run() -> None:
    """Open one network, then measure one turn per line."""
    import torch  # noqa: PLC0415 - the coordinator needs none of it
    from table4_tables import passes  # noqa: PLC0415
    from table4_worker import open_network  # noqa: PLC0415

    how = json.loads(sys.argv[1])
    seconds = how.pop("seconds")
    begin = time.perf_counter()
    net = open_network(**how)
    print(json.dumps({"first_s": net.first_s, "open_s": time.perf_counter() - begin}), flush=True)
    for _ in sys.stdin:
        with torch.inference_mode():
            wall_s = median(passes(net.one, seconds))
        print(json.dumps({"wall_s": wall_s, "device_peak_bytes": net.device_peak_bytes()}), flush=True)


if __name__ == "__main__":
    _run()
