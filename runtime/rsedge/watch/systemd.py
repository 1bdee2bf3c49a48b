"""Notifications to systemd, if it started this process and asked for them (sd_notify(3))."""

from __future__ import annotations

import os
from contextlib import suppress

SOCKET = "NOTIFY_SOCKET"


def tell_systemd(state: str) -> None:
    """Send ``state``, such as "WATCHDOG=1", without waiting; does nothing if systemd did not ask."""
    address = os.environ.get(SOCKET)
    if not address:
        return
    import socket  # noqa: PLC0415 - seldom needed

    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
        to.setblocking(False)
        to.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        to.send(state.encode())
