from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rsedge.cli import main
from rsedge_export import build

BUILT: dict[str, Any] = {
    "out": "student.rsedge",
    "name": "student",
    "network": "efficientnet_b0",
    "weights": "runs/student/best.safetensors",
    "rehearsal": True,
    "tile": 512,
    "size_bytes": 12_600_000,
    "complexity": {
        "params": 6_716_689,
        "macs": 6_609_703_936,
        "params_deployed": 5_711_873,
        "macs_deployed": 5_835_854_848,
        "teacher": {"network": "arafnet-t", "params": 223_000_000, "macs": 226_000_000_000},
    },
    "parity": {
        "tiles": 8,
        "worst_error": 4.5e-4,
        "argmax_agreement": 0.9998,
        "clear_share": 0.97,
        "clear_agreement": 0.99999,
    },
    "weights_stored_as": "float16",
}


def run(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["rsedge", "export", *args])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What ``build_bundle`` was called with, in place of its work."""
    calls: list[Any] = []

    def fake(run: Path, out: Path, **options: object) -> dict[str, Any]:
        calls.append((run, out, options))
        return BUILT

    monkeypatch.setattr(build, "build_bundle", fake)
    return calls


def test_without_options_it_takes_the_student_of_this_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: list[Any]
) -> None:
    assert run(monkeypatch) == 0
    assert asked == [
        (Path("runs/student"), Path("student.rsedge"), {"name": None, "weights": "best"}),
    ]
    printed, said = capsys.readouterr()
    assert "student.rsedge, 12.6 MB" in printed
    assert "6.717 M, 5.712 M as exported" in printed
    assert "6.61 G a 512 px tile, 5.84 G as exported" in printed
    assert "arafnet-t: 223.000 M parameters" in printed
    assert "99.980% of the pixels, 99.999% of the 97.0% that are no near tie" in printed
    assert "note: runs/student is a rehearsal" in said


def test_options_go_through_and_json_is_the_last_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: list[Any]
) -> None:
    args = (
        "--run",
        "runs/teacher",
        "--out",
        "t.rsedge",
        "--weights",
        "last",
        "--name",
        "big",
        "--json",
        "-q",
    )
    assert run(monkeypatch, *args) == 0
    assert asked == [(Path("runs/teacher"), Path("t.rsedge"), {"name": "big", "weights": "last"})]
    printed, said = capsys.readouterr()
    assert json.loads(printed) == BUILT
    assert said == ""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--trt",), "TensorRT engines are not built yet"),
        ((), "no run at runs/student"),
        (("--out", "photos.rsedge"), "is not a bundle"),
        (("--out", "none/b.rsedge"), "does not exist"),
    ],
)
def test_what_cannot_be_is_explained_and_exits_with_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    args: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos.rsedge").mkdir()
    (tmp_path / "photos.rsedge" / "wedding.jpg").touch()
    assert run(monkeypatch, *args) == 2
    assert message in capsys.readouterr().err


def test_a_missing_package_prints_the_pip_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rsedge_export.build", None)
    assert run(monkeypatch) == 1
    assert 'pip install "rsedge[export]"' in capsys.readouterr().err
