"""What becomes of a command that is asked to stop: Ctrl-C, SIGTERM, a lost terminal."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rsedge.cli.common import complain

INTERRUPTED = 130  # the shell's code for a process ended by Ctrl-C
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C; systemd and docker; a lost terminal
PATIENCE_S = 1.5  # from a stop to the end, where a run can go on from the disk


class Interrupted(BaseException):
    """Ctrl-C or a request to end. Not KeyboardInterrupt, which typer turns into a silent exit."""


def _nothing_half_done() -> str:
    return "interrupted; a result appears under its name only when it is whole"


interrupted: Callable[[], str] = _nothing_half_done  # what is said after Ctrl-C
_waits, _pending = False, False


def stop(*_: object) -> None:
    """The handler of signals that stop a command."""
    global _pending  # noqa: PLW0603 - a handler has no other memory
    _pending = True
    if not _waits:
        ignore_stops()  # a second Ctrl-C must not cut the tidying up
        raise Interrupted


def ignore_stops() -> None:
    """Too late to stop, or stopping already."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def stops_wait() -> Iterator[None]:
    """Stop after the block, not in it: libraries that are being loaded make other errors of an interruption."""
    global _waits, _pending  # noqa: PLW0603 - as above
    _waits, _pending = True, False
    try:
        yield
    finally:
        _waits = False
        if _pending:
            stop()


@contextmanager
def stopping_says(text: Callable[[], str]) -> Iterator[None]:
    """While the block lasts, Ctrl-C says ``text()``, and within two seconds, since what is finished is on disk."""
    global interrupted  # noqa: PLW0603 - the handler of signals has no other way to know
    before, interrupted = interrupted, text
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    # Python calls a signal's handler only when a library's long call is over; this is written to at once.
    old = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(told,), name="rsedge-stop", daemon=True).start()
    stopped = False
    try:
        yield
    except BaseException as error:
        stopped = not isinstance(error, Exception)
        raise
    finally:
        if not stopped:  # else until all is unwound, or time is up
            signal.set_wakeup_fd(old)
            os.close(tell)
            interrupted = before


def _end_in_time(told: int) -> None:
    """End the process some time after a signal that stops it; return when nobody tells any more."""
    while number := os.read(told, 1):
        if number[0] in STOPS:
            time.sleep(PATIENCE_S)
            complain(interrupted())
            os._exit(INTERRUPTED)
    os.close(told)
