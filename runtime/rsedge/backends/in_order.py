"""Work on several batches at once, with answers in the order of the batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from numpy.typing import NDArray

T = TypeVar("T")


def in_order(
    batches: Iterable[NDArray[Any]],
    start: Callable[[NDArray[Any]], T],
    finish: Callable[[T], NDArray[Any]],
    settle: Callable[[T], None],
    most: int,
) -> Generator[NDArray[Any], None, None]:
    """Yield the answer of each batch in order, with at most ``most`` batches under way.

    ``start`` begins a batch and keeps its own copy of the pixels, ``finish`` waits for its answer. If the caller
    leaves early or a batch fails, ``settle`` ends each that is under way, because memory in use must not be reused.
    Raises what ``start`` and ``finish`` raise, at the batch's place in the order.
    """
    running = deque[T]()
    try:
        for batch in batches:
            running.append(start(batch))
            if len(running) >= most:
                yield finish(running.popleft())
        while running:
            yield finish(running.popleft())
    finally:
        for job in running:
            settle(job)
