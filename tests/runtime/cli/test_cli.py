from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS

from artifacts import graph_of, make_artifacts
from rsedge.engine.stages import STAGES
from toys import pointwise_graph, pointwise_manifest, strongest

Run = Callable[..., tuple[int, str, str]]
Write = Callable[..., Path]
Noise = Callable[..., np.ndarray]
SHORT = ("--rounds", 1, "--seconds", 0, "--size", 70, "--threads", 1)


@pytest.fixture
def run(call_rsedge: Run) -> Run:
    """Run ``rsedge ARGS`` in this process: (exit code, standard output, standard error)."""
    return call_rsedge


def test_infer_says_where_the_mask_is_and_what_it_found(
    run: Run, bundle: Path, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    pixels = noise(150, 130)
    out, picture = tmp_path / "mask.tif", tmp_path / "look.png"
    code, printed, _ = run(
        "infer",
        write_raster(pixels),
        "--out",
        out,
        "--model",
        bundle,
        "--preview",
        picture,
        "--json",
        "--seam",
        "crop",
    )
    assert code == 0
    facts = json.loads(printed.splitlines()[-1])
    assert (facts["out"], facts["preview"], facts["seam"]) == (str(out), str(picture), "crop")
    assert facts["provider"] == "CPUExecutionProvider"
    assert facts["grid"]["crs"] == "EPSG:32631"
    assert facts["windows"] == 9
    counts = np.bincount(strongest(pixels).ravel(), minlength=3)
    assert [c["pixels"] for c in facts["classes"]] == counts.tolist()
    assert [c["area_m2"] for c in facts["classes"]] == pytest.approx((counts * 0.25).tolist(), rel=1e-3)
    assert list(facts["seconds"]) == ["prepare", *STAGES, "write", "busy", "total"]
    assert facts["peak_rss_bytes"] > 1 << 20
    assert f"mask     {out}" in printed
    assert "green" in printed
    with rasterio.open(out) as src:
        np.testing.assert_array_equal(src.read(1), strongest(pixels))


def test_quiet_prints_nothing(
    run: Run, bundle: Path, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    result = run("infer", write_raster(noise(9, 9)), "--out", tmp_path / "m.tif", "--model", bundle, "-q")
    assert result == (0, "", "")


def test_quiet_leaves_notes_out_and_errors_in(
    run: Run, bundle: Path, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    local = CRS.from_wkt('LOCAL_CS["site grid",UNIT["metre",1]]')
    raster = write_raster(noise(9, 9), "town.tif", crs=local)
    told = ("--out", tmp_path / "m.tif", "--model", bundle)
    assert "note: areas are unknown" in run("infer", raster, *told)[2]
    assert run("infer", raster, *told, "-q") == (0, "", "")
    assert run("infer", raster, *told, "-q", "--resume") == (0, "", "")  # finished already
    wide = write_raster(noise(70, 70).astype(np.uint16) * 100, "wide.tif")
    assert run("infer", wide, "--out", tmp_path / "w.tif", "--model", bundle, "--scale", "auto", "-q") == (
        0,
        "",
        "",
    )
    assert run("infer", tmp_path / "none.tif", *told, "-q")[2].startswith("error: ")
    (tmp_path / "data").mkdir()
    write_raster(np.ones((3, 9, 9), np.float32), "data/a.tif")
    write_raster(np.full((1, 9, 9), 1, np.uint8), "data/a_labels.tif")
    score = ("eval", tmp_path / "data", "--model", bundle, "--scale", "0,3000", "--allow-missing-classes")
    assert "note: " in run(*score)[2]
    assert run(*score, "-q") == (0, "", "")


def test_a_layer_of_the_polygons_is_chosen_by_its_option(
    run: Run, bundle: Path, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    pyogrio, shapely = pytest.importorskip("pyogrio"), pytest.importorskip("shapely")
    path, raster = tmp_path / "a.gpkg", write_raster(noise(40, 60))
    with rasterio.open(raster) as src:
        west, north, crs = src.transform.c, src.transform.f, src.crs.to_wkt()
    for layer, size in (("small", 5), ("large", 20)):
        box = shapely.box(west, north - size / 2, west + size / 2, north)
        pyogrio.raw.write(
            path, np.array([shapely.to_wkb(box)], object), [np.array([1])], ["id"], layer=layer,
            geometry_type="Polygon", crs=crs, driver="GPKG",
        )  # fmt: skip
    told = ("infer", raster, "--out", tmp_path / "m.tif", "--model", bundle, "--crop")
    code, _, said = run(*told, "--aoi", path)
    assert (code, "Choose one with --aoi-layer" in said) == (2, True)
    assert run(*told, "--aoi", path, "--aoi-layer", "large")[0] == 0
    with rasterio.open(tmp_path / "m.tif") as src:
        assert src.shape == (20, 20)
    code, _, said = run(*told[:-1], "--aoi-layer", "large")
    assert (code, "without aoi" in said) == (2, True)


def test_a_reader_that_leaves_early_is_no_failure(
    bundle: Path, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "rsedge", "infer", write_raster(noise(9, 9)), "--json"]
    command += ["--out", tmp_path / "m.tif", "--model", bundle]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=60) == 0
    assert (tmp_path / "m.tif").exists()


def test_sample_then_eval_of_a_model_that_knows_colours_only(run: Run, tmp_path: Path) -> None:
    code, printed, _ = run("sample", tmp_path / "town.tif", "--size", "300x200", "--seed", 3)
    assert code == 0
    assert f"labels   {tmp_path / 'town_labels.tif'}" in printed
    with rasterio.open(tmp_path / "town.tif") as image, rasterio.open(tmp_path / "town_labels.tif") as labels:
        assert (image.count, image.shape, image.transform) == (3, (200, 300), labels.transform)
        assert labels.read(1).max() <= 4
        assert image.crs == labels.crs
    code, printed, _ = run("eval", tmp_path, "--json")
    assert code == 0
    facts = json.loads(printed.splitlines()[-1])
    assert facts["pixels"] == 300 * 200
    assert 0 < facts["miou"] <= 1


def test_infer_takes_the_precision_asked_for_and_says_what_it_costs(
    run: Run, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    manifest = pointwise_manifest()
    graphs = {p: graph_of(manifest, p) for p in ("fp32", "int8")}
    report = {"artifacts": {"model.int8.onnx": {"forced": True}}}
    folder = make_artifacts(tmp_path / "b.rsedge", manifest, graphs, report)
    command = ("infer", write_raster(noise(70, 70)), "--out", tmp_path / "m.tif", "--model", folder)
    code, printed, said = run(*command, "--device", "cpu", "--precision", "int8", "--json")
    assert (code, json.loads(printed.splitlines()[-1])["precision"]) == (0, "int8")
    assert "slower than fp32" in said
    assert "--device openvino" in said
    assert "was kept by force" in said
    code, printed, said = run(*command, "--device", "cpu", "--json")
    assert (code, json.loads(printed.splitlines()[-1])["precision"], said) == (0, "fp32", "")
    code, _, said = run("bench", folder, "--device", "cpu", "--precision", "int8", *SHORT)
    assert (code, "slower than fp32" in said) == (0, True)


BAD_INPUT = {
    "missing file": (("none.tif",), "none.tif not found"),
    "a folder": ((".",), "is a folder"),
    "not a raster": (("text.tif",), "cannot be opened as a raster"),
    "truncated": (("broken.tif",), "truncated or damaged"),
    "too few bands": (("grey.tif",), "1 usable band but the model needs 3"),
    "complex": (("complex.tif",), "complex64"),
    "float": (("float.tif",), "--scale LOW,HIGH"),
    "float out of range": (("float.tif", "--scale", "0,1"), "outside --scale"),
    "no model": (("good.tif", "--model", "none.rsedge"), "none.rsedge not found"),
    "corrupt onnx": (("good.tif", "--model", "corrupt.onnx"), "not an ONNX file"),
    "foreign onnx": (("good.tif", "--model", "foreign.onnx"), "no rsedge metadata"),
    "text as model": (("good.tif", "--model", "text.tif"), "no rsedge metadata"),
    "overlap": (("good.tif", "--overlap", "2"), "0..0.75"),
    "overlap, not a number": (("good.tif", "--overlap", "much"), "--overlap"),
    "seam": (("good.tif", "--seam", "glue"), "blend, crop"),
    "format": (("good.tif", "--format", "jpeg"), "cog, gtiff"),
    "device": (("good.tif", "--device", "tpu"), "auto, cpu, cuda"),
    "precision": (("good.tif", "--precision", "int4"), "fp32, fp16, int8"),
    "precision that is not there": (("good.tif", "--precision", "int8"), "no model.int8.onnx"),
    "bands": (("good.tif", "--bands", "a,b"), "--bands 'a,b'"),
    "band 9": (("good.tif", "--bands", "1,2,9"), "bands 1 to 3"),
    "scale": (("good.tif", "--scale", "5"), "LOW,HIGH"),
    "scale upside down": (("good.tif", "--scale", "5,1"), "LOW below HIGH"),
    "option": (("good.tif", "--frobnicate"), "--frobnicate"),
    "out is another raster": (("good.tif", "--out", "grey.tif"), "was not written by rsedge"),
    "out is protected": (("good.tif", "--out", "protected.tif"), "write-protected"),
    "out of another kind": (("good.tif", "--out", "m.png"), "must end in .tif"),
    "preview of another kind": (("good.tif", "--preview", "p.jpg"), "must end in .png"),
    "out folder": (("good.tif", "--out", "none/m.tif"), "does not exist"),
    "out is input": (("good.tif", "--out", "good.tif"), "is an input"),
    "out is a folder": (("good.tif", "--out", "folder.tif"), "not a file"),
    "preview folder": (("good.tif", "--preview", "none/p.png"), "does not exist"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gives_a_message_and_leaves_the_target_alone(
    run: Run,
    bundle: Path,
    write_raster: Write,
    noise: Noise,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_raster(noise(90, 90), "good.tif")
    write_raster(noise(90, 90)[:1], "grey.tif")
    write_raster(noise(9, 9).astype(np.complex64), "complex.tif")
    write_raster(noise(9, 9).astype(np.float32) * 99, "float.tif")
    Path("text.tif").write_text("I am not an image")
    whole = write_raster(noise(300, 300), "broken.tif", tiled=True, blockxsize=64, blockysize=64)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 3])
    graph = pointwise_graph(pointwise_manifest()).SerializeToString()
    Path("corrupt.onnx").write_bytes(graph[:-40])
    Path("foreign.onnx").write_bytes(
        pointwise_graph(pointwise_manifest(), metadata=False).SerializeToString()
    )
    Path("mask.tif").write_bytes(b"an earlier mask")
    Path("folder.tif").mkdir()
    Path("protected.tif").touch(mode=0o444)
    before = sorted(os.listdir())
    args, message = BAD_INPUT[case]
    model = () if "--model" in args else ("--model", bundle)
    code, printed, complaint = run("infer", "--out", "mask.tif", *args, *model)
    assert code == 2
    assert message in complaint
    assert "Traceback" not in complaint
    assert printed == ""
    assert Path("mask.tif").read_bytes() == b"an earlier mask"
    assert sorted(os.listdir()) == before


def test_a_foreign_raster_is_replaced_only_when_asked_and_a_link_stays_a_link(
    run: Run, bundle: Path, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    raster, other = write_raster(noise(70, 70)), write_raster(noise(9, 9), "other.tif")
    link = tmp_path / "link.tif"
    link.symlink_to(other)
    for target in (other, link):
        assert run("infer", raster, "--out", target, "--model", bundle)[0] == 2
    assert run("infer", raster, "--out", link, "--model", bundle, "--overwrite")[0] == 0
    assert link.is_symlink()
    with rasterio.open(other) as src:
        assert src.shape == (70, 70)
    assert run("infer", raster, "--out", link, "--model", bundle)[0] == 0  # rsedge's own


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (63, 64), (65, 64)])
def test_small_and_thin_rasters_work(
    run: Run, bundle: Path, write_raster: Write, noise: Noise, tmp_path: Path, shape: tuple[int, int]
) -> None:
    pixels = noise(*shape)
    code, _, _ = run(
        "infer",
        write_raster(pixels),
        "--out",
        tmp_path / "m.tif",
        "--model",
        bundle,
        "--preview",
        tmp_path / "p.png",
    )
    assert code == 0
    with rasterio.open(tmp_path / "m.tif") as src:
        np.testing.assert_array_equal(src.read(1), strongest(pixels))


def test_a_failure_that_is_not_the_users_fault_exits_with_1(
    run: Run, bundle: Path, write_raster: Write, noise: Noise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("rsedge.raster.stored_blocks.sync", full)
    code, _, complaint = run(
        "infer", write_raster(noise(9, 9)), "--out", tmp_path / "m.tif", "--model", bundle
    )
    assert (code, "No space left" in complaint) == (1, True)


@pytest.mark.parametrize("command", [[], ["infer"], ["eval"], ["sample"], ["verify"]])
def test_every_command_has_help(run: Run, command: list[str]) -> None:
    code, printed, _ = run(*command, "--help")
    assert code == 0
    assert "Usage: rsedge" in printed


def test_version(run: Run) -> None:
    code, printed, _ = run("--version")
    assert code == 0
    assert printed.startswith("rsedge ")


IMPORT_ALL = """
import importlib, pkgutil, sys
extras = "torch torchvision timm onnx onnxruntime openvino tensorrt pycuda safetensors rsedge_train rsedge_export"
for name in extras.split():
    sys.modules[name] = None
import rsedge
for module in pkgutil.walk_packages(rsedge.__path__, "rsedge."):
    if module.name != "rsedge.__main__":
        importlib.import_module(module.name)
"""


def test_the_runtime_imports_without_any_extra() -> None:
    subprocess.run([sys.executable, "-c", IMPORT_ALL], check=True)


def test_a_command_starts_without_the_modules_of_the_others() -> None:
    code = (
        "import sys; from rsedge.cli import app; app(['infer', '--help'], standalone_mode=False)\n"
        "print(*(m for m in sys.modules if m.startswith('rsedge.cli.')))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    loaded = set(found.splitlines()[-1].split())
    assert "rsedge.cli.infer" in loaded
    assert not {"rsedge.cli.bench", "rsedge.cli.training", "rsedge.cli.watch"} & loaded
