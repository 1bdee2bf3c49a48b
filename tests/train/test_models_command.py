from __future__ import annotations

import json
import sys

import pytest

from rsedge.cli import main
from rsedge_train.nets.registry import build


def run(monkeypatch: pytest.MonkeyPatch, *args: str) -> None:
    monkeypatch.setattr(sys, "argv", ["rsedge", "models", *args])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code, end.value.code


def test_counts_are_those_of_the_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "mobilenetv3_small_100", "--json")
    (row,) = json.loads(capsys.readouterr().out)
    net = build("mobilenetv3_small_100", row["num_classes"])
    assert row["params"] == sum(p.numel() for p in net.parameters())
    assert row["paper"]["printed"]["params_m"] == 5.47


def test_summary_shows_stages_and_what_deployment_saves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "mobilenetv3_small_100", "--summary")
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("encoder.f4") and "1 x 576 x 16 x 16" in line for line in lines)
    assert lines[-2].startswith("logits")
    assert lines[-1].startswith("deployed")


def test_a_name_that_is_no_network_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rsedge", "models", "efficientnet_b99"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "efficientnet_b99" in capsys.readouterr().err
