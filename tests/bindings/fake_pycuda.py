"""Stands for pycuda.driver where there is no CUDA: memory and streams that record what is asked of them.

It computes nothing and copies nothing. Names and arities are pycuda's as its documentation has them; unlike
TensorRT's, they are not checked against the real module.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np

calls: list[str] = []
current = 0  # how often a context was pushed and not popped
allocated: set[int] = set()
fail_allocation_after = 10**9  # allocations until the device's memory is "used up"
free_bytes = 8 << 30
event_flags = SimpleNamespace(DISABLE_TIMING=2, BLOCKING_SYNC=1)
_numbers = itertools.count(1)


class MemoryError_(Exception):
    """pycuda's errors do not derive from the builtin ones."""


def _note(what: str) -> None:
    assert current > 0, f"{what} without a current context"
    calls.append(what)


class _Primary:
    def push(self) -> None:
        global current  # noqa: PLW0603
        current += 1

    def pop(self) -> None:
        global current  # noqa: PLW0603
        current -= 1


class Device:
    def __init__(self, number: int) -> None:
        self.number = number

    def retain_primary_context(self) -> _Primary:
        return _Primary()

    def compute_capability(self) -> tuple[int, int]:
        return 8, 7

    def name(self) -> str:
        return "No device"


class Stream:
    def __init__(self) -> None:
        self.handle = next(_numbers)

    def synchronize(self) -> None:
        _note(f"synchronize stream {self.handle}")

    def wait_for_event(self, event: Event) -> None:
        _note(f"stream {self.handle} waits for event {event.number}")


class Event:
    def __init__(self, flags: int = 0) -> None:
        self.number = next(_numbers)

    def record(self, stream: Stream) -> None:
        _note(f"record event {self.number} on stream {stream.handle}")

    def synchronize(self) -> None:
        _note(f"synchronize event {self.number}")


class _Allocation:
    def __init__(self, address: int) -> None:
        self.address = address

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        _note("free")
        allocated.remove(self.address)


def init() -> None:
    pass


def get_version() -> tuple[int, int, int]:
    return 12, 6, 0


def get_driver_version() -> int:
    return 12060


def mem_get_info() -> tuple[int, int]:
    _note("mem_get_info")
    return free_bytes, 16 << 30


def mem_alloc(size_bytes: int) -> _Allocation:
    _note(f"mem_alloc {size_bytes}")
    if len(allocated) >= fail_allocation_after:
        raise MemoryError_("cuMemAlloc failed: out of memory")
    allocation = _Allocation(next(_numbers) << 20)
    allocated.add(allocation.address)
    return allocation


def pagelocked_empty(shape: Any, dtype: Any) -> np.ndarray:
    _note("pagelocked_empty")
    return np.zeros(shape, dtype)


def memcpy_htod_async(dest: _Allocation, src: np.ndarray, stream: Stream) -> None:
    assert src.flags.c_contiguous
    _note(f"htod on stream {stream.handle}")


def memcpy_dtoh_async(dest: np.ndarray, src: _Allocation, stream: Stream) -> None:
    assert dest.flags.c_contiguous
    _note(f"dtoh on stream {stream.handle}")
