from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from artifacts import graph_of, make_artifacts, nan_graph
from rsedge import BackendError, InputError, ModelError, open_model
from rsedge.backends.speeds import Machine, Speed, fitting, keep_speeds, load_speeds
from rsedge.model.bundle import Bundle
from rsedge.tiling.window import Window
from rsedge.verify.compare import Check, candidates
from rsedge.verify.verify import Verification, VerifyOptions, verify
from rsedge_sample import SampleScene
from toys import TILE, pointwise_manifest, read

Write = Callable[..., Path]
MANIFEST = pointwise_manifest()
SAME, OTHER = graph_of(MANIFEST, "int8"), graph_of(MANIFEST, "int8", (1.0, 2.0, 0.5))
FEW = VerifyOptions(tiles=2, device="cpu", threads=1)


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Neither OpenVINO nor TensorRT, whatever is installed; the user's cache is not touched."""
    monkeypatch.setattr("rsedge.verify.compare.find_spec", lambda _: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def made(folder: Path, int8: onnx.ModelProto, **more: object) -> Path:
    return make_artifacts(folder / "b.rsedge", MANIFEST, {"fp32": graph_of(MANIFEST), "int8": int8}, **more)  # type: ignore[arg-type]


def of(result: Verification, device: str) -> Check:
    (check,) = (c for c in result.checks if c.device == device)
    return check


def test_the_same_network_passes(tmp_path: Path) -> None:
    result = verify(made(tmp_path, SAME), FEW)
    check = of(result, "cpu")
    assert (check.precision, check.state, check.why, check.provider) == (
        "int8",
        "passed",
        None,
        "CPUExecutionProvider",
    )
    assert check.found is not None
    assert (check.found.agreement, check.found.worst_error, check.found.pixels) == (1.0, 0.0, 2 * TILE**2)
    assert check.p50_s is not None
    assert check.speedup == pytest.approx(check.reference_p50_s / check.p50_s)  # type: ignore[operator]
    assert (result.failures, result.tiles, result.tiles_from) == ((), 2, "2 of sample scenes")
    assert json.loads(json.dumps(result.to_dict()))["passed"] is True


def test_another_network_fails_by_as_much_as_numpy_says(tmp_path: Path) -> None:
    result = verify(made(tmp_path, OTHER), FEW)
    gains = np.array([1.0, 2.0, 0.5])[:, None, None]
    shares = []
    for seed in (900, 901):
        scene = SampleScene(TILE, TILE, seed).render(Window(0, 0, TILE, TILE))[0].astype(float)
        shares.append((scene.argmax(0) == (scene * gains).argmax(0)).mean())
    check = of(result, "cpu")
    assert check.found is not None
    assert check.found.agreement == pytest.approx(np.mean(shares))
    assert check.found.worst_tile == pytest.approx(min(shares))
    assert check.state == "failed"
    assert result.failures == (
        f"int8 on cpu: {np.mean(shares):.2%} of the pixels have the reference's class, below the required 97%",
    )
    assert result.to_dict()["passed"] is False


def test_fp16_is_judged_by_its_clear_pixels(tmp_path: Path) -> None:
    graphs = {"fp32": graph_of(MANIFEST), "fp16": graph_of(MANIFEST, "fp16", (1.0, 1.2, 1.0))}
    (failure,) = verify(make_artifacts(tmp_path / "b", MANIFEST, graphs), FEW).failures
    assert "fp16 on cpu" in failure
    assert "of the clear pixels have the reference's class, below the required 99.9%" in failure


def test_less_than_the_exporter_measured_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A little brighter green changes some classes.
    slightly = graph_of(MANIFEST, "int8", (1.0, 1.004, 1.0))
    found = of(verify(made(tmp_path / "a", slightly), FEW), "cpu").found
    assert found is not None
    monkeypatch.setattr("rsedge.verify.compare.SAME_INT8", found.agreement - 0.001)
    for number, (recorded, noted) in enumerate(
        [
            (found.agreement + 0.005, False),
            (found.agreement + 0.02, True),
            ("much", False),
            (True, False),
        ]
    ):
        report = {"artifacts": {"model.int8.onnx": {"agreement": recorded}}}
        result = verify(made(tmp_path / str(number), slightly, report=report), FEW)
        check = of(result, "cpu")
        assert (check.state, check.why, result.failures) == ("passed", None, ())
        assert result.notes == ((check.note,) if noted else ())
        assert not noted or f"against {recorded:.2%} on the exporter's tiles" in str(check.note)
        assert check.recorded == (recorded if isinstance(recorded, float) else None)


def test_what_cannot_run_says_why(tmp_path: Path) -> None:
    result = verify(made(tmp_path, SAME), VerifyOptions(tiles=1, threads=1))
    assert of(result, "openvino").why == 'OpenVINO is not installed (`pip install "rsedge[openvino]"`)'
    assert (of(result, "tensorrt").state, of(result, "tensorrt").why) == (
        "not run",
        "TensorRT is not installed",
    )
    assert result.failures == ()


def test_onnxruntimes_tensorrt_is_not_given_what_is_laid_out_for_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsedge.verify.compare.offered_providers", lambda: ("TensorrtExecutionProvider",))
    graphs = {p: graph_of(MANIFEST, p) for p in ("fp32", "fp16", "int8", "int8-trt10")}
    bundle = Bundle.open(make_artifacts(tmp_path / "b", MANIFEST, graphs))
    found = candidates(bundle, "ort-tensorrt")
    assert [(c.precision, c.missing) for c in found] == [("fp32", None), ("fp16", None), ("int8-trt10", None)]
    (named,) = candidates(bundle, "ort-tensorrt", "int8")
    assert "quantized for CPUs" in str(named.missing)
    monkeypatch.setattr("rsedge.verify.compare.offered_providers", lambda: ("CPUExecutionProvider",))
    (absent,) = candidates(bundle, "ort-tensorrt")
    assert absent.missing == "this onnxruntime does not offer TensorRT"


def test_an_engine_that_is_not_there_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(tmp_path, SAME)
    monkeypatch.setattr("rsedge.verify.compare.find_spec", lambda name: name == "tensorrt" or None)
    check = of(verify(folder, VerifyOptions(tiles=1, threads=1)), "tensorrt")
    assert "rsedge export --trt" in (check.why or "")


def test_a_file_that_does_not_load_is_not_run(tmp_path: Path) -> None:
    broken = graph_of(MANIFEST, "int8")
    broken.graph.node[1].op_type = "Konv"
    graphs = {"fp32": graph_of(MANIFEST), "fp16": graph_of(MANIFEST, "fp16"), "int8": broken}
    result = verify(make_artifacts(tmp_path / "b", MANIFEST, graphs), FEW)
    assert [(c.precision, c.state) for c in result.checks] == [("fp16", "passed"), ("int8", "not run")]
    assert "does not load in onnxruntime" in (result.checks[1].why or "")


def test_a_model_that_breaks_down_and_a_damaged_file_fail(tmp_path: Path) -> None:
    graphs = {"fp32": graph_of(MANIFEST), "fp16": nan_graph(MANIFEST, "fp16"), "int8": SAME}
    folder = make_artifacts(tmp_path / "b", MANIFEST, graphs)
    with (folder / "model.int8.onnx").open("ab") as file:
        file.write(b"\0")
    nan, damaged = verify(folder, FEW).failures
    assert nan.startswith("fp16 on cpu: the model answered NaN")
    assert "was changed (SHA-256" in damaged


class TestTheExportersAnswer:
    def answer(self, **changes: np.ndarray) -> dict[str, np.ndarray]:
        pixels = np.random.default_rng(1).integers(0, 256, (2, 3, TILE, TILE)).astype(np.uint8)
        facts = {
            "pixels": pixels,
            "classes": pixels.argmax(1).astype(np.uint8),
            "scores": pixels[..., ::8, ::8].astype(np.float16),
        }
        return {**facts, **changes}

    def test_it_is_the_same(self, tmp_path: Path) -> None:
        result = verify(made(tmp_path, SAME, reference=self.answer()), FEW)
        assert result.fingerprint is not None
        assert result.fingerprint.passed
        assert (result.fingerprint.tiles, result.fingerprint.agreement) == (2, 1.0)
        assert result.tiles_from == "2 of sample scenes and 2 of reference.npz"

    def test_other_classes_or_other_scores(self, tmp_path: Path) -> None:
        classes, scores = self.answer()["classes"].copy(), self.answer()["scores"].copy()
        classes[0, :2] = (classes[0, :2] + 1) % 3
        scores[1, 0, 3, 3] += 4
        for name, changes in (("classes", classes), ("scores", scores)):
            result = verify(made(tmp_path / name, SAME, reference=self.answer(**{name: changes})), FEW)
            (failure,) = result.failures
            assert failure.startswith("fp32 on this machine: ")
            assert result.fingerprint is not None
        assert result.fingerprint.worst_error == pytest.approx(4 / 255, rel=0.02)

    def test_it_serves_a_model_that_no_sample_scene_fits(self, tmp_path: Path) -> None:
        manifest = pointwise_manifest(dtype="uint16")
        graph = graph_of(manifest)
        graph.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT16
        graphs = {"fp32": graph, "fp16": graph}
        answer = self.answer(pixels=self.answer()["pixels"].astype(np.uint16))
        with pytest.raises(InputError, match="--raster"):
            verify(make_artifacts(tmp_path / "a", manifest, graphs), FEW)
        result = verify(make_artifacts(tmp_path / "b", manifest, graphs, reference=answer), FEW)
        assert (result.failures, result.tiles_from) == ((), "2 of reference.npz")

    def test_a_damaged_one(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="its manifest says"):
            verify(
                made(tmp_path / "a", SAME, reference=self.answer(classes=np.zeros((2, 8, 8), np.uint8))), FEW
            )
        with pytest.raises(ModelError, match="cannot be read"):
            verify(made(tmp_path / "b", SAME, reference={"pixels": self.answer()["pixels"]}), FEW)


class TestOnARaster:
    def test_tiles_are_spread_over_what_has_data(self, tmp_path: Path, write_raster: Write) -> None:
        pixels = np.zeros((3, 5 * TILE, 5 * TILE), np.uint8)
        pixels[:, 2 * TILE :, :] = np.random.default_rng(2).integers(1, 256, (3, 3 * TILE, 5 * TILE))
        raster = write_raster(pixels, nodata=0)
        few = VerifyOptions(tiles=6, device="cpu", threads=1, raster=raster)
        found = of(verify(made(tmp_path / "a", OTHER), few), "cpu").found
        assert found is not None
        assert (found.tiles, found.pixels) == (6, 6 * TILE**2)
        every = verify(made(tmp_path / "b", OTHER), VerifyOptions(99, "cpu", threads=1, raster=raster))
        data = pixels[:, 2 * TILE :].astype(float)
        expected = (data.argmax(0) == (data * np.array([1, 2, 0.5])[:, None, None]).argmax(0)).mean()
        assert every.tiles == 15
        assert of(every, "cpu").found.agreement == pytest.approx(expected)  # type: ignore[union-attr]

    def test_a_raster_smaller_than_a_tile(self, tmp_path: Path, write_raster: Write) -> None:
        raster = write_raster(np.random.default_rng(3).integers(1, 256, (3, 20, 30)).astype(np.uint8))
        found = of(
            verify(made(tmp_path, SAME), VerifyOptions(2, "cpu", threads=1, raster=raster)), "cpu"
        ).found
        assert found is not None
        assert found.pixels == 20 * 30

    def test_bands_and_scale_are_those_of_infer(self, tmp_path: Path, write_raster: Write) -> None:
        raster = write_raster(np.random.default_rng(3).integers(0, 3000, (4, 70, 70)).astype(np.uint16))
        with pytest.raises(InputError, match="--scale LOW,HIGH"):
            verify(made(tmp_path, SAME), VerifyOptions(2, "cpu", threads=1, raster=raster))
        options = VerifyOptions(2, "cpu", threads=1, raster=raster, bands=(4, 3, 2), scale=(0, 3000))
        assert verify(tmp_path / "b.rsedge", options).failures == ()

    def test_without_data_nothing_can_be_compared(self, tmp_path: Path, write_raster: Write) -> None:
        raster = write_raster(np.zeros((3, 70, 70), np.uint8), nodata=0)
        with pytest.raises(InputError, match="no valid pixel"):
            verify(made(tmp_path, SAME), VerifyOptions(2, "cpu", threads=1, raster=raster))

    def test_the_map_is_where_numpy_sees_them_agree(self, tmp_path: Path, write_raster: Write) -> None:
        pixels = np.random.default_rng(4).integers(1, 256, (3, 150, 130)).astype(np.uint8)
        pixels[:, :40, :50] = 0
        raster, out = write_raster(pixels, nodata=0), tmp_path / "where.tif"
        result = verify(
            made(tmp_path, OTHER), VerifyOptions(1, "cpu", "int8", threads=1, raster=raster, map=out)
        )
        gains = np.array([1.0, 2.0, 0.5])[:, None, None]
        expected = (pixels.argmax(0) == (pixels * gains).argmax(0)).astype(np.uint8)
        expected[:40, :50] = 255
        np.testing.assert_array_equal(read(out), expected)
        assert result.map is not None
        assert result.map.agreement == pytest.approx((expected == 1).sum() / (expected != 255).sum())
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            "b.rsedge",
            "raster.tif",
            "where.tif",
            "where.tif.aux.xml",
        ]

    def test_a_map_shows_one_candidate_and_never_replaces_the_raster(
        self, tmp_path: Path, write_raster: Write
    ) -> None:
        raster = write_raster(np.full((3, 9, 9), 7, np.uint8))
        graphs = {"fp32": graph_of(MANIFEST), "fp16": SAME, "int8": SAME}
        folder = make_artifacts(tmp_path / "b", MANIFEST, graphs)
        with pytest.raises(InputError, match="fp16 on cpu, int8 on cpu"):
            verify(folder, VerifyOptions(device="cpu", raster=raster, map=tmp_path / "m.tif"))
        before = raster.read_bytes()
        with pytest.raises(InputError, match="is an input"):
            verify(folder, VerifyOptions(1, "cpu", "int8", raster=raster, map=raster, overwrite=True))
        assert raster.read_bytes() == before


class TestImpossible:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"tiles": 0}, "at least 1"),
            ({"device": "tpu"}, "device 'tpu'"),
            ({"precision": "int4"}, "precision 'int4'"),
            ({"map": "m.tif"}, "--raster"),
            ({"scale": (0, 1)}, "--raster"),
        ],
    )
    def test_options(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(InputError, match=message):
            VerifyOptions(**options)  # type: ignore[arg-type]

    def test_what_is_asked_for_by_name_must_run(self, tmp_path: Path) -> None:
        folder = made(tmp_path, SAME)
        with pytest.raises(BackendError, match="OpenVINO is not installed"):
            verify(folder, VerifyOptions(1, "openvino"))
        with pytest.raises(ModelError, match=r"no model\.fp16\.onnx.*rsedge export"):
            verify(folder, VerifyOptions(1, "cpu", "fp16"))
        with pytest.raises(InputError, match="is the reference itself"):
            verify(folder, VerifyOptions(1, "cpu", "fp32"))

    def test_without_fp32_there_is_no_reference(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"no model\.fp32\.onnx"):
            verify(make_artifacts(tmp_path / "b", MANIFEST, {"int8": SAME}), FEW)

    def test_nothing_to_compare_is_said(self, bundle: Path) -> None:
        result = verify(bundle, VerifyOptions(1, threads=1))
        if all(c.state == "not run" for c in result.checks):  # no CUDA here
            assert result.notes == (
                "only the reference runs on this machine, so nothing was compared with it",
            )


def test_progress_ends_where_it_said(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    verify(made(tmp_path, SAME), FEW, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


class TestSpeeds:
    def test_they_are_kept_for_auto(self, tmp_path: Path) -> None:
        folder = made(tmp_path, SAME)
        with open_model(folder, threads=1) as model:
            assert model.why == "not measured on this machine; `rsedge verify` measures"
        result = verify(folder, FEW)
        assert result.speeds == str(folder / "speeds.json")
        kept, wrong = load_speeds(Bundle.open(folder))
        check = of(result, "cpu")
        assert (wrong, [(s.precision, s.device) for s in kept]) == (None, [("int8", "cpu"), ("fp32", "cpu")])
        assert [s.tile_ms for s in kept] == [
            pytest.approx(1e3 * t) for t in (check.p50_s, check.reference_p50_s)
        ]
        assert [s.agreement for s in kept] == [1.0, 1.0]
        for precision in ("fp32", "int8"):
            with open_model(folder, threads=1, precision=precision) as model:
                assert str(model.why).startswith("the only one measured on this machine on 20")
        with open_model(folder, threads=2) as model:
            assert model.why == "not measured on this machine; `rsedge verify` measures"

    def test_what_failed_is_not(self, tmp_path: Path) -> None:
        """Used, but remembered as such, in place of a time at which it passed."""
        folder = made(tmp_path, OTHER)
        bundle = Bundle.open(folder, "int8")
        before = Speed(
            "int8", "cpu", "P", "1", 1, 1.0, 9.0, 1.0, bundle.sha256, "2026-01-01", Machine.here()
        )  # fmt: skip
        keep_speeds(bundle, [before])
        assert fitting(load_speeds(bundle)[0], bundle, 1) == (before,)
        verify(folder, FEW)
        kept, _ = load_speeds(bundle)
        assert [(s.precision, s.passed) for s in kept] == [("int8", False), ("fp32", True)]
        assert fitting(kept, bundle, 1) == ()

    def test_what_broke_down_is_remembered_without_a_time(self, tmp_path: Path) -> None:
        graphs = {"fp32": graph_of(MANIFEST), "int8": nan_graph(MANIFEST, "int8")}
        folder = make_artifacts(tmp_path / "b", MANIFEST, graphs)
        assert "NaN" in verify(folder, FEW).failures[0]
        (kept,) = load_speeds(Bundle.open(folder))[0]
        assert (kept.precision, kept.passed, kept.tile_ms) == ("int8", False, 0)

    def test_streams_are_measured_where_there_are_threads_for_them(self, tmp_path: Path) -> None:
        folder, seen = made(tmp_path, SAME), list[tuple[int, int]]()
        result = verify(folder, VerifyOptions(2, "cpu", threads=4), lambda *told: seen.append(told))
        assert [(c.precision, c.device, c.streams, c.state) for c in result.streams] == [
            (p, "cpu", n, "passed") for p in ("fp32", "int8") for n in (2, 4)
        ]
        assert seen[-1] == (10, 10)
        kept, _ = load_speeds(Bundle.open(folder))
        assert {(s.precision, s.streams) for s in kept} == {
            (p, n) for p in ("fp32", "int8") for n in (1, 2, 4)
        }
        assert json.loads(json.dumps(result.to_dict()))["streams"][1]["streams"] == 4

    def test_what_failed_is_not_tried_with_more_streams(self, tmp_path: Path) -> None:
        result = verify(made(tmp_path, OTHER), VerifyOptions(2, "cpu", "int8", threads=2))
        assert (result.checks[0].state, result.streams) == ("failed", ())

    def test_where_nothing_can_be_written_that_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = made(tmp_path, SAME)
        (folder / "speeds.json").mkdir()  # in the way
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        result = verify(folder, FEW)
        assert result.speeds.startswith("none: neither the bundle nor the user's cache can be written")
        assert result.failures == ()


class TestSeams:
    def test_the_default_and_what_it_is_to_be_better_than(self, tmp_path: Path, write_raster: Write) -> None:
        raster = write_raster(np.random.default_rng(3).integers(1, 256, (3, 150, 130)).astype(np.uint8))
        seen: list[tuple[int, int]] = []
        options = VerifyOptions(1, "cpu", threads=1, seams=raster)
        result = verify(made(tmp_path, SAME), options, lambda *told: seen.append(told))
        assert [(s.seam, s.overlap) for s in result.seams] == [("blend", 0.25), ("crop", 0.25), ("crop", 0.0)]
        assert {(s.near_differing, s.far_differing) for s in result.seams} == {(0, 0)}
        assert json.loads(json.dumps(result.to_dict()))["seams"][0]["border_px"] == 8
        assert seen[-1][0] == seen[-1][1]

    def test_bands_and_scale_are_those_of_its_raster(self, tmp_path: Path, write_raster: Write) -> None:
        raster = write_raster(np.random.default_rng(3).integers(0, 3000, (4, 90, 70)).astype(np.uint16))
        with pytest.raises(InputError, match="--scale LOW,HIGH"):
            verify(made(tmp_path, SAME), VerifyOptions(1, "cpu", threads=1, seams=raster))
        options = VerifyOptions(1, "cpu", threads=1, seams=raster, bands=(4, 3, 2), scale=(0, 3000))
        assert len(verify(tmp_path / "b.rsedge", options).seams) == 3

    def test_without_a_raster_for_them_there_are_none(self, tmp_path: Path) -> None:
        assert verify(made(tmp_path, SAME), FEW).seams == ()
