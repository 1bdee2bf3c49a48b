from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from labelled import pixels, save_tif
from rsedge import InputError, ModelError, open_model
from rsedge.model.bundle import Bundle
from rsedge.verify.tiles import SampleTiles
from rsedge_export.bundle import assemble as module
from rsedge_export.bundle.assemble import ARTIFACT, NO_IMAGERY, Calibration, Plan, assemble
from rsedge_export.graph.onnx_file import save
from rsedge_export.precision.calibration import Imagery
from rsedge_export.precision.variants import Wanted
from rsedge_export.proof.gate import Limits
from tinynet import MANIFEST, tiny_answer, tiny_graph

IMAGERY = Imagery((), 16, 16)


def write_master(folder: Path) -> Mapping[str, Any]:
    save(tiny_graph(), MANIFEST, "fp32", folder / ARTIFACT)
    return {"against": "itself"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("assembled") / "tiny.rsedge"
    return out, assemble(Plan(out), MANIFEST, IMAGERY, write_master)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_every_file_stands_in_the_manifest_with_its_hash(whole: tuple[Path, Any]) -> None:
    out, _ = whole
    assert names(out) == [
        "manifest.json", "model.fp16.onnx", "model.fp32.onnx", "model.int8-trt10.onnx", "model.int8-trt8.onnx",
        "model.int8.onnx", "report.json",
    ]  # fmt: skip
    listed = json.loads((out / "manifest.json").read_text())["artifacts"]
    assert listed == {
        name: hashlib.sha256((out / name).read_bytes()).hexdigest()
        for name in names(out)
        if name != "manifest.json"
    }


def test_the_report_tells_what_was_made_on_what_and_how_it_was_judged(whole: tuple[Path, Any]) -> None:
    out, told = whole
    report = Bundle.open(out).report
    assert report == json.loads(json.dumps(told["report"]))
    assert report["calibration"] == "16 of sample scenes"
    assert report["limits"] == {
        "miou_drop": 0.5, "class_drop": 1.5, "fp16_agreement": 0.999, "int8_agreement": 0.98,
    }  # fmt: skip
    master = {"precision": "fp32", "passed": True, "forced": False, "against": "itself"}
    told_of = dict(Bundle.open(out).record())
    told_of.pop("parser", None)  # NVIDIA's word, where its parser is installed
    assert told_of == master
    assert set(report["artifacts"]) == {name for name in names(out) if name.endswith(".onnx")}
    assert Bundle.open(out).record("int8")["agreement"] > 0.98
    assert report["made_on"]["cpu"]
    assert report["notes"] == []


def test_what_is_told_is_what_stands_there(whole: tuple[Path, Any]) -> None:
    out, told = whole
    assert told["artifacts"] == {p.name: p.stat().st_size for p in out.glob("*.onnx")}
    assert told["size_bytes"] == sum(p.stat().st_size for p in out.iterdir())
    assert (told["out"], told["name"], told["tile"]) == (str(out), MANIFEST.name, MANIFEST.tile)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_runtime_opens_every_precision_and_answers_as_torch_does(
    whole: tuple[Path, Any], precision: str
) -> None:
    tiles = [tile.pixels for tile in SampleTiles(MANIFEST, 4, None)]
    with open_model(whole[0], threads=1, precision=precision) as model:
        same = [
            (model.infer(p[None])[0].argmax(0) == tiny_answer(p[None] / 255)[0].argmax(0)).mean()
            for p in tiles
        ]
    assert np.mean(same) > (0.98 if precision == "int8" else 0.999)


def test_without_imagery_there_is_fp16_and_a_note(tmp_path: Path) -> None:
    out = tmp_path / "b.rsedge"
    told = assemble(Plan(out), MANIFEST, None, write_master)
    assert sorted(told["artifacts"]) == ["model.fp16.onnx", "model.fp32.onnx"]
    assert told["report"]["notes"] == [NO_IMAGERY]
    why = Bundle.open(out).why_not("int8")
    assert why is not None
    assert "training images were not found" in why
    assert Bundle.open(out).why_not("fp16") is None


def test_int8_that_nobody_asked_for_is_not_missed(tmp_path: Path) -> None:
    told = assemble(Plan(tmp_path / "b.rsedge", Wanted(("fp16",))), MANIFEST, None, write_master)
    assert (sorted(told["artifacts"]), told["report"]["notes"]) == (
        ["model.fp16.onnx", "model.fp32.onnx"],
        [],
    )
    told = assemble(Plan(tmp_path / "c.rsedge", Wanted(("int8",))), MANIFEST, None, write_master)
    assert (told["report"]["notes"], told["report"]["calibration"]) == ([NO_IMAGERY], None)


def test_fp32_alone_asks_for_no_imagery(tmp_path: Path) -> None:
    plan = Plan(tmp_path / "b.rsedge", Wanted(()), Calibration(("/none/at/all.tif",)))
    imagery = plan.imagery(None)
    assert imagery is None
    told = assemble(plan, MANIFEST, imagery, write_master)
    assert names(plan.out) == ["manifest.json", "model.fp32.onnx", "report.json"]
    assert (told["report"]["notes"], told["report"]["calibration"]) == ([], None)


def test_the_plan_hands_its_calibration_on(tmp_path: Path) -> None:
    image = save_tif(tmp_path / "a.tif", pixels(64, 64))
    asked = Calibration((str(image), "samples"), 20, (3, 2, 1), (0.0, 100.0))
    found = Plan(tmp_path / "b.rsedge", Wanted(("fp16",)), asked).imagery(None)
    assert found == Imagery((image,), 10, 20, (3, 2, 1), (0.0, 100.0))
    with pytest.raises(InputError, match="too few"):
        Plan(tmp_path / "b.rsedge", calibration=Calibration(("samples",), 3)).imagery(None)


class TestAnEarlierBundle:
    @pytest.fixture
    def earlier(self, tmp_path: Path) -> Path:
        out = tmp_path / "b.rsedge"
        out.mkdir()
        (out / "manifest.json").write_text("an earlier bundle")
        return out

    def stands(self, out: Path) -> bool:
        text = (out / "manifest.json").read_text()
        return text == "an earlier bundle" and names(out.parent) == [out.name]

    @pytest.mark.parametrize(
        "stage", ["fp32", "fp16", "calibrating", "judging int8", "judging int8-trt8", "judging fp16"]
    )
    def test_it_stands_when_the_work_is_interrupted(self, earlier: Path, stage: str) -> None:
        @contextmanager
        def stages(name: str) -> Iterator[None]:
            assert self.earlier_is_there(earlier)
            yield
            if name == stage:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            assemble(Plan(earlier, stages=stages), MANIFEST, IMAGERY, write_master)
        assert self.stands(earlier)

    def earlier_is_there(self, out: Path) -> bool:
        return (out / "manifest.json").read_text() == "an earlier bundle"

    def test_it_stands_when_calibration_data_do_not_do(self, earlier: Path) -> None:
        image = save_tif(earlier.parent / "images" / "a.tif", pixels(128, 128))
        with pytest.raises(InputError, match="hold only 4 tiles"):
            plan = Plan(earlier, calibration=Calibration((str(image),)))
            assemble(plan, MANIFEST, Imagery((image,), 0, 16), write_master)
        assert (earlier / "manifest.json").read_text() == "an earlier bundle"

    def test_too_little_training_data_cost_int8_alone(self, earlier: Path) -> None:
        image = save_tif(earlier.parent / "images" / "a.tif", pixels(128, 128))
        told = assemble(Plan(earlier), MANIFEST, Imagery((image,), 0, 16), write_master)
        assert "model.fp16.onnx" in told["artifacts"]
        assert "INT8 was skipped: the calibration data hold only 4 tiles" in told["report"]["notes"][0]
        assert "hold only 4 tiles" in str(Bundle.open(earlier).why_not("int8"))

    def test_it_stands_when_the_master_is_none(self, earlier: Path) -> None:
        def fail(_: Path) -> Mapping[str, Any]:
            raise ModelError("no network")

        with pytest.raises(ModelError, match="no network"):
            assemble(Plan(earlier), MANIFEST, IMAGERY, fail)
        assert self.stands(earlier)

    def test_it_goes_when_the_new_one_is_whole(self, earlier: Path) -> None:
        (earlier / "engines").mkdir()  # built from the old one
        assemble(Plan(earlier, Wanted(())), MANIFEST, None, write_master)
        assert names(earlier) == ["manifest.json", "model.fp32.onnx", "report.json"]
        assert names(earlier.parent) == ["b.rsedge"]


def test_what_is_forced_is_said_by_the_report_and_the_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "b.rsedge"
    plan = Plan(out, Wanted(("fp16",), Limits(fp16_agreement=1.0), force=True))
    real = module.make_variants

    def another(folder: Path, *rest: Any) -> Any:
        """fp16 of a network whose first layer is shifted: judged beside the untouched master."""
        from rsedge_export.precision import variants

        monkeypatch.setattr(variants, "to_fp16", lambda model, _kept: spoilt(model))
        return real(folder, *rest)

    monkeypatch.setattr(module, "make_variants", another)
    assemble(plan, MANIFEST, IMAGERY, write_master)
    record = Bundle.open(out).record("fp16")
    assert (record["passed"], record["forced"]) == (False, True)
    assert Bundle.open(out, "fp16").precision == "fp16"


def spoilt(model: Any) -> Any:
    from onnx import ModelProto, numpy_helper

    copy = ModelProto()
    copy.CopyFrom(model)
    tensor = next(t for t in copy.graph.initializer if t.name == "w0")
    values: NDArray[Any] = numpy_helper.to_array(tensor)[::-1].copy()
    tensor.CopyFrom(numpy_helper.from_array(values, "w0"))
    return copy
