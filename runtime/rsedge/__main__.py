"""The command ``rsedge``, and ``python -m rsedge``."""

from __future__ import annotations

import signal


def main() -> None:
    """Start the command line; Ctrl-C while it is still being loaded ends it without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from rsedge.cli import main as command_line  # noqa: PLC0415 - after the line above

    command_line()


if __name__ == "__main__":
    main()
