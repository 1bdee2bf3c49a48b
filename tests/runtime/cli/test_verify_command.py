from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from artifacts import graph_of, make_artifacts
from toys import TILE, pointwise_manifest

Run = Callable[..., tuple[int, str, str]]
MANIFEST = pointwise_manifest()
FEW = ("--tiles", 1, "--threads", 1, "--device", "cpu")


@pytest.fixture
def run(call_rsedge: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run ``rsedge ARGS`` in tmp_path: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    return call_rsedge


def made(gains: tuple[float, ...] = (1, 1, 1), **more: object) -> Path:
    graphs = {"fp32": graph_of(MANIFEST), "int8": graph_of(MANIFEST, "int8", gains)}
    return make_artifacts(Path("student.rsedge"), MANIFEST, graphs, **more)  # type: ignore[arg-type]


def test_the_table_and_the_json(run: Run) -> None:
    made()
    code, printed, said = run("verify", *FEW, "--json")
    assert code == 0
    assert "note: model student.rsedge (in this folder)" in said
    facts = json.loads(printed.splitlines()[-1])
    assert (facts["passed"], facts["fingerprint"], facts["checks"][0]["found"]["agreement"]) == (
        True,
        None,
        1.0,
    )
    (row,) = (line for line in printed.splitlines() if line.startswith("int8"))
    assert row.split()[1:6] == ["CPUExecutionProvider", "1", "100.000%", "100.000%", "100.00%"]
    assert row.endswith("passed")
    assert "the bundle lacks the exporter's answer (reference.npz)" in printed
    assert "speeds     student.rsedge/speeds.json\n" in printed


def test_a_failure_exits_with_1_and_a_sentence_after_the_result(run: Run) -> None:
    folder = made((1, 2, 0.5))
    code, printed, complaint = run("verify", folder, *FEW, "--json")
    assert code == 1
    assert json.loads(printed.splitlines()[-1])["passed"] is False
    assert "FAILED" in printed
    assert "error: int8 on cpu: " in complaint
    assert "below the required 97%" in complaint


def test_what_is_missing_is_listed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsedge.verify.compare.find_spec", lambda _: None)
    code, printed, _ = run("verify", made(), "--tiles", 1, "--threads", 1)
    assert code == 0
    assert "all on tensorrt: not run: TensorRT is not installed" in printed
    assert "all on ort-tensorrt: not run: this onnxruntime does not offer TensorRT" in printed


def test_the_exporters_answer_is_compared(run: Run) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (1, 3, TILE, TILE)).astype(np.uint8)
    scores = pixels[..., ::8, ::8].astype(np.float16)
    folder = made(
        reference={"pixels": pixels, "classes": pixels.argmax(1).astype(np.uint8), "scores": scores}
    )
    code, printed, _ = run("verify", folder, *FEW)
    assert code == 0
    assert "exporter   fp32 equals the exporter's answer on 100.000% of pixels of 1 tiles" in printed


def test_a_map(run: Run, write_raster: Callable[..., Path], noise: Callable[..., np.ndarray]) -> None:
    folder, raster = made(), write_raster(noise(70, 70))
    code, printed, _ = run("verify", folder, *FEW, "--raster", raster, "--map", "where.tif")
    assert code == 0
    assert Path("where.tif").is_file()
    assert "where.tif: int8 CPUExecutionProvider, 100.000% agree" in printed


def test_seams(run: Run, write_raster: Callable[..., Path], noise: Callable[..., np.ndarray]) -> None:
    code, printed, _ = run("verify", made(), *FEW, "--seams", write_raster(noise(90, 150)), "--json")
    assert code == 0
    rows = [line for line in printed.splitlines() if line.startswith("seams ")]
    assert [row.split(":")[0] for row in rows] == [
        "seams      blend 25%",
        "seams      crop 25%",
        "seams      no overlap",
    ]
    assert all("0.000% of pixels within 8 px of tile borders, of 0.000% elsewhere" in row for row in rows)
    assert [s["ratio"] for s in json.loads(printed.splitlines()[-1])["seams"]] == [None] * 3


def test_a_raster_without_tile_borders(run: Run, write_raster: Callable[..., Path]) -> None:
    raster = write_raster(np.full((3, 9, 9), 7, np.uint8))
    code, _, complaint = run("verify", made(), *FEW, "--seams", raster)
    assert (code, "no tile borders" in complaint) == (2, True)


def test_quiet_prints_nothing(run: Run) -> None:
    assert run("verify", made(), *FEW, "-q") == (0, "", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tiles", 0), "at least 1"),
        (("--map", "m.tif"), "--raster"),
        (("--device", "tpu"), "auto, cpu, cuda, openvino, tensorrt"),
        (("--precision", "fp16"), "has no model.fp16.onnx"),
        (("none.rsedge",), "none.rsedge not found"),
    ],
)
def test_impossible_options_exit_with_2(run: Run, options: tuple[object, ...], message: str) -> None:
    folder = () if options[0] == "none.rsedge" else (made(),)
    code, _, complaint = run("verify", *folder, *options)
    assert (code, message in complaint) == (2, True)
