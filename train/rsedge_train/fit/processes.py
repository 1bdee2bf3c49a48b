"""Training in several processes (torchrun), and stopping one process cleanly."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType

import torch
import torch.distributed as dist
from torch import nn

from rsedge.errors import BackendError

# Processes wait while the first one validates, and a large scene takes a while.
PATIENCE = timedelta(hours=4)


@dataclass(frozen=True)
class Processes:
    """Rank of this process and number of processes."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Return True for the process that writes and prints."""
        return self.rank == 0

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Return ``model`` with gradients averaged over all processes, and batch statistics too on GPUs.

        PyTorch has no synchronised batch norm on CPUs, so each process normalises by its own share there.
        """
        if self.count == 1:
            return model
        if device.type == "cuda":
            from timm.layers.norm_act import convert_sync_batchnorm  # noqa: PLC0415  (knows timm's norms with activations)

            convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
            return nn.parallel.DistributedDataParallel(model, device_ids=[device.index])
        return nn.parallel.DistributedDataParallel(model)

    def wait(self) -> None:
        """Wait until all processes arrive."""
        if self.count > 1:
            dist.barrier()


SINGLE = Processes()


@contextmanager
def session(device: str = "auto") -> Iterator[Processes]:
    """Open the process group that torchrun describes in the environment, or a single process without it.

    ``device`` as for ``pick_device``: GPUs communicate by NCCL, CPUs by gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield SINGLE
        return
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    where = pick_device(device, Processes(local_rank=local_rank))
    if where.type == "cuda":
        dist.init_process_group("nccl", timeout=PATIENCE, device_id=where)
    else:
        dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), local_rank)
    finally:
        dist.destroy_process_group()


def pick_device(name: str, processes: Processes) -> torch.device:
    """Return the device for ``auto``, ``cpu`` or ``cuda``. Raises BackendError if CUDA is not available."""
    if name not in {"auto", "cpu", "cuda"}:
        raise BackendError(f"device {name!r}: unknown. Choose auto, cpu or cuda")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise BackendError("--device cuda: torch finds no CUDA device. Use --device cpu or auto")
    if processes.local_rank >= torch.cuda.device_count():
        raise BackendError(
            f"process {processes.local_rank} of this machine has no GPU: the machine has "
            f"{torch.cuda.device_count()}. Start at most that many processes with --nproc_per_node"
        )
    torch.cuda.set_device(processes.local_rank)
    return torch.device("cuda", processes.local_rank)


class StopRequest:
    """Context that turns the first Ctrl-C or SIGTERM into a request that the loop checks after each step.

    The second signal acts at once. Leaving the block restores the old handlers. With several
    processes it does nothing, because they would stop at different steps and wait for each other forever;
    a resumed run starts from the last saved state.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self._heard: int | None = None
        self._old: dict[int, signal._HANDLER] = {}

    def requested(self) -> bool:
        """Return True if a stop was requested."""
        return self._heard is not None

    def __enter__(self) -> StopRequest:
        for number in self.SIGNALS if self.enabled else ():
            self._old[number] = signal.signal(number, self._hear)
        return self

    def _hear(self, number: int, frame: FrameType | None) -> None:
        old = self._old[number]
        if self._heard is not None and callable(old):  # the second signal acts at once
            old(number, frame)
        self._heard = number

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
