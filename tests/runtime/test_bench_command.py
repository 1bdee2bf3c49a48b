from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rsedge.cli import common
from toys import TILE, make_bundle, pointwise_graph, pointwise_manifest

Run = Callable[..., tuple[int, str, str]]
SHORT = ("--tile-count", 2, "--seconds", 0, "--size", 70, "--threads", 1)


@pytest.fixture
def run(call_rsedge: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs ``rsedge ARGS`` in tmp_path: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    return call_rsedge


def test_the_table_says_what_is_known_and_what_is_not(run: Run, bundle: Path) -> None:
    code, printed, _ = run("bench", "--model", bundle, *SHORT, "--json")
    assert code == 0
    facts = json.loads(printed.splitlines()[-1])
    assert facts["latency"]["runs"] == 2
    assert facts["path"] == str(bundle)
    lines = {line.split("  ")[0]: line for line in printed.splitlines()}
    assert lines["parameters"].split("  ")[1].strip() != "0.000 M"
    assert "not measured" in lines["parameters"]
    assert f"{facts['latency']['tiles_per_s']:.1f} tiles/s" in lines["model alone"]
    assert facts["conditions"]["cpu"] in printed
    assert f"{facts['end_to_end']['windows']} windows" in printed


def test_the_teacher_stands_beside_it(run: Run, tmp_path: Path) -> None:
    counts = {"network": "small", "params": 2_000_000, "macs": 4_000_000_000, "macs_tile": TILE}
    teacher = {"network": "large", "params": 60_000_000, "macs": 80_000_000_000, "macs_tile": TILE}
    manifest = pointwise_manifest(complexity={**counts, "teacher": teacher})
    make_bundle(tmp_path / "b.rsedge", manifest, pointwise_graph(manifest))
    _, printed, _ = run("bench", "--model", "b.rsedge", *SHORT)
    rows = {line.split("  ")[0]: line.split() for line in printed.splitlines()}
    assert rows["parameters"][1:] == ["2.000", "M", "60.000", "M", "30.0"]
    assert rows[f"MACs, {TILE} px tile"][-5:] == ["4.00", "G", "80.00", "G", "20.0"]
    assert rows["FLOPs = 2 x MACs"][-5:] == ["8.00", "G", "160.00", "G", "20.0"]


def test_a_busy_machine_is_said(run: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsedge.conditions.load_1min", lambda: 1e3)
    _, _, said = run("bench", "--model", bundle, *SHORT)
    assert "note: other work was running (load 1000.0" in said


def test_quiet_prints_nothing(run: Run, bundle: Path) -> None:
    assert run("bench", "--model", bundle, *SHORT, "--quiet") == (0, "", "")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--tile-count", 0), "tile count 0"),
        (("--seconds", -1), "seconds -1"),
        (("--size", 0), "raster side 0"),
    ],
)
def test_impossible_options_exit_with_2(
    run: Run, bundle: Path, option: tuple[object, ...], message: str
) -> None:
    code, _, complaint = run("bench", "--model", bundle, *option)
    assert (code, message in complaint) == (2, True)


class TestTheModelOfThisFolder:
    def test_it_is_taken_and_said(
        self, run: Run, bundle: Path, write_raster: Callable[..., Path], noise: Callable[..., np.ndarray]
    ) -> None:
        shutil.copytree(bundle, common.OWN_MODEL)
        code, printed, said = run("infer", write_raster(noise(9, 9)), "--out", "mask.tif")
        assert code == 0
        assert "model    strongest-band" in printed
        assert "note: model student.rsedge (in this folder); choose another with --model" in said
        _, printed, said = run("bench", *SHORT)
        assert "strongest-band (student.rsedge)" in printed
        assert "note: model student.rsedge" in said

    def test_a_model_by_name_goes_before_it(
        self, run: Run, bundle: Path, write_raster: Callable[..., Path], noise: Callable[..., np.ndarray]
    ) -> None:
        common.OWN_MODEL.mkdir()
        raster = write_raster(noise(9, 9))
        code, _, said = run("infer", raster, "--out", "mask.tif", "--model", bundle)
        assert (code, "note: model" in said) == (0, False)
        # Without a name it is taken although it is broken: another model's mask would be worse.
        code, _, said = run("infer", raster, "--out", "mask.tif")
        assert (code, "student.rsedge is not a bundle" in said) == (2, True)

    def test_there_is_none(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        assert run  # in an empty folder
        assert common.model_or_default(None) is None
        assert common.model_or_default("other") == "other"
        common.OWN_MODEL.mkdir()
        assert common.model_or_default(None, quiet=True) == "student.rsedge"
        assert capsys.readouterr().err == ""
