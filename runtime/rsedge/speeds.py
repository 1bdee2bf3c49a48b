"""How fast a bundle's artifacts ran on this machine, as `rsedge verify` measured it."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path:
    """The folder for what rsedge keeps for this user and can make again: ``~/.cache/rsedge``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rsedge"
