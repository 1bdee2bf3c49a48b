"""A model that takes its process with it: what a driver's crash or a full memory looks like."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from rsedge.bench import Contender


def open_and_die(contender: Contender) -> NoReturn:
    sys.stderr.write(f"{contender.device}: no device for you")
    sys.stderr.flush()
    os._exit(3)
