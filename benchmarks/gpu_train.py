"""Training on the GPU, for gpu.py: images a second, waiting for data, mixed precision, memory, and resuming.

Runs ``rsedge distill`` as users do. Steady figures leave out the first rows of the log, in which kernels
are chosen and workers start.
"""

from __future__ import annotations

import csv
import io
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from gpu_tools import Facts, attempt, rsedge
from safetensors.numpy import load_file

from rsedge_train.fit.state import LAST_NAME
from rsedge_train.look.logbook import LOG_NAME

POLL_S = 0.05
PATIENCE_S = 60.0


def training(how: Facts) -> Iterator[Facts]:
    """Run two comparisons untimed in parallel, then the timed runs in this process."""
    runs = Runs(how)
    first, *others = runs.precisions
    yield attempt("sample scenes", runs.draw)
    with ThreadPoolExecutor() as pool:
        again = pool.submit(attempt, "the same run again", runs.run, "again", first)
        stopped = pool.submit(attempt, "stopped and resumed", runs.stop_and_resume, "resumed", first)
        import torch  # noqa: F401, PLC0415 - takes seconds
    yield attempt("teacher's folder", runs.make_teacher)
    yield attempt(f"alone {first}", runs.measured, f"alone-{first}", first)
    for name, done in (("again", again.result()), ("resumed", stopped.result())):
        kept: Facts = {key: done[key] for key in ("failed", "exit_code", "said") if key in done}
        compared = kept if "failed" in kept else attempt("", runs.apart, name, first)
        yield {**kept, **compared, "what": done["what"]}
    yield attempt(f"distilled {first}", runs.measured, "distilled", first, True)
    for precision in others:
        yield attempt(f"alone {precision}", runs.measured, f"alone-{precision}", precision)
    large = how["batch_large"]
    yield attempt(f"alone {first}, batch {large}", runs.measured, "large", first, False, large)


class Runs:
    """Run folders under one folder, all of one network, seed and length."""

    def __init__(self, how: Facts) -> None:
        self.how, self.work = how, Path(how["work"]) / "train"
        self.work.mkdir(parents=True, exist_ok=True)
        self.precisions: list[str] = how["precisions"]

    def draw(self) -> Facts:
        """Draw the scenes if no data is given, so that every run finds them."""
        if self.how["data"]:
            return {"data": self.how["data"]}
        from rsedge_train.data.samples import sample_dataset  # noqa: PLC0415 - loads torch

        begin = time.perf_counter()
        sample_dataset(self.work / "samples", **(self.how["samples"] or {}))
        return {"data": "sample scenes", "seconds": time.perf_counter() - begin}

    def measured(self, name: str, precision: str, teacher: bool = False, batch: int | None = None) -> Facts:
        """Run once and return the run's times and memory."""
        import torch  # noqa: PLC0415

        on_gpu = self.how["device"] == "cuda"
        if on_gpu:
            torch.cuda.init()  # type: ignore[no-untyped-call]  # else there are no statistics yet
            torch.cuda.reset_peak_memory_stats()
        found = self._here(*self.words(name, precision, teacher, batch))
        rows = self._log(name)
        return {
            "batch": batch or self.how["train_batch"],
            "crop": self.how["crop"],
            "steps": found["progress"]["steps"],
            "seconds_per_step": found["progress"]["seconds_per_step"],
            "wait_share": found["progress"]["wait_share"],
            **_steady(rows, batch or self.how["train_batch"]),
            "loss": [row["loss"] for row in rows],
            "finite": all(math.isfinite(row["loss"]) for row in rows),
            "gpu_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
            "whole_s": found["whole_s"],
        }

    def _here(self, *words: Any) -> Facts:
        """Run the command in this process, which has already loaded torch; return its JSON and its seconds."""
        from rsedge.cli.main import app  # noqa: PLC0415

        said, begin = io.StringIO(), time.perf_counter()
        with redirect_stdout(said), chdir(self.work):
            app([str(word) for word in words], prog_name="rsedge", standalone_mode=False)
        return {
            **json.loads(said.getvalue().strip().splitlines()[-1]),
            "whole_s": time.perf_counter() - begin,
        }

    def run(self, name: str, precision: str) -> Facts:
        """Run the command to its end, as a process."""
        return rsedge(*self.words(name, precision), cwd=self.work)

    def make_teacher(self) -> Facts:
        """Write a run folder of a teacher with random weights, whose steps take as long as with trained ones."""
        import torch  # noqa: PLC0415

        from rsedge_train.fit.state import save_weights  # noqa: PLC0415
        from rsedge_train.nets.registry import build  # noqa: PLC0415
        from rsedge_train.run.folder import Run  # noqa: PLC0415

        begin = time.perf_counter()
        run = Run.read(self.work / "again")
        torch.manual_seed(0)
        net = build(self.how["teacher"], len(run.classes))
        folder = self.work / "teacher"
        folder.mkdir(exist_ok=True)
        save_weights(folder / LAST_NAME, net)
        data = {**run.data, "name": "none"}
        Run("teacher", self.how["teacher"], run.classes, run.bands, run.crop, run.gsd_m, data=data).write(
            folder
        )
        return {"network": self.how["teacher"], "seconds": time.perf_counter() - begin}

    def stop_and_resume(self, name: str, precision: str) -> Facts:
        """Stop a run after the first row of the log, then resume it to the end."""
        words = [sys.executable, "-m", "rsedge", *map(str, self.words(name, precision))]
        log, end = self.work / name / LOG_NAME, time.monotonic() + PATIENCE_S
        with subprocess.Popen(
            words, cwd=self.work, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            while (
                process.poll() is None and time.monotonic() < end and not (log.exists() and self._log(name))
            ):
                time.sleep(POLL_S)
            process.send_signal(signal.SIGTERM)
            said = process.communicate()[1].strip().splitlines()
        rsedge(*self.words(name, precision), "--resume", cwd=self.work)
        return {"exit_code": process.returncode, "said": said[-1][:200] if said else ""}

    def apart(self, name: str, precision: str) -> Facts:
        """Return how far the weights and the last losses of a run differ from the timed run's."""
        first = f"alone-{precision}"
        one, other = (load_file(self.work / run / LAST_NAME) for run in (first, name))
        square = sum(float(np.square(one[key] - other[key], dtype=np.float64).sum()) for key in one)
        whole = sum(float(np.square(one[key], dtype=np.float64).sum()) for key in one)
        losses = [self._log(run)[-1]["loss"] for run in (first, name)]
        return {
            "same_bits": all(np.array_equal(one[key], other[key]) for key in one),
            "weights_apart": math.sqrt(square / whole),  # norm of the difference over the norm
            "worst_weight": max(float(np.abs(one[key] - other[key]).max()) for key in one if one[key].size),
            "last_loss": losses,
        }

    def words(self, name: str, precision: str, teacher: bool = False, batch: int | None = None) -> list[Any]:
        """Return the arguments of ``rsedge``."""
        how = self.how
        learning = ["--teacher", "teacher", "--teacher-weights", "last"] if teacher else ["--alone"]
        data = ["--data", how["data"], "--val", "none"] if how["data"] else []
        return [
            "distill", *learning, *data, "--student", how["student"], "--encoder-weights", "none",
            "--steps", how["steps"], "--crop", how["crop"], "--batch", batch or how["train_batch"],
            "--workers", how["workers"], "--device", how["device"], "--precision", precision,
            "--validate-every", 0, "--out", name, "--json", "--quiet", *["--quick"] * bool(how["samples"]),
        ]  # fmt: skip

    def _log(self, name: str) -> list[dict[str, float]]:
        with (self.work / name / LOG_NAME).open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [
            {key: float(value) for key, value in row.items() if value}
            for row in rows
            if row.get("wait_share")
        ]


def _steady(rows: list[dict[str, float]], batch: int) -> Facts:
    """Return images a second and share of waiting time between the first and the last row of the log."""
    if len(rows) < 2:
        return {}
    (seconds_a, waited_a), (seconds_b, waited_b) = (
        (
            row["step"] * batch / row["images_per_s"],
            row["step"] * batch / row["images_per_s"] * row["wait_share"],
        )
        for row in (rows[0], rows[-1])
    )
    seconds = seconds_b - seconds_a
    return {
        "steady_images_per_s": (rows[-1]["step"] - rows[0]["step"]) * batch / seconds,
        "steady_wait_share": (waited_b - waited_a) / seconds,
    }
