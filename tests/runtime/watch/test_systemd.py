from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rsedge.watch.ledger import PULSE_S, Ledger
from rsedge.watch.systemd import SOCKET, tell_systemd

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no such sockets here")


@pytest.fixture(params=["path", "abstract"])
def systemd(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """Its end of the socket."""
    if request.param == "abstract" and sys.platform != "linux":
        pytest.skip("Linux alone has names that are no files")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
        name = f"rsedge-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
        own.bind(f"\0{name}" if request.param == "abstract" else name)
        monkeypatch.setenv(SOCKET, f"@{name}" if request.param == "abstract" else name)
        own.settimeout(5)
        yield own


def test_a_word_arrives(systemd: socket.socket) -> None:
    tell_systemd("WATCHDOG=1")
    assert systemd.recv(99) == b"WATCHDOG=1"


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "@nobody", "@"])
def test_nobody_there_is_no_error(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv(SOCKET, address)
    tell_systemd("WATCHDOG=1")


def test_one_who_does_not_read_is_not_waited_for(systemd: socket.socket) -> None:
    for _ in range(10_000):
        tell_systemd("WATCHDOG=1")


def test_a_watcher_that_is_well_says_so_and_one_that_hangs_does_not(
    systemd: socket.socket, tmp_path: Path
) -> None:
    now = 0.0
    with Ledger(tmp_path, clock=lambda: now) as ledger:
        assert systemd.recv(99) == b"WATCHDOG=1"
        ledger.keep_beating()
        systemd.setblocking(False)
        with pytest.raises(BlockingIOError):
            systemd.recv(99)
        now += PULSE_S
        ledger.keep_beating()
        assert systemd.recv(99) == b"WATCHDOG=1"
