"""Doing two things at once with bounded memory: one thread before the model, one after it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
POLL_S = 0.1  # how soon a waiting thread notices that the other side has gone


def prefetch(items: Iterable[T], depth: int, name: str = "rsedge-read") -> Generator[T, None, None]:
    """Iterate in a thread of its own, at most ``depth`` items ahead, the one that is being made included.

    An error of ``items`` is raised here. Leaving the loop early stops the thread before this
    generator closes, so what it reads from can be closed safely.
    """
    queue: SimpleQueue[T | _End] = SimpleQueue()
    room, stop = threading.Semaphore(depth), threading.Event()
    thread = threading.Thread(target=_fill, args=(queue, items, room, stop), name=name, daemon=True)
    thread.start()
    try:
        while True:
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
        _join(thread)


class Background(Generic[T]):
    """Calls ``consume`` for every item put, in order, in a thread of its own.

    ``put`` waits while ``depth`` items are pending. An error of ``consume`` is raised by the next
    ``put`` or at the end of the ``with`` block; items after it are dropped. When the block ends, however
    it ends, the thread is no longer at work.
    """

    def __init__(self, consume: Callable[[T], None], depth: int) -> None:
        self._consume = consume
        self._queue: SimpleQueue[T | _End] = SimpleQueue()
        self._room = threading.Semaphore(depth)
        self._drop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="rsedge-write", daemon=True)

    def put(self, item: T) -> None:
        """Queue an item."""
        while self._error is None:
            if self._room.acquire(timeout=POLL_S):
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
        _join(self._thread, self._drop)
        if kind is None and self._error is not None:
            raise self._error

    def _work(self) -> None:
        while not isinstance(item := self._queue.get(), _End):
            self._room.release()
            if self._drop.is_set():
                continue
            try:
                self._consume(item)
            except BaseException as error:
                self._error = error
                self._drop.set()


@dataclass(frozen=True)
class _End:
    """The last entry of a queue: nothing more comes, because of ``error`` if there is one."""

    error: BaseException | None = None


def _fill(
    queue: SimpleQueue[T | _End], items: Iterable[T], room: threading.Semaphore, stop: threading.Event
) -> None:
    try:
        iterator = iter(items)
        while True:
            while not room.acquire(timeout=POLL_S):
                if stop.is_set():
                    return
            if stop.is_set():
                return
            queue.put(next(iterator))
    except StopIteration:
        queue.put(_End())
    except BaseException as error:
        queue.put(_End(error))
    finally:
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
