from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import rasterio
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file
from torch import nn

from graphs import graph, make
from rsedge import InputError, ModelError, open_model, segment
from rsedge.model.bundle import Bundle, file_sha256, write_bundle_manifest
from rsedge.model.manifest import ClassInfo
from rsedge.tiling.window import Window
from rsedge.verify.tiles import SampleTiles
from rsedge.verify.verify import VerifyOptions, verify
from rsedge_export.bundle import assemble, build
from rsedge_export.bundle.assemble import Calibration, Plan
from rsedge_export.graph.foreign import ForeignFacts
from rsedge_export.precision.calibration import Imagery
from rsedge_export.precision.variants import Wanted
from rsedge_export.proof import parity
from rsedge_sample import SampleScene
from rsedge_sample.files import LANDCOVER
from rsedge_train.data.pixels import normalise
from rsedge_train.fit.state import LAST_NAME
from rsedge_train.nets.registry import build as build_net
from rsedge_train.run import folder as run_folder
from rsedge_train.run.folder import Run, load_network
from tinynet import tiny_answer, tiny_graph
from toys import CLASSES

NETWORK = "mobilenetv3_small_100-w32-sep"
TILE, CROP = 256, 128  # crops smaller than the tile, so that some dilated taps were never trained
FP32 = Wanted(precisions=())
FACTS = Run(
    "student",
    NETWORK,
    LANDCOVER,
    ("red", "green", "blue"),
    CROP,
    (0.25, 1.0),
    data={"name": "towns", "source": {"path": "/home/me/towns"}},
)


@pytest.fixture(scope="module", autouse=True)
def small_tile() -> Iterator[None]:
    """Half of what runs are exported at: the same in a quarter of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "TILE", TILE)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a run folder of a small student whose batch statistics are not the initial ones."""
    torch.manual_seed(0)
    net = build_net(NETWORK, len(LANDCOVER))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average, so that two batches settle it
    net.train()
    with torch.no_grad():
        for seed in range(2):
            image, _ = SampleScene(TILE, TILE, seed).render(Window(0, 0, TILE, TILE))
            net(normalise(torch.from_numpy(image[None]).repeat(2, 1, 1, 1)))
    folder = tmp_path_factory.mktemp("run")
    save_file(net.state_dict(), folder / LAST_NAME)
    teacher = {"network": "efficientnet_b0", "params": 1, "macs": 2, "macs_tile": 2 * TILE}
    replace(FACTS, teacher=teacher, rehearsal=True).write(folder)
    return folder


@pytest.fixture(scope="module")
def built(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("out") / "town.rsedge"
    return out, build.build_bundle(run, Plan(out, FP32))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export and proof done at once, for tests of what stands around them."""
    monkeypatch.setattr(build, "export_onnx", lambda _model, _manifest, path: path.write_bytes(b"new"))
    monkeypatch.setattr(build, "write_reference", lambda *_: None)
    monkeypatch.setattr(build, "compare", lambda *_: parity.Parity(1, 0.0, 1.0, 1.0, 1.0))
    monkeypatch.setattr(build, "deploy", lambda net, _tile: net)


def test_the_student_on_a_crop_and_infer_on_its_geotiff_agree(
    run: Path, built: tuple[Path, Any], write_raster: Callable[..., Path], tmp_path: Path
) -> None:
    net, _ = load_network(run)  # folded, as trained on crops
    pixels, _ = SampleScene(TILE, TILE, 5).render(Window(0, 0, TILE, TILE))
    with torch.inference_mode():
        scores = net(normalise(torch.from_numpy(pixels[None])))[0].numpy()
    with open_model(built[0]) as model:
        segment(model, write_raster(pixels), tmp_path / "mask.tif")
    best = np.sort(scores, axis=0)
    clear = best[-1] - best[-2] > 0.02 * (scores.max() - scores.min())
    assert clear.mean() > 0.5
    assert len(np.unique(scores.argmax(0)[clear])) > 1  # a constant answer would agree by chance
    with rasterio.open(tmp_path / "mask.tif") as src:
        assert (src.read(1) == scores.argmax(0))[clear].mean() >= 0.999


def test_the_bundle_says_what_it_is(run: Path, built: tuple[Path, Any]) -> None:
    out, told = built
    manifest = Bundle.open(out).manifest
    net = build_net(NETWORK, len(LANDCOVER))
    assert (manifest.name, manifest.tile, manifest.gsd_m) == ("town", TILE, (0.25, 1.0))
    assert [c.name for c in manifest.classes] == [c.name for c in LANDCOVER]
    counts = manifest.complexity
    assert counts["network"] == NETWORK
    assert counts["params"] == sum(p.numel() for p in net.parameters())
    assert counts["macs_deployed"] < counts["macs"]
    # The run's counts are of another tile than the student's, so they were counted again.
    teacher = build_net("efficientnet_b0", len(LANDCOVER))
    assert counts["teacher"]["params"] == sum(p.numel() for p in teacher.parameters())
    assert (counts["teacher"]["network"], counts["teacher"]["macs_tile"]) == ("efficientnet_b0", TILE)
    assert counts["teacher"]["macs"] > counts["macs"]
    training = manifest.provenance["training"]
    assert training["data"] == {"name": "towns", "source": {"path": "towns"}}  # nobody's folders
    assert training["rehearsal"] is told["rehearsal"] is True
    assert training["weights"] == {"file": LAST_NAME, "sha256": file_sha256(run / LAST_NAME)}
    assert told["artifacts"] == {"model.fp32.onnx": (out / "model.fp32.onnx").stat().st_size}
    assert (told["role"], told["network"], told["weights"]) == ("student", NETWORK, str(run / LAST_NAME))


def test_weights_are_stored_as_they_were_trained(built: tuple[Path, Any]) -> None:
    """fp32 throughout: what is reduced says so in its name."""
    model = onnx.load(built[0] / "model.fp32.onnx")
    kinds = {t.data_type for t in model.graph.initializer if np.prod(t.dims) > 16}
    assert kinds == {onnx.TensorProto.FLOAT}
    # The classifier is behind everything that deployment merges.
    head = load_file(built[1]["weights"])["decoder.head.6.weight"].numpy()
    stored = [numpy_helper.to_array(t) for t in model.graph.initializer]
    assert any(t.shape == head.shape and (t == head).all() for t in stored)


def test_the_report_holds_the_proof_and_where_its_tiles_are_from(built: tuple[Path, Any]) -> None:
    out, told = built
    report = json.loads((out / "report.json").read_text())
    record = report["artifacts"]["model.fp32.onnx"]
    assert record == told["report"]["artifacts"]["model.fp32.onnx"] == Bundle.open(out).record()
    assert record["tiles"] == build.PARITY_TILES
    assert record["argmax_agreement"] > 0.99
    assert record["worst_error"] < 1e-4  # no rounding but fp32's own
    assert 0.5 < record["clear_share"] <= 1
    assert "sample scene" in record["tiles_from"]
    assert record["passed"] is True
    listed = json.loads((out / "manifest.json").read_text())["artifacts"]
    assert listed["report.json"] == file_sha256(out / "report.json")


def test_the_reference_answer_is_torchs_and_verify_passes(run: Path, built: tuple[Path, Any]) -> None:
    out, _ = built
    net, _ = load_network(run)
    with np.load(out / "reference.npz") as file:
        stored = {name: file[name] for name in file.files}
    assert stored["pixels"].shape == (build.REFERENCE_TILES, 3, TILE, TILE)
    with torch.inference_mode():
        scores = net(normalise(torch.from_numpy(stored["pixels"]))).numpy()
    span = np.ptp(scores)
    assert (stored["classes"] == scores.argmax(1)).mean() > 0.999
    assert stored["scores"].dtype == np.float16
    assert np.abs(stored["scores"] - scores[:, :, ::8, ::8]).max() < 2e-3 * span
    found = verify(out, VerifyOptions(tiles=1, threads=1))
    assert found.fingerprint is not None
    assert found.fingerprint.passed
    assert found.fingerprint.agreement > 0.999
    assert not found.failures


def test_an_edited_answer_does_not_verify(built: tuple[Path, Any], tmp_path: Path) -> None:
    out = tmp_path / "b.rsedge"
    shutil.copytree(built[0], out)
    with np.load(out / "reference.npz") as file:
        stored = {name: file[name] for name in file.files}
    np.savez(out / "reference.npz", **{**stored, "classes": np.roll(stored["classes"], 40, 1)})
    write_bundle_manifest(out, Bundle.open(out).manifest)
    assert any(
        "the exporter's answer" in why for why in verify(out, VerifyOptions(tiles=1, threads=1)).failures
    )


def test_the_teachers_own_counts_are_taken_where_the_tile_is_the_same() -> None:
    facts = {"network": "arafnet-t", "params": 1, "macs": 2, "macs_tile": TILE, "size_bytes": 4}
    run = replace(FACTS, teacher={**facts, "folder": "runs/teacher"})
    net = build_net(NETWORK, len(LANDCOVER))
    assert build._complexity(net, run)["teacher"] == facts
    assert "teacher" not in build._complexity(net, FACTS)


@pytest.mark.usefixtures("quick")
class TestTheFolder:
    def test_best_weights_are_taken_where_there_are_some(self, run: Path, tmp_path: Path) -> None:
        state = load_file(run / LAST_NAME)
        save_file(state, tmp_path / LAST_NAME)
        save_file(state, tmp_path / "best.safetensors")
        FACTS.write(tmp_path)
        out = tmp_path / "b.rsedge"
        assert build.build_bundle(tmp_path, Plan(out, FP32))["weights"].endswith("best.safetensors")
        told = build.build_bundle(
            tmp_path, Plan(out, FP32), weights="last", name="other"
        )  # replaces the first
        assert (told["weights"].endswith(LAST_NAME), told["name"]) == (True, "other")
        assert sorted(p.name for p in out.iterdir()) == ["manifest.json", "model.fp32.onnx", "report.json"]

    def test_a_file_that_disagrees_is_not_published(
        self, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(build, "compare", lambda *_: parity.Parity(1, 0.2, 1.0, 1.0, 1.0))
        out = tmp_path / "b.rsedge"
        out.mkdir()
        (out / "manifest.json").write_text("an earlier bundle")
        with pytest.raises(ModelError, match="does not compute what the network computes"):
            build.build_bundle(run, Plan(out, FP32))
        assert (out / "manifest.json").read_text() == "an earlier bundle"
        assert [p.name for p in tmp_path.iterdir()] == ["b.rsedge"]

    def test_a_network_that_onnx_does_not_take_is_named(
        self, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("no symbol for aten::frobnicate\nand a long trace")

        monkeypatch.setattr(build, "export_onnx", fail)
        with pytest.raises(ModelError, match=rf"{NETWORK} cannot be converted to ONNX .*frobnicate\)"):
            build.build_bundle(run, Plan(tmp_path / "b.rsedge", FP32))
        assert not list(tmp_path.iterdir())

    def test_an_empty_folder_is_no_obstacle(self, run: Path, tmp_path: Path) -> None:
        (tmp_path / "b.rsedge").mkdir()
        build.build_bundle(run, Plan(tmp_path / "b.rsedge", FP32))
        assert (tmp_path / "b.rsedge" / "manifest.json").is_file()

    def test_a_run_that_is_none_and_weights_that_are_none(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is not a run folder"):
            build.build_bundle(tmp_path, Plan(tmp_path / "b.rsedge"))
        FACTS.write(tmp_path)
        with pytest.raises(InputError, match="is not finished"):
            build.build_bundle(tmp_path, Plan(tmp_path / "b.rsedge"))
        with pytest.raises(InputError, match="Choose best or last"):
            build.build_bundle(tmp_path, Plan(tmp_path / "b.rsedge"), weights="worst")


def test_calibration_data_that_do_not_do_stop_it_before_the_export(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "deploy", lambda *_: pytest.fail("worked"))
    (tmp_path / "photos").mkdir()
    plan = Plan(tmp_path / "b.rsedge", calibration=Calibration((str(tmp_path / "photos"),)))
    with pytest.raises(InputError, match="holds no raster to calibrate on"):
        build.build_bundle(run, plan)


@pytest.mark.usefixtures("quick")
def test_a_run_whose_data_are_gone_gets_no_int8(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def fake(_folder: Path, _manifest: object, imagery: object, wanted: Wanted, *_: object) -> Any:
        asked.append((imagery, wanted.precisions))
        return {"calibration": None, "artifacts": {}, "ladder": []}

    monkeypatch.setattr(assemble, "make_variants", fake)
    told = build.build_bundle(run, Plan(tmp_path / "b.rsedge"))
    assert asked == [(Imagery((), 16, 16), ("fp16",))]
    assert "training images were not found" in told["report"]["notes"][0]


class TestAForeignFile:
    """Normalised float32 in 0..1 in, as others write it; with mean 0 and std 1 it is ``tinynet``."""

    FACTS = ForeignFacts(CLASSES, (0.0,) * 3, (1.0,) * 3, gsd_m=(0.25, 1.0))

    def test_it_becomes_a_bundle_of_every_precision(self, tmp_path: Path) -> None:
        onnx.save(tiny_graph(raw=False), tmp_path / "unet.onnx")
        out = tmp_path / "b.rsedge"
        plan = Plan(out, calibration=Calibration(("samples",), 16))
        told = build.adopt_bundle(tmp_path / "unet.onnx", self.FACTS, plan)
        assert Bundle.open(out).precisions == ("fp32", "fp16", "int8", "int8-trt8", "int8-trt10")
        assert (told["role"], told["name"], told["rehearsal"]) == ("foreign", "unet", False)
        assert told["weights"] == str(tmp_path / "unet.onnx")
        assert "before opset and batch" in Bundle.open(out).record()["against"]
        assert Bundle.open(out).manifest.fill == (0, 0, 0)
        tiles = [tile.pixels for tile in SampleTiles(Bundle.open(out).manifest, 4, None)]
        for precision, least in (("fp32", 0.9999), ("fp16", 0.999), ("int8", 0.98)):
            with open_model(out, threads=1, precision=precision) as model:
                same = [
                    (model.infer(p[None])[0].argmax(0) == tiny_answer(p[None] / 255)[0].argmax(0)).mean()
                    for p in tiles
                ]
            assert np.mean(same) > least
        assert not verify(out, VerifyOptions(tiles=2, device="cpu", threads=1)).failures

    def test_probabilities_in_it_are_those_of_every_precision(self, tmp_path: Path) -> None:
        made = tiny_graph(raw=False)
        scores = made.graph.output[0].name
        weights = {"axis": np.array([1], np.int64)}
        made.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in weights.items())
        made.graph.node.extend(  # a softmax written out, which cannot be cut
            [
                make("Exp", [scores], "e"),
                make("ReduceSum", ["e", "axis"], "s"),
                make("Div", ["e", "s"], "shares"),
            ]
        )
        made.graph.output[0].name = "shares"
        onnx.save(made, tmp_path / "unet.onnx")
        out = tmp_path / "b.rsedge"
        told = build.adopt_bundle(
            tmp_path / "unet.onnx", self.FACTS, Plan(out, calibration=Calibration(("samples",), 16))
        )
        assert "logarithm" in " ".join(told["report"]["notes"])
        tiles = [tile.pixels for tile in SampleTiles(Bundle.open(out).manifest, 2, None)]
        for precision, near in (("fp32", 1e-3), ("fp16", 5e-3), ("int8", 0.06)):
            with open_model(out, threads=1, precision=precision) as model:
                for tile in tiles:
                    powers = np.exp(tiny_answer(tile[None] / 255)[0])
                    found = np.exp(model.infer(tile[None])[0])
                    assert np.abs(found / found.sum(0) - powers / powers.sum(0)).mean() < near

    def test_without_imagery_it_has_no_int8(self, tmp_path: Path) -> None:
        onnx.save(tiny_graph(raw=False), tmp_path / "unet.onnx")
        told = build.adopt_bundle(tmp_path / "unet.onnx", self.FACTS, Plan(tmp_path / "b.rsedge"))
        assert sorted(told["artifacts"]) == ["model.fp16.onnx", "model.fp32.onnx"]
        assert "--calibration" in told["report"]["notes"][0]

    def test_bands_that_no_sample_scene_has(self, tmp_path: Path) -> None:
        shape = ["batch", 4, 64, 64]
        model = graph([make("Relu", ["pixels"], "scores")], {}, shape, shape)
        onnx.save(model, tmp_path / "four.onnx")
        classes = (*CLASSES, ClassInfo("grey", (9, 9, 9)))
        facts = ForeignFacts(classes, (0.0,) * 4, (1.0,) * 4, bands=("red", "green", "blue", "nir"))
        plan = Plan(tmp_path / "b.rsedge")
        told = build.adopt_bundle(tmp_path / "four.onnx", facts, plan)
        assert sorted(told["artifacts"]) == ["model.fp32.onnx"]
        assert "INT8 was skipped" in told["report"]["notes"][0]
        assert "FP16 was skipped" in told["report"]["notes"][1]
        assert told["report"]["calibration"] is None
        plan = Plan(tmp_path / "c.rsedge", calibration=Calibration(("samples",)))
        with pytest.raises(InputError, match="8-bit RGB"):
            build.adopt_bundle(tmp_path / "four.onnx", facts, plan)

    def test_what_cannot_be_used_leaves_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "no.onnx").write_bytes(b"no")
        with pytest.raises(ModelError, match="not an ONNX file"):
            build.adopt_bundle(tmp_path / "no.onnx", self.FACTS, Plan(tmp_path / "b.rsedge"))
        assert [p.name for p in tmp_path.iterdir()] == ["no.onnx"]
