"""Threads that work ahead of or behind a loop, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
POLL_S = 0.1  # interval at which a waiting thread checks whether the other thread has stopped


class Busy:
    """Working seconds of several threads: their lifetimes minus the time in which they wait for each other."""

    def __init__(self) -> None:
        self._lock, self.seconds = threading.Lock(), 0.0

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Count the block's time as a thread's lifetime."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._add(time.perf_counter() - begin)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Subtract the block's time, in which a counted thread only waits."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._add(begin - time.perf_counter())

    def _add(self, seconds: float) -> None:
        with self._lock:
            self.seconds += seconds


def prefetch(
    items: Iterable[T], depth: int, name: str = "rsedge-read", busy: Busy | None = None
) -> Generator[T, None, None]:
    """Iterate over ``items`` in another thread, at most ``depth`` items ahead, including the one in the making.

    Errors of ``items`` are raised by this generator. Leaving the loop early stops the thread before the
    generator closes, so the source of ``items`` can then be closed. ``busy`` counts the work of both threads.
    """
    busy = busy or Busy()
    queue: SimpleQueue[T | _End] = SimpleQueue()
    room, stop = threading.Semaphore(depth), threading.Event()
    thread = threading.Thread(target=_fill, args=(queue, items, room, stop, busy), name=name, daemon=True)
    thread.start()
    try:
        while True:
            with busy.waiting():
                item = queue.get()
            room.release()
            if not isinstance(item, _End):
                yield item
            elif item.error is None:
                return
            else:
                raise item.error
    finally:
        stop.set()
        with busy.waiting():
            _join(thread)


class Background(Generic[T]):
    """A thread that calls ``consume`` for every item put, in order.

    ``put`` waits while ``depth`` items are pending. An error of ``consume`` is raised by the next
    ``put`` or at the end of the ``with`` block; later items are dropped. The thread has always stopped
    when the block ends. ``busy`` counts the work of both threads.
    """

    def __init__(self, consume: Callable[[T], None], depth: int, busy: Busy | None = None) -> None:
        self._consume, self._busy = consume, busy or Busy()
        self._queue: SimpleQueue[T | _End] = SimpleQueue()
        self._room = threading.Semaphore(depth)
        self._drop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="rsedge-write", daemon=True)

    def put(self, item: T) -> None:
        """Queue an item."""
        while self._error is None:
            with self._busy.waiting():
                there_is_room = self._room.acquire(timeout=POLL_S)
            if there_is_room:
                self._queue.put(item)
                return
        raise self._error

    def __enter__(self) -> Background[T]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._drop.set()  # after an error the remaining items are useless
        self._queue.put(_End())
        with self._busy.waiting():
            _join(self._thread, self._drop)
        if kind is None and self._error is not None:
            raise self._error

    def _work(self) -> None:
        with self._busy.alive():
            while not isinstance(item := self._next(), _End):
                self._room.release()
                if self._drop.is_set():
                    continue
                try:
                    self._consume(item)
                except BaseException as error:
                    self._error = error
                    self._drop.set()

    def _next(self) -> T | _End:
        with self._busy.waiting():
            return self._queue.get()


@dataclass(frozen=True)
class _End:
    """The last entry of a queue, with the ``error`` that ended it, if any."""

    error: BaseException | None = None


def _fill(
    queue: SimpleQueue[T | _End],
    items: Iterable[T],
    room: threading.Semaphore,
    stop: threading.Event,
    busy: Busy,
) -> None:
    last = _End()
    try:
        with busy.alive():
            iterator = iter(items)
            while True:
                with busy.waiting():
                    while not room.acquire(timeout=POLL_S):
                        if stop.is_set():
                            return
                if stop.is_set():
                    return
                queue.put(next(iterator))
    except StopIteration:
        pass
    except BaseException as error:
        last = _End(error)
    finally:
        queue.put(last)  # after the thread's time is counted, because the receiver may read the sum
        # The thread that runs a generator closes it, so that its resources are released before the thread ends.
        if isinstance(items, Generator):
            items.close()


def _join(thread: threading.Thread, drop: threading.Event | None = None) -> None:
    """Wait until the thread has ended, even if interrupted, and then raise the interruption.

    Otherwise a file could be closed while the thread is inside GDAL, which crashes the
    interpreter. An interruption sets ``drop``, so that the thread skips the rest of the queue.
    """
    interruption: BaseException | None = None
    while thread.is_alive():
        try:
            thread.join()
        except BaseException as error:
            interruption = error
            if drop is not None:
                drop.set()
    if interruption is not None:
        raise interruption
