"""Stopping a command: Ctrl-C, SIGTERM, a lost terminal."""

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
PATIENCE_S = 1.5  # from a stop to the end, if the run can be resumed from the disk


class Interrupted(BaseException):
    """An interrupt or a request to end. Not KeyboardInterrupt, which typer turns into a silent exit."""


def _nothing_half_done() -> str:
    return "interrupted; no incomplete result was written"


interrupted: Callable[[], str] = _nothing_half_done  # makes the message after Ctrl-C
_waits, _pending = False, False


def stop(*_: object) -> None:
    """Handle a signal that stops a command."""
    global _pending  # noqa: PLW0603 - a signal handler has no other memory
    _pending = True
    if not _waits:
        ignore_stops()  # a second Ctrl-C must not interrupt the cleanup
        raise Interrupted


def ignore_stops() -> None:
    """Ignore further stops, because the command is stopping already or has finished."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def stops_wait() -> Iterator[None]:
    """Delay a stop until after the block, because libraries turn an interruption while loading into other errors."""
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
    """Make Ctrl-C print ``text()`` within two seconds during the block, whose finished work is on disk."""
    global interrupted  # noqa: PLW0603 - the signal handler has no other way to know
    before, interrupted = interrupted, text
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    # Python runs a signal handler only after a library's long call; the wakeup descriptor is written at once.
    old = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(told,), name="rsedge-stop", daemon=True).start()
    stopped = False
    try:
        yield
    except BaseException as error:
        stopped = not isinstance(error, Exception)
        raise
    finally:
        if not stopped:  # otherwise it stays set until the stack is unwound or time is up
            signal.set_wakeup_fd(old)
            os.close(tell)
            interrupted = before


def _end_in_time(told: int) -> None:
    """End the process some time after a stop signal; return when the pipe is closed."""
    while number := os.read(told, 1):
        if number[0] in STOPS:
            time.sleep(PATIENCE_S)
            complain(interrupted())
            os._exit(INTERRUPTED)
    os.close(told)
