from __future__ import annotations

import threading
import time

import pytest

from rsedge.engine.pipeline import Background, Busy, prefetch


def test_prefetch_keeps_the_order_and_stays_bounded() -> None:
    made: list[int] = []

    def items():
        for i in range(50):
            made.append(i)
            yield i

    for seen, item in enumerate(prefetch(items(), 3)):
        assert item == seen
        assert len(made) <= seen + 1 + 3 + 1  # handed over, queued, and one in hand


def test_prefetch_raises_the_readers_error_in_its_place() -> None:
    def items():
        yield 1
        raise OSError("torn tape")

    strips = prefetch(items(), 2)
    assert next(strips) == 1
    with pytest.raises(OSError, match="torn tape"):
        next(strips)


def test_leaving_prefetch_early_ends_its_thread() -> None:
    before = threading.active_count()
    strips = prefetch(iter(range(1000)), 2)
    next(strips)
    strips.close()
    assert threading.active_count() == before


def test_background_consumes_everything_in_order() -> None:
    seen: list[int] = []
    with Background(seen.append, 2) as background:
        for i in range(40):
            background.put(i)
    assert seen == list(range(40))


def test_background_raises_the_consumers_error() -> None:
    def fail(item: int) -> None:
        if item == 3:
            raise OSError("disk full")

    def fill() -> None:
        with Background(fail, 1) as background:
            for i in range(100):
                background.put(i)
                time.sleep(0.001)

    with pytest.raises(OSError, match="disk full"):
        fill()


def test_background_drops_what_is_left_when_the_producer_fails() -> None:
    seen: list[int] = []

    def slow(item: int) -> None:
        time.sleep(0.05)
        seen.append(item)

    with pytest.raises(ZeroDivisionError), Background(slow, 5) as background:
        for i in range(5):
            background.put(i)
        raise ZeroDivisionError
    assert len(seen) < 5


def test_an_interruption_during_the_last_wait_still_ends_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C must not unwind past a working thread, whose file would be closed while it writes."""
    wait, interrupted, seen = threading.Thread.join, [], []

    def join(self: threading.Thread, timeout: float | None = None) -> None:
        if not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        wait(self, timeout)

    def slow(item: int) -> None:
        time.sleep(0.05)
        seen.append(item)

    monkeypatch.setattr(threading.Thread, "join", join)
    background = Background(slow, 5)
    with pytest.raises(KeyboardInterrupt), background:
        for i in range(5):
            background.put(i)
    assert not background._thread.is_alive()
    assert len(seen) < 5


def test_busy_time_leaves_out_waiting() -> None:
    def slow_items():
        for i in range(4):
            time.sleep(0.05)  # its own work, while this thread waits
            yield i

    busy = Busy()
    with busy.alive(), Background(lambda _: time.sleep(0.05), 1, busy) as background:
        for item in prefetch(slow_items(), 1, busy=busy):
            background.put(item)
    # Eight naps of 50 ms; whoever waits for another is not at work. Load can only lengthen naps.
    assert busy.seconds >= 0.4
    begin = time.perf_counter()
    idle = Busy()
    with idle.alive(), idle.waiting():
        time.sleep(0.05)
    assert idle.seconds < 0.5 * (time.perf_counter() - begin)
