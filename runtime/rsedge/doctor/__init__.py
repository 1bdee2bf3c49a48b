"""What is on this machine, what rsedge runs here, what is missing and what is wrong.

Nothing here imports a library that may be broken: each is tried in a process of its own (`probes`, run by `child`).
"""

from __future__ import annotations
