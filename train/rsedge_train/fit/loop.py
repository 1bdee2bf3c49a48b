"""Training loop: AdamW with two learning rates, warm-up and cosine, an average of the weights.

A killed and resumed run gives the weights of an uninterrupted one: batch n, and the dropout of
step n, depend only on the seed and n, and the state holds the rest (``state``).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rsedge.errors import BackendError, InputError, RsedgeError
from rsedge_train.data.crops import Batch
from rsedge_train.data.pixels import normalise
from rsedge_train.fit.average import WeightAverage
from rsedge_train.fit.meter import Meter
from rsedge_train.fit.precision import autocast_dtype, keep_depthwise_float32
from rsedge_train.fit.processes import SINGLE, Processes, StopRequest
from rsedge_train.fit.state import (
    BEST_NAME,
    LAST_NAME,
    STATE_NAME,
    Position,
    load_state,
    save_state,
    save_weights,
)

StepLoss = Callable[[nn.Module, Tensor, Tensor], dict[str, Tensor]]
"""(model, normalised images (N, 3, H, W), labels (N, H, W)) -> scalar losses; backpropagate ``loss``."""


class Batches(Protocol):
    """Source of batches."""

    def between(self, first: int, last: int) -> Iterable[Batch]:
        """Return batches ``first`` to ``last - 1``."""

    def name(self, places: Tensor) -> str:
        """Return scenes and windows of a batch's crops."""


Validate = Callable[[nn.Module, int], Mapping[str, float]]
"""(finished average, steps done) -> ``val_miou``, ``val_oa``."""
Log = Callable[[int, Mapping[str, float]], None]
Finish = Callable[[nn.Module], nn.Module]
"""Averaged model -> network whose weights the run's files hold."""


class TrainingDivergedError(RsedgeError, RuntimeError):
    """The loss or its gradient is not finite."""


@dataclass(frozen=True)
class FitConfig:
    """Length and settings of training."""

    steps: int
    lr: float = 6e-4  # for new modules
    lr_encoder: float = 6e-5  # for a pretrained encoder
    weight_decay: float = 0.01
    warmup: float = 0.05  # share of the steps
    clip: float = 1.0  # largest norm of the gradient
    ema_decay: float = 0.998
    precision: str = "auto"  # auto, fp32, bf16 or fp16
    compile: bool = False
    accumulate: int = 1  # parts of a batch that pass through the network one after another
    seed: int = 42
    validate_every: int = 0  # steps; 0: at the end only
    log_every: int = 20  # steps
    save_every_s: float = 180.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps {self.steps}: too few. Use at least one")
        if self.accumulate < 1:
            raise InputError(f"accumulate {self.accumulate}: too few parts. Use at least one")
        if not (self.lr > 0 and self.lr_encoder > 0 and self.weight_decay >= 0):
            raise InputError(
                f"lr {self.lr:g}, lr_encoder {self.lr_encoder:g}, weight_decay {self.weight_decay:g}: use rates "
                "above 0 and a decay of at least 0"
            )

    def lr_factor(self, step: int) -> float:
        """Return the factor on the learning rate: linear from 4 % in the warm-up, then half a cosine to 1 %."""
        progress = step / self.steps
        if progress < self.warmup:
            return 0.04 + 0.96 * progress / self.warmup
        rest = (progress - self.warmup) / (1.0 - self.warmup)
        return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * rest))


@dataclass(frozen=True)
class FitResult:
    """Outcome of a run; ``wait_share`` is the share of this session's time spent waiting for data."""

    position: Position
    seconds_per_step: float
    wait_share: float
    stopped: bool  # by a signal, before the last step


def make_optimizer(model: nn.Module, config: FitConfig, pretrained_encoder: bool) -> torch.optim.AdamW:
    """Return AdamW with ``lr_encoder`` for the weights of a pretrained encoder and ``lr`` for all else.

    A teacher's adapters are new modules. Biases, norms and other vectors do not decay, because zero is not
    their natural target.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        old = pretrained_encoder and name.startswith("encoder.") and ".adapters." not in name
        key = (config.lr_encoder if old else config.lr, config.weight_decay if parameter.ndim > 1 else 0.0)
        groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [{"params": p, "lr": lr, "base_lr": lr, "weight_decay": decay} for (lr, decay), p in groups.items()]
    )


def fit(
    model: nn.Module,
    source: Batches,
    loss_of: StepLoss,
    config: FitConfig,
    folder: Path,
    *,
    facts: Mapping[str, Any],
    device: torch.device | str = "cpu",
    pretrained_encoder: bool = False,
    resume: bool = False,
    validate: Validate | None = None,
    log: Log | None = None,
    finish: Finish = lambda averaged: averaged,
    processes: Processes = SINGLE,
) -> tuple[nn.Module, FitResult]:
    """Train to the last step or until a signal asks to stop; return the finished average and the outcome.

    The state is saved to ``folder`` at the start, every few minutes, after each validation and at the end;
    the averaged weights after the last step. ``facts`` are what a resumed run must share with
    the original. Only the first of several ``processes``
    writes. Raises TrainingDivergedError naming the batch if the loss or its gradient is not
    finite; the last state is kept.
    """
    trainer = _Trainer(model, config, folder, torch.device(device), pretrained_encoder, processes)
    trainer.facts, trainer.validate, trainer.log, trainer.finish = facts, validate, log, finish
    if resume:
        trainer.resume()
    else:
        trainer.save(0.0)  # a run killed before its first regular save can also be resumed
    meter = Meter(config.steps, trainer.position.step, quiet=not processes.first)
    with meter, StopRequest(enabled=processes.count == 1) as stop:
        batches = iter(source.between(trainer.position.step, config.steps))
        while trainer.position.step < config.steps and not stop.requested():
            try:
                images, labels, places = meter.wait_for(batches)
            except RuntimeError:
                if stop.requested():  # the signal also reached the workers
                    break
                raise
            try:
                losses = trainer.step(loss_of, images, labels, partial(source.name, places))
            except torch.OutOfMemoryError as error:
                raise BackendError(
                    "out of GPU memory. Raise --accumulate (the result stays nearly the same), or lower --batch "
                    "or --crop"
                ) from error
            meter.stepped(losses["loss"], len(images) * processes.count)
            trainer.after_step(losses, meter)
        if trainer.position.step > trainer.saved_step:
            trainer.save(meter.elapsed_s)
    stopped = trainer.position.step < config.steps
    finished = finish(trainer.average.model)
    if not stopped and processes.first:
        save_weights(folder / LAST_NAME, finished)
    return finished, FitResult(trainer.position, meter.seconds_per_step, meter.wait_share, stopped)


class _Trainer:
    """One run: network, optimizer, average and position."""

    facts: Mapping[str, Any]
    validate: Validate | None
    log: Log | None
    finish: Finish

    def __init__(
        self,
        model: nn.Module,
        config: FitConfig,
        folder: Path,
        device: torch.device,
        pretrained_encoder: bool,
        processes: Processes,
    ) -> None:
        self.config, self.folder, self.device, self.processes = config, folder, device, processes
        self.model = model.to(device).to(memory_format=torch.channels_last).train()
        self.optimizer = make_optimizer(model, config, pretrained_encoder)
        self.average = WeightAverage(model, config.ema_decay)
        self.dtype = autocast_dtype(config.precision, device)
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # all batches have one shape, so the search pays off
        if self.dtype is not None and device.type == "cpu":
            keep_depthwise_float32(model)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)
        runner = processes.wrap(self.model, device)
        self.runner: nn.Module = torch.compile(runner) if config.compile else runner  # type: ignore[assignment]
        self.position = Position()
        self.saved_at, self.saved_step, self.before_s = time.monotonic(), -1, 0.0
        self.since_log: list[Mapping[str, float]] = []

    def resume(self) -> None:
        state = (self.model, self.average, self.optimizer, self.scaler)
        self.position = load_state(self.folder / STATE_NAME, *state, self.facts)
        self.before_s = self.position.seconds

    def step(
        self, loss_of: StepLoss, images: Tensor, labels: Tensor, where: Callable[[], str]
    ) -> dict[str, float]:
        """Update the weights from a batch of uint8 crops and return the losses as numbers."""
        torch.manual_seed(_seed(self.config.seed, self.position.step, self.processes.rank))
        factor = self.config.lr_factor(self.position.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        self.optimizer.zero_grad(set_to_none=True)
        parts = self.config.accumulate
        pairs = list(zip(images.chunk(parts), labels.chunk(parts), strict=True))
        total: dict[str, float] = {}
        for index, (some, their_labels) in enumerate(pairs):
            with self._sync(last=index == len(pairs) - 1):
                losses = self._forward(loss_of, some, their_labels)
                values = torch.stack(
                    [value.detach() for value in losses.values()]
                ).tolist()  # a single wait for the GPU
                for name, value in zip(losses, values, strict=True):
                    total[name] = total.get(name, 0.0) + value * len(some) / len(images)
                if not math.isfinite(total["loss"]):
                    raise TrainingDivergedError(self._diverged("loss", total["loss"], where()))
                self.scaler.scale(losses["loss"] * (len(some) / len(images))).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip))
        if not (math.isfinite(norm) or self.scaler.is_enabled()):  # the scaler skips such steps by itself
            raise TrainingDivergedError(self._diverged("gradient's norm", norm, where()))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update(self.model)
        self.position = replace(self.position, step=self.position.step + 1)
        return total

    def _forward(self, loss_of: StepLoss, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        pixels = normalise(images.to(self.device, non_blocking=True))
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            return loss_of(self.runner, pixels, labels.to(self.device, non_blocking=True))

    def _sync(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Return a context that defers summing gradients over processes until the batch's last part."""
        no_sync = getattr(self.runner, "no_sync", None)
        return contextlib.nullcontext() if last or no_sync is None else no_sync()

    def _diverged(self, what: str, value: float, where: str) -> str:
        return (
            f"the {what} is {value} at step {self.position.step}, learning rate {self.config.lr:g}; the batch: "
            f"{where}. Check these crops, then resume from the last state with --resume and a lower --lr "
            "or --precision fp32"
        )

    def after_step(self, losses: dict[str, float], meter: Meter) -> None:
        """Log, validate and save when due."""
        step, config = self.position.step, self.config
        due = step == config.steps or (config.validate_every and step % config.validate_every == 0)
        try:
            scores = self._score() if due and self.validate else {}
        except BaseException:  # keep the trained state if a validation raster cannot be read
            self.save(meter.elapsed_s)
            raise
        self.since_log.append(losses)
        if due or step % config.log_every == 0:
            means = {name: sum(row[name] for row in self.since_log) / len(self.since_log) for name in losses}
            facts = {"lr": config.lr * config.lr_factor(step - 1), **meter.facts()}
            self.since_log.clear()
            if self.log and self.processes.first:
                self.log(step, {**means, **facts, **scores})
        if scores or time.monotonic() - self.saved_at > config.save_every_s:
            self.save(meter.elapsed_s)
        if due:
            self.processes.wait()

    def _score(self) -> Mapping[str, float]:
        if not self.processes.first:
            return {}
        assert self.validate is not None
        finished = self.finish(self.average.model)
        scores = self.validate(finished, self.position.step)
        best = self.position.best_miou
        if best is None or scores["val_miou"] > best:
            self.position = replace(self.position, best_miou=scores["val_miou"], best_step=self.position.step)
            save_weights(self.folder / BEST_NAME, finished)
        return scores

    def save(self, elapsed_s: float) -> None:
        if not self.processes.first:
            return
        self.position = replace(self.position, seconds=self.before_s + elapsed_s)
        path, scaler = self.folder / STATE_NAME, self.scaler.state_dict()
        save_state(path, self.model, self.average, self.optimizer, scaler, self.position, self.facts)
        self.saved_at, self.saved_step = time.monotonic(), self.position.step


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
