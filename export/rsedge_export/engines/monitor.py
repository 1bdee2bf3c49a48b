"""What happens during a build: TensorRT's errors, its progress, and Ctrl-C.

Python's exceptions must not pass through TensorRT's frames, so everything that it calls keeps them here, the
monitor ends the build, and they are raised after it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Progress = Callable[[int, int], None]


class Log:
    """TensorRT's errors, kept for our own messages rather than printed."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.raised: list[BaseException] = []  # by what TensorRT called; ends the build
        self.logger: Any = None

    @classmethod
    def of(cls, trt: Any) -> Log:
        """One whose ``logger`` TensorRT takes."""
        kept = cls()
        worst = int(trt.ILogger.Severity.ERROR)  # internal errors are below, warnings above

        class Logger(trt.ILogger):  # type: ignore[misc]  # no stubs
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                try:
                    if int(severity) <= worst:
                        kept.lines.append(msg)
                except BaseException as error:
                    kept.raised.append(error)

        kept.logger = Logger()
        return kept

    def said(self) -> str:
        """The last of it."""
        return "; ".join(self.lines[-3:]) or "it does not say why"

    @contextmanager
    def held(self) -> Iterator[None]:
        """For the length of a call of TensorRT: Ctrl-C is noted, and raised after it with all else that was.

        Python would raise it on entering the next callback, before any ``try`` of ours.
        """
        previous = signal.getsignal(signal.SIGINT)
        ours = (
            threading.current_thread() is threading.main_thread() and previous is signal.default_int_handler
        )
        if ours:
            signal.signal(signal.SIGINT, lambda *_: self.raised.append(KeyboardInterrupt()))
        try:
            yield
        finally:
            if ours:
                signal.signal(signal.SIGINT, previous)
        if self.raised:
            raise self.raised.pop(0)


def watch(trt: Any, config: Any, log: Log, progress: Progress | None) -> None:
    """Have a build report its outermost phase, and end once ``log`` holds something to raise.

    TensorRT 8 has no such thing: there Ctrl-C waits for the end of the build.
    """
    if hasattr(config, "progress_monitor"):
        config.progress_monitor = _monitor(trt, log, progress)


def _monitor(trt: Any, log: Log, progress: Progress | None) -> Any:

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # no stubs
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.outermost: tuple[str, int] | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            try:
                if parent_phase is None:
                    self.outermost = (phase_name, num_steps)
            except BaseException as error:
                log.raised.append(error)

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                if progress and self.outermost and phase_name == self.outermost[0]:
                    progress(min(step + 1, self.outermost[1]), self.outermost[1])
            except BaseException as error:
                log.raised.append(error)
            return not log.raised

        def phase_finish(self, phase_name: str) -> None:
            pass

    return Monitor()
