"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of weights and batch statistics, with a short memory at first.

    The decay at step n is ``min(decay, (1 + n) / (10 + n))``, so random initial weights fade fast.
    Frozen weights are shared with the network, not copied: a frozen trunk is large.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        frozen = [p for p in model.parameters() if not p.requires_grad]
        shared = {id(p): p for p in frozen}
        self.model = copy.deepcopy(model, shared).eval().requires_grad_(False)
        self.decay, self.step = decay, 0
        fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
        self.names = [name for name in model.state_dict() if name not in fixed]

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average with the state of ``model``."""
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        averaged, current = self.model.state_dict(), model.state_dict()
        real = [name for name in self.names if current[name].is_floating_point()]
        torch._foreach_lerp_([averaged[n] for n in real], [current[n] for n in real], 1.0 - decay)
        for name in set(self.names) - set(real):
            averaged[name].copy_(current[name])

    def state(self) -> dict[str, Tensor]:
        """Return the part of the average that is not shared with the network."""
        state = self.model.state_dict()
        return {name: state[name] for name in self.names}

    def load(self, state: dict[str, Tensor], step: int) -> None:
        """Restore ``state()`` as it was after ``step`` updates."""
        self.step = step
        own = self.model.state_dict()
        for name in self.names:
            own[name].copy_(state[name])
