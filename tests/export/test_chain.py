"""The README's five lines one after another in one folder, each finding what the last one left."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from safetensors.torch import load_file
from typer.testing import CliRunner

from rsedge.cli.main import app
from rsedge.model.bundle import Bundle
from rsedge_train.run import folder as run_folder
from rsedge_train.run import pictures

SETTINGS = """
[train]
data = "data"
val = "c"
steps = 6
crop = 64
batch = 2
workers = 0
precision = "fp32"

[train-teacher]
sam2 = "tiny"
encoder-weights = "none"

[distill]
student = "mobilenetv3_small_100-w32-sep"
encoder-weights = "none"

[bench]
rounds = 1
seconds = 0
size = 512
"""
CLASSES = 'ignore = ["#000000"]\n[classes]\ndark = "#101010"\nbright = "#F0F0F0"\n'


@pytest.fixture
def folder(tmp_path, monkeypatch, write_raster):
    """Make a folder with settings, three labelled scenes and a raster to segment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder, "TILE", 64)
    monkeypatch.setattr(pictures, "SIDE", 64)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "classes.toml").write_text(CLASSES)
    rng = np.random.default_rng(0)
    for name in ("data/a", "data/b", "data/c", "big_tile"):
        image = np.kron(rng.integers(0, 256, (1, 25, 20)), np.ones((3, 8, 8))).astype(np.uint8)
        write_raster(image, f"{name}.tif")
        write_raster((image[:1] > 127).astype(np.uint8), f"{name}_labels.tif")
    (tmp_path / "rsedge.toml").write_text(SETTINGS)
    return tmp_path


def rsedge(*arguments):
    result = CliRunner().invoke(app, arguments)
    if result.exception:
        raise result.exception
    assert result.exit_code == 0
    return result.output


def test_the_five_lines(folder):
    assert "runs/teacher: arafnet-t-tiny, 6 steps" in rsedge("train-teacher")
    teacher = json.loads(Path("runs/teacher/run.json").read_text())
    assert teacher["data"]["source"]["path"] == str(folder / "data")
    trained = load_file("runs/teacher/weights.safetensors")
    assert any(name.startswith("encoder.trunk.") for name in trained)

    distilled = json.loads(rsedge("distill", "--json", "--quiet").splitlines()[-1])
    assert distilled["teacher"]["network"] == "arafnet-t-tiny"
    assert distilled["data"]["val"] == ["c"]
    assert {p.name for p in Path("runs/student").iterdir()} == {
        "run.json", "best.safetensors", "weights.safetensors", "state.safetensors", "scores.json",
        "log.csv", "tensorboard", "curves.png", "sheet.png",
    }  # fmt: skip

    printed = rsedge("export", "--calibration-tiles", "16")
    assert "teacher    arafnet-t-tiny" in printed
    bundle = Bundle.open("student.rsedge")
    # Two training scenes of 200 x 160 pixels; a network of six steps may or may not bear INT8, and fp16 it bears.
    assert bundle.report["calibration"] == "16 tiles of 2 rasters"
    assert set(bundle.precisions) >= {"fp32", "fp16"}
    assert ("int8" in bundle.precisions) == (bundle.why_not("int8") is None)
    assert "model.fp16.onnx" in printed
    manifest = bundle.manifest
    assert [c.name for c in manifest.classes] == ["dark", "bright"]
    assert manifest.complexity["teacher"]["params"] == distilled["teacher"]["params"]
    assert manifest.gsd_m == pytest.approx((0.5, 0.5), rel=1e-3)  # on the ground, not on the map

    output = rsedge("infer", "big_tile.tif", "--out", "mask.tif")
    assert "model student.rsedge (in this folder)" in output
    with rasterio.open("mask.tif") as mask, rasterio.open("big_tile.tif") as image:
        assert (mask.shape, mask.transform, mask.crs) == (image.shape, image.transform, image.crs)
        assert set(np.unique(mask.read(1))) <= {0, 1}

    # What goes to standard error may stand behind it.
    report = json.loads(next(line for line in rsedge("bench", "--json").splitlines() if line.startswith("{")))
    teacher, *students = report["rows"]
    assert (teacher["label"], teacher["name"], report["base"]) == ("T", "arafnet-t-tiny", "T")
    assert teacher["accuracy"]["source"] == "run.json: validation on c"
    assert all(row["fps_ratio"]["8"]["p50"] > 1 for row in students if row["backend"] == "onnxruntime")


def test_a_student_alone_goes_beside_the_distilled_one(folder):
    name = ("--out", "runs/alone", "--alone", "--steps", "2")
    assert "runs/alone: mobilenetv3_small_100-w32-sep, 2 steps" in rsedge("distill", *name)
    assert json.loads(Path("runs/alone/run.json").read_text())["teacher"] is None
    assert rsedge("distill", "--teacher", "runs/alone", "--compare", "runs/alone", "--quiet") == ""
    done = json.loads(Path("runs/student/run.json").read_text())
    assert done["teacher"]["folder"] == "runs/alone"
