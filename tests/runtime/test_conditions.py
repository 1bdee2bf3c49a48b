from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path

import pytest

from rsedge import machine as conditions
from rsedge.backends import Backend


def test_they_are_those_of_the_opened_model(model: Backend) -> None:
    found = conditions.Conditions.of(model)
    assert (found.threads, found.backend, found.provider) == (1, "onnxruntime", "CPUExecutionProvider")
    assert found.precision == "fp32"
    assert found.backend_version[0].isdigit()
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert abs((datetime.now(timezone.utc) - datetime.fromisoformat(found.date)).total_seconds()) < 600


def test_the_processor_is_named_as_the_system_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo, board = tmp_path / "cpuinfo", tmp_path / "model"
    monkeypatch.setattr(conditions, "CPUINFO", cpuinfo)
    monkeypatch.setattr(conditions, "BOARD", board)
    assert conditions.cpu_name()  # neither is there: still a name
    board.write_bytes(b"NVIDIA Jetson Orin Nano\0")
    cpuinfo.write_text("processor : 0\nCPU part : 0xd42\n")
    assert conditions.cpu_name() == "NVIDIA Jetson Orin Nano"
    cpuinfo.write_text("processor : 0\nmodel name\t: EPYC: the second\n")
    assert conditions.cpu_name() == "EPYC: the second"
