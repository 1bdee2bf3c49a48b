from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from labelled import indices, paint, save, scene_folder
from rsedge.cli import main
from rsedge_train.data.detect import KNOWN
from toys import SHARED, shared

DUBAI = KNOWN["dubai"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rsedge", "data", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            main()
        return (int(end.value.code or 0), *capsys.readouterr())

    return call


def test_sound_data_exit_with_0(run, tmp_path: Path) -> None:
    scene_folder(tmp_path, ("a", "b"), DUBAI)
    code, printed, _ = run("check", tmp_path, "--val", "b", "--json")
    *lines, last = printed.splitlines()
    assert (code, lines[-1]) == (0, "ok")
    facts = json.loads(last)
    assert (facts["ok"], facts["sides"]["val"]["rasters"], facts["classes"][1]) == (True, 2, "land")


def test_problems_exit_with_2(run, tmp_path: Path) -> None:
    scene_folder(tmp_path, ("a", "b"), DUBAI)
    save(tmp_path / "a" / "masks" / "p1.png", paint(indices(48, 40, 5), DUBAI))
    code, printed, _ = run("check", tmp_path, "--labels-only")
    assert (code, printed.splitlines()[-1]) == (2, "1 problem")
    assert "problem: a/p1: " in printed


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("none",), "does not exist"),
        ((".", "--band-names", "a,b"), "not three names"),
        ((".", "--bands", "x"), "--bands 'x'"),
        ((".", "--classes", "none.toml"), "cannot be read as a class table"),
    ],
)
def test_wrong_usage_is_explained(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], message: str
) -> None:
    scene_folder(tmp_path, ("a", "b"), DUBAI)
    monkeypatch.chdir(tmp_path)
    code, printed, complaint = run("check", *args)
    assert code == 2
    assert message in complaint + printed


def test_problems_are_told_though_quiet(run, tmp_path: Path) -> None:
    scene_folder(tmp_path, ("a", "b"), DUBAI)
    code, printed, complaint = run("check", tmp_path, "--val", "b", "--quiet")
    assert (code, printed, complaint) == (0, "", "")
    (tmp_path / "a" / "masks" / "p0.png").write_bytes(b"no picture")
    code, printed, complaint = run("check", tmp_path, "--val", "b", "--quiet")
    assert code == 2
    assert printed == ""
    assert complaint
    assert all(line.startswith("error: ") for line in complaint.splitlines())


def test_help_names_the_command(run) -> None:
    code, printed, _ = run("--help")
    assert code == 0
    assert "check" in printed


@shared
def test_dubai_is_sound(run) -> None:
    code, printed, _ = run("check", SHARED / "dubai", "--val", "tile7", "--labels-only", "--json")
    facts = json.loads(printed.splitlines()[-1])
    assert code == 0
    train = facts["sides"]["train"]
    # Counted once with Pillow and numpy over the colours of all masks.
    assert train["class_pixels"] == [995709, 11931561, 1716966, 2952537, 10503032]
    assert train["unlabelled"] == 248391 + 1675
