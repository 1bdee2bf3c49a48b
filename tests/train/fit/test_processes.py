"""Two processes are one with the doubled batch; devices by name."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import two_processes
from rsedge.errors import BackendError
from rsedge_train.fit.processes import SINGLE, pick_device, session


def test_two_processes_are_one_with_the_doubled_batch(tmp_path):
    """Three steps of AdamW on crops with unlabelled pixels; no batch norm, which has no CPU synchronisation."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    two_processes.main(tmp_path / "one")
    done = subprocess.run(
        [*command, two_processes.__file__, str(tmp_path / "two")],
        check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for loss in two_processes.LOSSES:
        one, two, begin = (
            load_file(tmp_path / f"{name}.safetensors")
            for name in (f"one/{loss}/weights", f"two/{loss}/weights", f"one/{loss}/begin")
        )
        for name, value in one.items():
            moved = (value - begin[name]).abs().max()
            assert moved > 1e-4
            assert (value - two[name]).abs().max() < 1e-3 * moved


def test_a_single_process_needs_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with session() as processes:
        assert processes is SINGLE
        assert processes.first
        processes.wait()


def test_devices_by_name():
    assert pick_device("cpu", SINGLE) == torch.device("cpu")
    with pytest.raises(BackendError, match="Choose auto, cpu or cuda"):
        pick_device("tpu", SINGLE)
    if not torch.cuda.is_available():
        assert pick_device("auto", SINGLE) == torch.device("cpu")
        with pytest.raises(BackendError, match="no CUDA device"):
            pick_device("cuda", SINGLE)
