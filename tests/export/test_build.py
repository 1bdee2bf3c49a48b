from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rsedge import InputError, ModelError, open_model, segment
from rsedge.bundle import Bundle, file_sha256
from rsedge.sample import SampleScene
from rsedge.sample_files import LANDCOVER
from rsedge.window import Window
from rsedge_export import build, parity
from rsedge_train.nets.registry import build as build_net
from rsedge_train.pixels import normalise
from rsedge_train.run_folder import LAST_NAME, Run, load_network

NETWORK = "mobilenetv3_small_100-w32-sep"
FACTS = Run(
    "student",
    NETWORK,
    LANDCOVER,
    ("red", "green", "blue"),
    256,
    (0.25, 1.0),
    data={"name": "towns", "source": {"path": "/home/me/towns"}},
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a small student whose batch statistics are not the initial ones."""
    torch.manual_seed(0)
    net = build_net(NETWORK, len(LANDCOVER))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average, so that two batches settle it
    net.train()
    with torch.no_grad():
        for seed in range(2):
            image, _ = SampleScene(256, 256, seed).render(Window(0, 0, 256, 256))
            net(normalise(torch.from_numpy(image[None]).repeat(2, 1, 1, 1)))
    folder = tmp_path_factory.mktemp("run")
    save_file(net.state_dict(), folder / LAST_NAME)
    teacher = {"network": "efficientnet_b0", "params": 1, "macs": 2, "macs_tile": 256}
    replace(FACTS, teacher=teacher, rehearsal=True).write(folder)
    return folder


@pytest.fixture(scope="module")
def built(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("out") / "town.rsedge"
    return out, build.build_bundle(run, out)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export and proof done at once, for tests of what stands around them."""
    monkeypatch.setattr(
        build, "export_onnx", lambda _model, _manifest, path, *, halve: path.write_bytes(b"new")
    )
    monkeypatch.setattr(build, "compare", lambda *_: parity.Parity(1, 0.0, 1.0, 1.0, 1.0))
    monkeypatch.setattr(build, "deploy", lambda net, _tile: net)


def test_the_student_on_a_crop_and_infer_on_its_geotiff_agree(
    run: Path, built: tuple[Path, Any], write_raster: Callable[..., Path], tmp_path: Path
) -> None:
    net, _ = load_network(run)  # folded, as trained on 256 px crops
    pixels, _ = SampleScene(512, 512, 5).render(Window(0, 0, 512, 512))
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
    assert (manifest.name, manifest.tile, manifest.gsd_m) == ("town", 512, (0.25, 1.0))
    assert [c.name for c in manifest.classes] == [c.name for c in LANDCOVER]
    counts = manifest.complexity
    assert counts["network"] == NETWORK
    assert counts["params"] == sum(p.numel() for p in net.parameters())
    assert counts["macs_deployed"] < counts["macs"]
    # The run's counts are of another tile than the student's, so they were counted again.
    teacher = build_net("efficientnet_b0", len(LANDCOVER))
    assert counts["teacher"]["params"] == sum(p.numel() for p in teacher.parameters())
    assert (counts["teacher"]["network"], counts["teacher"]["macs_tile"]) == ("efficientnet_b0", 512)
    assert counts["teacher"]["macs"] > counts["macs"]
    training = manifest.provenance["training"]
    assert training["data"] == {"name": "towns", "source": {"path": "towns"}}  # nobody's folders
    assert training["rehearsal"] is told["rehearsal"] is True
    assert training["weights"] == {"file": LAST_NAME, "sha256": file_sha256(run / LAST_NAME)}
    assert told["artifact_bytes"] == (out / "model.fp32.onnx").stat().st_size < told["size_bytes"]


def test_the_report_holds_the_proof_and_where_its_tiles_are_from(built: tuple[Path, Any]) -> None:
    out, told = built
    report = json.loads((out / "report.json").read_text())["model.fp32.onnx"]
    assert report["tiles"] == build.PARITY_TILES
    assert report["argmax_agreement"] == told["parity"]["argmax_agreement"] > 0.99
    assert 0.5 < report["clear_share"] <= 1
    assert "sample scene" in report["tiles_from"]


def test_the_teachers_own_counts_are_taken_where_the_tile_is_the_same() -> None:
    facts = {"network": "arafnet-t", "params": 1, "macs": 2, "macs_tile": 512}
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
        assert build.build_bundle(tmp_path, out)["weights"].endswith("best.safetensors")
        told = build.build_bundle(tmp_path, out, weights="last", name="other")  # replaces the first
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
            build.build_bundle(run, out)
        assert (out / "manifest.json").read_text() == "an earlier bundle"
        assert [p.name for p in tmp_path.iterdir()] == ["b.rsedge"]

    def test_weights_are_stored_as_fp32_where_fp16_is_not_close_enough(
        self, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        errors = iter((0.02, 0.0))
        monkeypatch.setattr(build, "compare", lambda *_: parity.Parity(1, next(errors), 1.0, 1.0, 1.0))
        told = build.build_bundle(run, tmp_path / "b.rsedge")
        assert (told["weights_stored_as"], told["parity"]["worst_error"]) == ("float32", 0.0)

    def test_a_network_that_onnx_does_not_take_is_named(
        self, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, halve: bool) -> None:
            raise RuntimeError("no symbol for aten::frobnicate\nand a long trace")

        monkeypatch.setattr(build, "export_onnx", fail)
        with pytest.raises(ModelError, match=rf"{NETWORK} does not go to ONNX .*frobnicate\)"):
            build.build_bundle(run, tmp_path / "b.rsedge")
        assert not list(tmp_path.iterdir())

    def test_an_empty_folder_is_no_obstacle(self, run: Path, tmp_path: Path) -> None:
        (tmp_path / "b.rsedge").mkdir()
        build.build_bundle(run, tmp_path / "b.rsedge")
        assert (tmp_path / "b.rsedge" / "manifest.json").is_file()

    def test_a_run_that_is_none_and_weights_that_are_none(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no run at"):
            build.build_bundle(tmp_path, tmp_path / "b.rsedge")
        FACTS.write(tmp_path)
        with pytest.raises(InputError, match="is not finished"):
            build.build_bundle(tmp_path, tmp_path / "b.rsedge")
        with pytest.raises(InputError, match="choose best or last"):
            build.build_bundle(tmp_path, tmp_path / "b.rsedge", weights="worst")


def test_somebody_elses_folder_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos.rsedge"
    folder.mkdir()
    (folder / "wedding.jpg").touch()
    (tmp_path / "file.rsedge").touch()
    (tmp_path / "link.rsedge").symlink_to(folder)
    for name, message in (
        ("photos.rsedge", "is not a bundle"),
        ("file.rsedge", "is not a folder"),
        ("link.rsedge", "is not a folder"),
        ("none/b.rsedge", "does not exist"),
        ("student.onnx", r"named NAME\.rsedge"),
    ):
        with pytest.raises(InputError, match=message):
            build.build_bundle(tmp_path, tmp_path / name)
    assert (folder / "wedding.jpg").exists()
    monkeypatch.setattr(build.os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(InputError, match="not writable"):
        build.build_bundle(tmp_path, tmp_path / "b.rsedge")
