"""The training loop: AdamW, warm-up and cosine, an average of the weights, checkpoints that survive a kill.

The schedule follows progress in 0..1, which is steps done over steps asked for, or time passed over
time allowed; so a run of fixed length in minutes ends with the learning rate at its floor.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import Tensor, nn

from rsedge.files import whole_or_nothing
from rsedge_train.data import normalise
from rsedge_train.precision import keep_depthwise_float32

log = logging.getLogger(__name__)

StepLoss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, normalised images (N, 3, H, W), labels (N, H, W)) -> scalar loss with its graph."""


class TrainingDivergedError(RuntimeError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class FitConfig:
    """How long and how to train. Exactly one of ``minutes`` and ``steps`` is set."""

    minutes: float | None = None
    steps: int | None = None
    lr: float = 1.5e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    clip: float = 1.0
    ema_decay: float = 0.998
    bf16: bool = True
    log_every_s: float = 30.0
    checkpoint_every_s: float = 180.0

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError("set either minutes or steps, not both")

    def progress(self, step: int, elapsed_s: float) -> float:
        """How much of the budget is used, in 0..1."""
        used = step / self.steps if self.steps is not None else elapsed_s / (60.0 * (self.minutes or 0.0))
        return min(1.0, used)

    def lr_at(self, progress: float) -> float:
        """Linear from 4 % of ``lr`` during ``warmup``, then half a cosine down to 1 % of it."""
        if progress < self.warmup:
            return self.lr * (0.04 + 0.96 * progress / self.warmup)
        rest = (progress - self.warmup) / (1.0 - self.warmup)
        return self.lr * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * rest)))


@dataclass(frozen=True)
class FitResult:
    """What a run did; ``wait_share`` is the part of the time spent waiting for data."""

    steps: int
    seconds: float
    seconds_per_step: float
    wait_share: float
    loss: float
    interrupted: bool


class WeightAverage:
    """Exponential moving average of weights and of batch statistics; short memory at first.

    The decay at step n is ``min(decay, (1 + n) / (10 + n))``, so random initial weights fade fast.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.step = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the state of ``model`` into the average."""
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        averaged, current = self.model.state_dict(), model.state_dict()
        names = [name for name, value in current.items() if value.is_floating_point()]
        torch._foreach_lerp_([averaged[n] for n in names], [current[n] for n in names], 1.0 - decay)
        for name in current.keys() - set(names):
            averaged[name].copy_(current[name])


def make_optimizer(model: nn.Module, config: FitConfig) -> torch.optim.AdamW:
    """AdamW; no decay on biases, norms and other vectors, for which zero is no natural target."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr)


def save_checkpoint(path: Path, model: nn.Module, facts: dict[str, Any]) -> None:
    """Write ``path`` (safetensors) and, beside it, ``facts`` as JSON; each appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_or_nothing(path) as partial:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, partial)
        partial.chmod(0o644)  # safetensors makes it private
    write_json(path.with_suffix(".json"), facts)


def write_json(path: Path, facts: dict[str, Any]) -> None:
    """Write JSON so that the file appears whole or not at all."""
    with whole_or_nothing(path) as partial:
        partial.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def fit(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss_of: StepLoss,
    config: FitConfig,
    checkpoint: Path,
    device: str | torch.device = "cpu",
) -> tuple[nn.Module, FitResult]:
    """Train until the budget is used or Ctrl-C; returns the averaged model and what happened.

    ``batches`` yields uint8 images ``(N, 3, H, W)`` and labels ``(N, H, W)`` without end. Every few
    minutes and at the end the averaged weights go to ``checkpoint``. Raises TrainingDivergedError
    when the loss is not finite; the last checkpoint stays.
    """
    device = torch.device(device)
    model.to(device).to(memory_format=torch.channels_last).train()
    optimizer, average = make_optimizer(model, config), WeightAverage(model, config.ema_decay)
    if config.bf16 and device.type == "cpu":
        keep_depthwise_float32(model)
    meter = _Meter(config)
    interrupted = False
    source = iter(batches)
    try:
        with meter:
            while not meter.done:
                for group in optimizer.param_groups:
                    group["lr"] = config.lr_at(meter.progress)
                images, labels = meter.wait_for(source)
                images = normalise(images.to(device)).contiguous(memory_format=torch.channels_last)
                with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
                    loss = loss_of(model, images, labels.to(device))
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise TrainingDivergedError(
                        f"the loss is {value} at step {meter.steps}; lower --lr (now {config.lr:g})"
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(model.parameters(), config.clip)
                optimizer.step()
                average.update(model)
                if meter.stepped(value):
                    save_checkpoint(checkpoint, average.model, _facts(config, meter.result(False)))
    except KeyboardInterrupt:
        log.warning("stopped by Ctrl-C after %d steps; the averaged weights are kept", meter.steps)
        interrupted = True
    result = meter.result(interrupted)
    save_checkpoint(checkpoint, average.model, _facts(config, result))
    return average.model, result


def _facts(config: FitConfig, result: FitResult) -> dict[str, Any]:
    return {"config": asdict(config), "result": asdict(result)}


class _Meter:
    """Counts steps and time, shows them, and says when a checkpoint is due."""

    def __init__(self, config: FitConfig) -> None:
        self.config = config
        self.steps, self.waited, self.loss = 0, 0.0, math.nan
        self.start = self.logged = self.saved = time.monotonic()
        self.live = sys.stderr.isatty()
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=Console(stderr=True), disable=not self.live)
        self.task = self.bar.add_task("training", total=1.0)

    def __enter__(self) -> None:
        self.start = self.logged = self.saved = time.monotonic()
        self.bar.start()

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.start

    @property
    def progress(self) -> float:
        return self.config.progress(self.steps, self.elapsed)

    @property
    def done(self) -> bool:
        return self.progress >= 1.0

    def wait_for(self, source: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        begin = time.monotonic()
        batch = next(source)
        self.waited += time.monotonic() - begin
        return batch

    def stepped(self, loss: float) -> bool:
        """Count one step; True when a checkpoint is due."""
        self.steps += 1
        self.loss = loss if self.steps == 1 else self.loss + 0.05 * (loss - self.loss)
        progress, now = self.progress, time.monotonic()
        rate = self.elapsed / self.steps
        self.bar.update(self.task, completed=progress, description=f"loss {self.loss:.3f}  {rate:.2f} s/step")
        if not self.live and now - self.logged >= self.config.log_every_s:
            self.logged = now
            left = self.elapsed * (1 - progress) / max(progress, 1e-9)
            log.info(
                "step %d  loss %.4f  %.2f s/step  waiting %.1f %%  left %.1f min",
                *(self.steps, self.loss, rate, 100 * self.waited / self.elapsed, left / 60),
            )
        due = now - self.saved >= self.config.checkpoint_every_s
        if due:
            self.saved = now
        return due

    def result(self, interrupted: bool) -> FitResult:
        seconds = self.elapsed
        rate, share = seconds / max(1, self.steps), self.waited / max(seconds, 1e-9)
        return FitResult(self.steps, seconds, rate, share, self.loss, interrupted)
