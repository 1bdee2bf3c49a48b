from __future__ import annotations

import subprocess
import sys

import pytest

from rsedge.infer.memory_plan import Plan
from rsedge.machine import STATUS
from rsedge.tiling.window import Window

GROWTH = """
from rsedge import open_model
from rsedge.machine import rss_bytes
from rsedge.infer.memory_plan import warm_up
with open_model(threads=2) as model:
    before = warm_up(model)
    for _ in range(4):
        model.infer(model.blank_tile())
    print(rss_bytes() - before)
"""


@pytest.mark.skipif(not STATUS.exists(), reason="the system does not tell how much memory a process has")
def test_after_the_warm_up_the_model_takes_no_more_memory() -> None:
    """Of the default model, in a process of its own: the bound of every run stands on that."""
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4 << 20


def test_the_bound_leaves_room_for_what_allocators_keep() -> None:
    plan = Plan(
        blocks=(Window(0, 0, 9, 9),),
        windows=1,
        base_bytes=1 << 28,
        bytes_by_part={"a": 10 << 20, "b": 5 << 20},
    )
    assert plan.bound_bytes >= (1 << 28) + (15 << 20) * 1.05 + (16 << 20)
