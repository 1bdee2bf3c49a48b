from __future__ import annotations

import subprocess
import sys

import pytest

from rsedge.machine import STATUS

GROWTH = """
from rsedge import open_model
from rsedge.machine import rss_bytes
from rsedge.infer.memory_plan import _tile, warm_up
with open_model(threads=2) as model:
    before = warm_up(model)
    for _ in range(4):
        model.infer(_tile(model))
    print(rss_bytes() - before)
"""


@pytest.mark.skipif(not STATUS.exists(), reason="the system does not tell how much memory a process has")
def test_after_the_warm_up_the_model_takes_no_more_memory() -> None:
    """Of the default model, in a process of its own: the bound of every run stands on that."""
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4 << 20
