"""Doing two things at once with bounded memory: one thread before the model, one after it."""

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
POLL_S = 0.1  # how soon a waiting thread notices that the other side has gone


class Busy:
    """Seconds that threads are at work: of their lives, less what they wait for each other."""

    def __init__(self) -> None:
        self._lock, self.seconds = threading.Lock(), 0.0

    @contextmanager
    def alive(self) -> Iterator[None]:
        """The block is a thread's life, or what of it counts."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._add(time.perf_counter() - begin)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """In the block a thread that is counted only waits."""
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
    """Iterate in a thread of its own, at most ``depth`` items ahead, the one that is being made included.

    An error of ``items`` is raised here. Leaving the loop early stops the thread before this
    generator closes, so what it reads from can be closed safely. ``busy`` counts what both threads work.
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
    """Calls ``consume`` for every item put, in order, in a thread of its own.

    ``put`` waits while ``depth`` items are pending. An error of ``consume`` is raised by the next
    ``put`` or at the end of the ``with`` block; items after it are dropped. When the block ends, however
    it ends, the thread is no longer at work. ``busy`` counts what both threads work.
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
            self._drop.set()  # nobody wants the rest
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
    """The last entry of a queue: nothing more comes, because of ``error`` if there is one."""

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
        queue.put(last)  # when the thread's time is counted: who reads it may ask for the sum
        # A generator is closed by the thread that runs it: what it holds open is let go before this thread ends.
        if isinstance(items, Generator):
            items.close()


def _join(thread: threading.Thread, drop: threading.Event | None = None) -> None:
    """Wait until the thread has ended, whatever interrupts, and only then raise the interruption.

    Unwinding past a thread that is inside GDAL would close the file under its hands and crash the
    interpreter. An interruption sets ``drop``, so that it need not wait for the whole queue.
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
