"""The command ``rsedge``, and ``python -m rsedge``."""

from __future__ import annotations

import signal


def main() -> None:
    """Start the command line; Ctrl-C during its import ends the process without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from rsedge.cli import main as command_line  # noqa: PLC0415 - Ctrl-C must be set first

    command_line()


if __name__ == "__main__":
    main()
