"""Ctrl-C, failing callbacks and the layers that stay fp32: what of a build needs no TensorRT."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from rsedge_export.engines.monitor import Log, Progress, watch
from rsedge_export.engines.network import comes_from

TRT: Any = SimpleNamespace(
    ILogger=type("ILogger", (), {"Severity": SimpleNamespace(ERROR=1)}),
    IProgressMonitor=type("IProgressMonitor", (), {}),
)


def monitor_of(log: Log, progress: Progress | None) -> Any:
    config = SimpleNamespace(progress_monitor=None)
    watch(TRT, config, log, progress)
    return config.progress_monitor


@pytest.fixture(autouse=True)
def pythons_own_handler() -> Iterator[None]:
    """Ctrl-C as in a shell's foreground: a job in its background starts with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_the_build_and_is_raised_after_it() -> None:
    log, steps = Log.of(TRT), []
    monitor = monitor_of(log, None)  # no terminal
    monitor.phase_start("build", None, 3)
    with pytest.raises(KeyboardInterrupt), log.held():
        assert monitor.step_complete("build", 0)
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(3):  # nothing is raised here, whatever is called
            steps.append(monitor.step_complete("build", 1))
            log.logger.log(1, "said")
        monitor.phase_finish("build")
    assert steps == [False] * 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert log.raised == []


def test_what_progress_raises_is_raised_after_the_build() -> None:
    def progress(done: int, total: int) -> None:
        raise OSError("the terminal is gone")

    log = Log.of(TRT)
    monitor = monitor_of(log, progress)
    with pytest.raises(OSError, match="the terminal is gone"), log.held():
        monitor.phase_start("build", None, 3)
        monitor.phase_start("inner", "build", 9)
        assert monitor.step_complete("inner", 0)
        assert not monitor.step_complete("build", 0)


def test_the_loggers_own_faults_are_kept() -> None:
    log = Log.of(TRT)
    with pytest.raises(ValueError, match="invalid literal"), log.held():
        log.logger.log("no severity", "x")
    assert log.lines == []


def test_others_handlers_and_threads_are_left_alone() -> None:
    seen: list[Any] = []

    def other() -> None:
        with Log.of(TRT).held():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        other()
    finally:
        signal.signal(signal.SIGINT, previous)
    assert seen == [signal.default_int_handler, signal.SIG_IGN]


@pytest.mark.parametrize(
    ("layer", "wanted"),
    [
        ("/norm/Div", True),
        ("/norm/Div_17", True),  # the parser's second layer of it
        ("/norm/Div_1", False),  # another node
        ("/norm/Div_1_18", False),
        ("/norm/Div_x", False),
        ("/norm/Divide", False),
        ("(Unnamed Layer* 3) [Shuffle]", False),
        ("/norm/Pow_2", True),  # a node that is wanted, whatever its name looks like
        ("/norm/Pow", False),
        ("/norm/Pow_2_4", True),
    ],
)
def test_which_layers_come_from_a_node(layer: str, wanted: bool) -> None:
    nodes = {"/norm/Div", "/norm/Div_1", "/norm/Pow", "/norm/Pow_2"}
    assert comes_from(layer, {"/norm/Div", "/norm/Pow_2"}, nodes) == wanted
