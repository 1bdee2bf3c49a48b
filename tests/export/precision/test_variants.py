from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from graphs import graph, make, ops
from labelled import save_tif
from rsedge import InputError
from rsedge.model.bundle import PRECISION_KEY, Bundle, write_bundle_manifest
from rsedge.model.onnx_metadata import onnx_metadata
from rsedge.verify.tiles import SampleTiles
from rsedge_export.graph.onnx_file import save
from rsedge_export.precision import variants
from rsedge_export.precision.calibration import CalibrationTiles, Imagery
from rsedge_export.precision.variants import Wanted, make_variants
from rsedge_export.proof.gate import Limits, Verdict
from tinynet import LAYER_NAMES, LAYERS, MANIFEST, tiny_answer, tiny_bundle

IMAGERY = Imagery((), 16, 16)
OPSETS = {"fp16": 17, "int8": 17, "int8-trt8": 17, "int8-trt10": 19}
INT8 = ("int8", "int8-trt8", "int8-trt10")
Made = tuple[Path, dict[str, dict[str, Any]], list[dict[str, Any]]]
ONE, ALL = (2,), tuple(range(LAYERS))  # layers that INT8 ruins


def made(folder: Path, wanted: Wanted | None = None, **more: Any) -> Made:
    def publish() -> None:
        write_bundle_manifest(folder, MANIFEST)

    found = make_variants(folder, MANIFEST, IMAGERY, wanted or Wanted(), publish, **more)
    publish()
    assert found["calibration"] == "16 of sample scenes"
    return folder, found["artifacts"], found["ladder"]


def files(folder: Path) -> list[str]:
    return sorted(p.name.removeprefix("model.").removesuffix(".onnx") for p in folder.glob("*.onnx"))


def others() -> list[NDArray[Any]]:
    """Tiles that nothing was calibrated on."""
    return [tile.pixels for tile in SampleTiles(MANIFEST, 6, None)]


def run(path: Path, pixels: NDArray[Any]) -> NDArray[Any]:
    """By ONNX Runtime alone, as a user would who knows nothing of rsedge."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["scores"], {"pixels": pixels[None]})[0])[0]


def int8_layers(path: Path) -> set[str]:
    """Layers whose activations come out of a DequantizeLinear."""
    model = onnx.load(path)
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    return {
        n.name for n in model.graph.node if n.op_type == "Conv" and made_by[n.input[0]] == "DequantizeLinear"
    }


def agreement(path: Path) -> float:
    """With torch, over all those tiles."""
    same = [run(path, p).argmax(0) == tiny_answer(p[None] / 255)[0].argmax(0) for p in others()]
    return float(np.mean(same))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tiny_bundle(tmp_path_factory.mktemp("whole") / "b.rsedge"))


@pytest.fixture(scope="module")
def selective(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tiny_bundle(tmp_path_factory.mktemp("selective") / "b.rsedge", ONE))


@pytest.fixture(scope="module")
def hopeless(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tiny_bundle(tmp_path_factory.mktemp("hopeless") / "b.rsedge", ALL))


def test_the_master_is_the_network(whole: Made) -> None:
    assert agreement(whole[0] / "model.fp32.onnx") > 0.9999


@pytest.mark.parametrize(("precision", "opset"), OPSETS.items())
def test_every_artifact_opens_agrees_and_says_what_it_is(whole: Made, precision: str, opset: int) -> None:
    folder, _, _ = whole
    path = folder / f"model.{precision}.onnx"
    assert files(folder) == ["fp16", "fp32", "int8", "int8-trt10", "int8-trt8"]
    assert onnx.load(path).opset_import[0].version == opset
    assert onnx_metadata(path.read_bytes(), "m")[PRECISION_KEY] == precision
    assert Bundle.open(folder, precision).artifact == path
    assert agreement(path) > (0.999 if precision == "fp16" else 0.98)
    assert int8_layers(path) == (set() if precision == "fp16" else set(LAYER_NAMES))


def test_activations_are_unsigned_for_cpus_and_signed_for_tensorrt(whole: Made) -> None:
    for precision, kind in (
        ("int8", TensorProto.UINT8),
        ("int8-trt8", TensorProto.INT8),
        ("int8-trt10", TensorProto.INT8),
    ):
        model = onnx.load(whole[0] / f"model.{precision}.onnx")
        kinds = {t.name: t.data_type for t in model.graph.initializer}
        assert {kinds[n.input[2]] for n in model.graph.node if n.op_type == "QuantizeLinear"} == {kind}
    assert "Cast" in ops(onnx.load(whole[0] / "model.int8-trt10.onnx"))  # fp16 between the Q/DQ
    halves = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16]
    assert halves


def test_records_are_what_the_files_answer(whole: Made) -> None:
    """Agreement with fp32 on the held tiles, by ONNX Runtime alone; INT8 for CPUs is OpenVINO's to judge."""
    folder, records, ladder = whole
    assert set(records) == {f"model.{p}.onnx" for p in OPSETS}
    with CalibrationTiles(IMAGERY, MANIFEST) as tiles:
        held = list(tiles.judging())
    exact = [run(folder / "model.fp32.onnx", tile) for tile in held]
    span = np.ptp(np.array(exact))
    for precision in ("fp16", "int8-trt8", "int8-trt10"):
        record, path = records[f"model.{precision}.onnx"], folder / f"model.{precision}.onnx"
        found = [run(path, tile) for tile in held]
        same = [float((a.argmax(0) == b.argmax(0)).mean()) for a, b in zip(exact, found, strict=True)]
        assert record["agreement"] == pytest.approx(np.mean(same), abs=1e-3)
        assert record["worst_tile"] == pytest.approx(min(same), abs=2e-3)
        assert record["worst_error"] == pytest.approx(
            np.abs(np.array(exact) - found).max() / span, rel=0.05, abs=1e-4
        )
    for precision, record in ((p, records[f"model.{p}.onnx"]) for p in OPSETS):
        facts = (record["precision"], record["tiles"], record["passed"], record["forced"], record["reasons"])
        assert facts == (precision, len(held), True, False, ())
    assert [(rung["name"], rung["precisions"], rung["passed"]) for rung in ladder] == [
        ("INT8", ("int8",), True),
        ("INT8", INT8[1:], True),
        ("FP16", ("fp16",), True),
    ]
    assert records["model.int8.onnx"]["quantized"] == list(LAYER_NAMES)
    assert set(records["model.fp16.onnx"]["kept_fp32"].values()) == {"preprocessing"}
    json.dumps([records, ladder])


def test_a_layer_that_int8_ruins_stays_float(selective: Made) -> None:
    folder, records, ladder = selective
    assert files(folder) == ["fp16", "fp32", "int8", "int8-trt10", "int8-trt8"]
    for precision in INT8:
        path = folder / f"model.{precision}.onnx"
        assert int8_layers(path) == set(LAYER_NAMES) - {LAYER_NAMES[2]}
        assert agreement(path) > 0.98
        (left,) = records[path.name]["left_float"]
        assert (left["layer"], left["op"], left["weights"]) == (LAYER_NAMES[2], "Conv", [6, 6, 3, 3])
        assert left["pixels_changed_alone"] > 0.05
        assert set(records[path.name]["quantized"]) == int8_layers(path)
    assert [(r["name"], r["layers_left_float"]) for r in ladder[:2]] == [
        ("selective INT8, 1 layers float", 1)
    ] * 2


def test_where_nothing_helps_the_report_says_why_and_fp16_is_there(hopeless: Made) -> None:
    folder, records, ladder = hopeless
    assert files(folder) == ["fp16", "fp32"]
    assert set(records) == {"model.fp16.onnx"}
    assert agreement(folder / "model.fp16.onnx") > 0.999
    assert [(r["name"], r["precisions"]) for r in ladder if not r["passed"]] == [
        ("INT8 is not possible", ("int8",)),
        ("INT8 is not possible", INT8[1:]),
    ]
    for rung in ladder[:2]:
        assert all(name in rung["why"][0] for name in LAYER_NAMES)


def test_force_keeps_what_does_not_pass_and_says_so(tmp_path: Path) -> None:
    folder, records, ladder = made(
        tiny_bundle(tmp_path / "b.rsedge", ALL), Wanted(precisions=("int8",), force=True)
    )
    assert files(folder) == ["fp32", *sorted(INT8)]
    for precision in INT8:
        record = records[f"model.{precision}.onnx"]
        assert (record["forced"], record["passed"]) == (True, False)
        assert "but 98.00% are required" in record["reasons"][0]
        assert agreement(folder / f"model.{precision}.onnx") < 0.98
        assert Bundle.open(folder, precision).precision == precision
    assert [rung["passed"] for rung in ladder] == [False, False]


def test_force_keeps_no_file_that_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: onnx.ModelProto, _kept: object) -> onnx.ModelProto:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        next(
            node for node in copy.graph.node if node.op_type == "Relu"
        ).op_type = "Log"  # of negative numbers
        return copy

    monkeypatch.setattr(variants, "to_fp16", broken)
    folder, records, ladder = made(tiny_bundle(tmp_path / "b.rsedge"), Wanted(("fp16",), force=True))
    assert (files(folder), records, ladder[0]["passed"]) == (["fp32"], {}, False)


def test_only_what_is_wanted_is_made(tmp_path: Path) -> None:
    folder, records, ladder = made(tiny_bundle(tmp_path / "b.rsedge"), Wanted(precisions=("fp16",)))
    assert (files(folder), list(records), len(ladder)) == (["fp16", "fp32"], ["model.fp16.onnx"], 1)


def test_a_graph_without_layers_worth_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "b.rsedge").mkdir()
    shape = ["batch", 3, MANIFEST.tile, MANIFEST.tile]
    nodes = [make("Cast", ["pixels"], "real", to=TensorProto.FLOAT), make("Sqrt", ["real"], "scores")]
    model = graph(nodes, {}, shape, shape, dtype=TensorProto.UINT8)
    save(model, MANIFEST, "fp32", tmp_path / "b.rsedge" / "model.fp32.onnx")
    folder, records, ladder = made(tmp_path / "b.rsedge")
    assert files(folder) == ["fp16", "fp32"]
    assert (ladder[0]["passed"], ladder[0]["why"]) == (False, ("no layer is worth quantizing",))
    report = {"artifacts": records, "ladder": ladder, "notes": []}
    (folder / "report.json").write_text(json.dumps(report))
    write_bundle_manifest(folder, MANIFEST)
    assert Bundle.open(folder).why_not("int8") == "no layer is worth quantizing"


class TestLabels:
    @pytest.fixture
    def gate(self, tmp_path: Path) -> Path:
        """Tiles whose labels are fp32's own answer, so that every changed pixel is a loss."""
        for i, pixels in enumerate(others()):
            save_tif(tmp_path / "gate" / f"{i}.tif", pixels)
            truth = tiny_answer(pixels[None] / 255)[0].argmax(0).astype(np.uint8)
            save_tif(tmp_path / "gate" / f"{i}_labels.tif", truth[None])
        return tmp_path / "gate"

    def test_they_judge_although_agreement_passes(self, tmp_path: Path, gate: Path) -> None:
        wanted = Wanted(limits=Limits(miou_drop=0.01, class_drop=0.01), gate=gate, gate_tiles=6)
        folder, records, ladder = made(tiny_bundle(tmp_path / "b.rsedge"), wanted)
        assert not set(files(folder)) & set(INT8)
        assert not [name for name in records if "int8" in name]
        failed = [r for r in ladder if r["held_agreement"] is not None]
        assert failed
        assert [r["layers_left_float"] for r in failed if r["precisions"] == ("int8",)] == sorted(
            {r["layers_left_float"] for r in failed if r["precisions"] == ("int8",)}
        )  # always more
        assert len(failed) > 2  # the next rung is tried
        for rung in failed:
            assert rung["held_agreement"] >= 0.99
            assert not rung["passed"]
            assert any("mIoU drops by" in why for why in rung["why"])
            assert not any("fp32's class" in why for why in rung["why"])

    def test_they_are_named_with_what_they_cost(self, tmp_path: Path, gate: Path) -> None:
        wanted = Wanted(limits=Limits(20, 20), gate=gate, gate_tiles=6)
        folder, records, _ = made(tiny_bundle(tmp_path / "b.rsedge"), wanted)
        assert set(INT8) < set(files(folder))
        record = records["model.int8-trt8.onnx"]
        truth = [tiny_answer(p[None] / 255)[0].argmax(0) for p in others()]
        found = [run(folder / "model.int8-trt8.onnx", p).argmax(0) for p in others()]
        a, b = np.array(truth), np.array(found)
        names = [c.name for c in MANIFEST.classes]
        lost = {
            names[c]: 100 - 100 * ((a == c) & (b == c)).sum() / ((a == c) | (b == c)).sum()
            for c in np.unique(a)
        }
        assert record["class_drops"] == pytest.approx(lost, abs=0.2)
        assert record["miou_drop"] == pytest.approx(np.mean(list(lost.values())), abs=0.2)
        assert record["miou_fp32"] == pytest.approx(1, abs=1e-3)
        assert (record["tiles"], record["tiles_from"]) == (6, "labelled tiles of gate")

    def test_colours_of_another_table(self, tmp_path: Path, gate: Path) -> None:
        """Red is painted yellow, and the rest grey, which the table ignores: red alone counts."""
        colors = np.array([[255, 255, 0], [9, 9, 9], [9, 9, 9]], np.uint8)
        for i, pixels in enumerate(others()):
            truth = tiny_answer(pixels[None] / 255)[0].argmax(0)
            save_tif(gate / f"{i}_labels.tif", np.moveaxis(colors[truth], -1, 0))
        table = tmp_path / "classes.toml"
        table.write_text('ignore = ["#090909"]\n[classes]\ngreen = "#00FFFF"\nred = "#FFFF00"\n')
        _, records, _ = made(
            tiny_bundle(tmp_path / "b.rsedge"), Wanted(("fp16",), Limits(20, 20), gate, table, 6)
        )
        assert list(records["model.fp16.onnx"]["class_drops"]) == ["red"]
        assert records["model.fp16.onnx"]["miou_fp32"] > 0.99


def test_a_rung_that_fails_the_gate_leads_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first verdict on each file is bad, whatever it is."""
    real, judged = variants.judge, list[str]()

    def judge(folder: Path, precision: str, *rest: Any) -> Verdict:
        judged.append(precision)
        verdict = real(folder, precision, *rest)
        return replace(verdict, reasons=("unlucky",)) if judged.count(precision) == 1 else verdict

    monkeypatch.setattr(variants, "judge", judge)
    folder, records, ladder = made(tiny_bundle(tmp_path / "b.rsedge"), Wanted(("int8",)))
    assert [(r["passed"], r["layers_left_float"]) for r in ladder[::2]] == [(False, 0), (False, 0)]
    assert [r["passed"] for r in ladder[1::2]] == [True, True]
    assert ladder[2]["why"] == ("int8-trt8: unlucky", "int8-trt10: unlucky")
    for precision in INT8:
        left = {layer["layer"] for layer in records[f"model.{precision}.onnx"]["left_float"]}
        assert left
        assert int8_layers(folder / f"model.{precision}.onnx") == set(LAYER_NAMES) - left


class TestWanted:
    def test_what_is_unknown(self) -> None:
        with pytest.raises(InputError, match="precision 'int4': unknown"):
            Wanted(("fp16", "int4"))
        with pytest.raises(InputError, match="0 tiles for the gate"):
            Wanted(gate_tiles=0)

    def test_a_gate_without_labels_is_refused_at_once(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="holds no labelled image"):
            Wanted(gate=tmp_path)


def test_who_watches_sees_every_piece_of_work(tmp_path: Path) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}

    @contextmanager
    def stages(name: str) -> Iterator[Any]:
        yield lambda done, total: seen.setdefault(name, []).append((done, total))

    made(tiny_bundle(tmp_path / "b.rsedge", ONE), stages=stages)
    assert set(seen) == {"calibrating", "layer by layer", *(f"judging {p}" for p in OPSETS)}
    assert seen["layer by layer"] == [(i, LAYERS) for i in range(1, LAYERS + 1)]
    for name, steps in seen.items():
        assert [done for done, _ in steps] == list(range(1, len(steps) + 1)), name
        assert steps[-1][0] == steps[-1][1], name
