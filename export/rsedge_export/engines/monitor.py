"""Events of a build: TensorRT's errors, its progress, and Ctrl-C.

Python's exceptions must not pass through TensorRT's frames, so every callback stores them in this module, the
monitor ends the build, and they are raised after the build.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Progress = Callable[[int, int], None]
LAYERS = "Layers:"  # the begin of the message in which TensorRT for RTX lists an engine's kernels


class Log:
    """Collector of TensorRT's errors, for our own messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.layers = ""  # the compiler's list of kernels (see `kernels`)
        self.raised: list[BaseException] = []  # by callbacks of TensorRT; ends the build
        self.logger: Any = None

    @classmethod
    def of(cls, trt: Any) -> Log:
        """Return a log whose ``logger`` TensorRT accepts."""
        kept = cls()
        worst = int(trt.ILogger.Severity.ERROR)  # internal errors have lower numbers, warnings higher ones

        class Logger(trt.ILogger):  # type: ignore[misc]  # no stubs
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                try:
                    if int(severity) <= worst:
                        kept.lines.append(msg)
                    elif msg.startswith(LAYERS):
                        kept.layers = msg
                except BaseException as error:
                    kept.raised.append(error)

        kept.logger = Logger()
        return kept

    def said(self) -> str:
        """Return the last lines."""
        return "; ".join(self.lines[-3:]) or "TensorRT gave no reason"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Note Ctrl-C during a call of TensorRT and raise it, with all other errors, after the call.

        Python would otherwise raise it on entering the next callback, before any ``try`` of ours.
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
    """Make a build report its outermost phase, and stop once ``log`` holds an error.

    TensorRT 8 lacks this interface, so Ctrl-C waits for the end of the build.
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
