from __future__ import annotations

from pathlib import Path

import pytest

from rsedge import machine


def test_the_processor_is_named_as_the_system_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo, board = tmp_path / "cpuinfo", tmp_path / "model"
    monkeypatch.setattr(machine, "CPUINFO", cpuinfo)
    monkeypatch.setattr(machine, "BOARD", board)
    assert machine.cpu_name()  # neither is there: still a name
    board.write_bytes(b"NVIDIA Jetson Orin Nano\0")
    cpuinfo.write_text("processor : 0\nCPU part : 0xd42\n")
    assert machine.cpu_name() == "NVIDIA Jetson Orin Nano"
    cpuinfo.write_text("processor : 0\nmodel name\t: EPYC: the second\n")
    assert machine.cpu_name() == "EPYC: the second"
