from __future__ import annotations

import functools
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from artifacts import graph_of, make_artifacts
from rsedge import BackendError
from rsedge.errors import ModelError
from rsedge.model.bundle import Bundle
from rsedge.model.engines import Batch, Device, PlanFacts
from rsedge_export.bundle import build
from rsedge_export.bundle.assemble import Calibration, Plan
from rsedge_export.engines import build as trt
from rsedge_export.engines.build import TrtOptions
from rsedge_export.graph.foreign import ForeignFacts
from rsedge_export.precision.variants import Wanted
from rsedge_export.proof.gate import Limits
from tinynet import tiny_bundle, tiny_graph
from toys import CLASSES, pointwise_manifest

MANIFEST = pointwise_manifest()
Command = Callable[..., tuple[int, str, str]]


def record(precision: str, **facts: Any) -> dict[str, Any]:
    return {
        "precision": precision, "backend": "onnxruntime 1.20", "tiles": 13, "tiles_from": "held calibration tiles",
        "agreement": 0.9912, "worst_tile": 0.975, "miou_drop": None, "class_drops": None, "passed": True,
        "forced": False, **facts,
    }  # fmt: skip


BUILT: dict[str, Any] = {
    "out": "student.rsedge",
    "name": "student",
    "network": "efficientnet_b0",
    "role": "student",
    "weights": "runs/student/best.safetensors",
    "rehearsal": True,
    "tile": 512,
    "size_bytes": 46_300_000,
    "artifacts": {
        "model.fp32.onnx": 23_000_000,
        "model.fp16.onnx": 11_600_000,
        "model.int8.onnx": 6_300_000,
        "model.int8-trt10.onnx": 6_000_000,
    },
    "complexity": {
        "params": 6_716_689,
        "macs": 6_609_703_936,
        "params_deployed": 5_711_873,
        "macs_deployed": 5_835_854_848,
        "teacher": {"network": "arafnet-t", "params": 223_000_000, "macs": 226_000_000_000},
    },
    "report": {
        "calibration": "64 tiles of 9 rasters",
        "notes": ["something to know"],
        "ladder": [
            {"name": "INT8", "passed": False, "why": ["int8: too far off", "int8: and late"]},
            {"name": "selective INT8, 3 layers float", "passed": True, "why": []},
        ],
        "artifacts": {
            "model.fp32.onnx": {
                "precision": "fp32", "passed": True, "forced": False, "tiles": 8, "worst_error": 4.5e-6,
                "argmax_agreement": 0.9998, "clear_share": 0.97, "clear_agreement": 0.99999,
            },
            "model.fp16.onnx": record("fp16", agreement=0.9996, worst_tile=0.9971),
            "model.int8.onnx": record(
                "int8", left_float=[{}, {}, {}], miou_drop=0.21, class_drops={"road": -0.1, "water": 0.84}
            ),
            "model.int8-trt10.onnx": record("int8-trt10", left_float=[], forced=True, passed=False),
        },
    },
}  # fmt: skip


@pytest.fixture
def run(call_rsedge: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run ``rsedge export ARGS`` in tmp_path: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    return functools.partial(call_rsedge, "export")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record the calls of ``build_bundle`` and ``adopt_bundle``, in place of their work."""
    calls: list[Any] = []

    def fake(what: Any, *given: Any, **options: object) -> dict[str, Any]:
        calls.append((what, *given, options))
        return BUILT

    monkeypatch.setattr(build, "build_bundle", fake)
    monkeypatch.setattr(build, "adopt_bundle", fake)
    return calls


def plan_of(call: tuple[Any, ...]) -> Plan:
    (plan,) = (part for part in call if isinstance(part, Plan))
    return plan


def without_stages(plan: Plan) -> Plan:
    return Plan(plan.out, plan.wanted, plan.calibration)


class TestARun:
    def test_without_options_it_takes_the_student_of_this_folder(
        self, run: Command, asked: list[Any]
    ) -> None:
        assert run()[0] == 0
        ((path, plan, options),) = asked
        assert (path, options) == (Path("runs/student"), {"name": None, "weights": "best"})
        assert without_stages(plan) == Plan(Path("student.rsedge"))
        assert plan.wanted == Wanted(("fp16", "int8"), Limits(), None, None, 32, force=False)
        assert plan.calibration == Calibration((), 64, None, None)

    def test_every_option_goes_through(self, run: Command, asked: list[Any], tmp_path: Path) -> None:
        (tmp_path / "gate" / "images").mkdir(parents=True)
        (tmp_path / "gate" / "masks").mkdir()
        for place in ("images", "masks"):
            (tmp_path / "gate" / place / "a.tif").touch()
        code, printed, _ = run(
            "--run", "runs/teacher", "--out", "t.rsedge", "--weights", "last", "--name", "big",
            "--precision", "fp32, int8", "--calibration", "survey", "--calibration", "samples",
            "--calibration-tiles", 48, "--bands", "4,3,2", "--scale", "0,3000", "--gate", "gate",
            "--gate-tiles", 7, "--classes", "c.toml", "--max-miou-drop", 0.25, "--max-class-drop", 2, "--force",
            "--json", "-q",
        )  # fmt: skip
        assert code == 0
        ((path, plan, options),) = asked
        assert (path, options) == (Path("runs/teacher"), {"name": "big", "weights": "last"})
        assert without_stages(plan) == Plan(
            Path("t.rsedge"),
            Wanted(("int8",), Limits(0.25, 2), Path("gate"), Path("c.toml"), 7, force=True),
            Calibration(("survey", "samples"), 48, (4, 3, 2), (0.0, 3000.0)),
        )
        assert json.loads(printed) == BUILT  # and nothing else

    def test_the_table(self, run: Command, asked: list[Any]) -> None:
        _, printed, _ = run()
        for text in (
            "student.rsedge, 46.3 MB on disk",
            "6.717 M, 5.712 M as exported",
            "6.61 G a 512 px tile, 5.84 G as exported",
            "arafnet-t: 223.000 M parameters",
            "equals torch on 8 sample tiles: 99.980% of the pixels, largest error 4.5e-06",
            "13 held calibration tiles; calibrated on 64 tiles of 9 rasters",
            "infer RASTER --out MASK --model student.rsedge",
        ):
            assert text in printed
        rows = [" ".join(line.split()) for line in printed.splitlines() if line.startswith("model.")]
        assert rows == [
            "model.fp16.onnx 11.60 0.50 99.96% 99.71% - - - passed, onnxruntime 1.20",
            "model.int8.onnx 6.30 0.27 99.12% 97.50% +0.21 water +0.84 3 passed, onnxruntime 1.20",
            "model.int8-trt10.onnx 6.00 0.26 99.12% 97.50% - - 0 kept by force, onnxruntime 1.20",
        ]
        assert asked

    @pytest.mark.usefixtures("asked")
    def test_notes_and_what_failed_are_said(self, run: Command) -> None:
        _, printed, said = run()
        assert said.splitlines() == [
            "note: something to know",
            "note: INT8 did not pass: int8: too far off; int8: and late",
            "note: this is a rehearsal: its weights show that the commands work, not what a model can do",
        ]
        assert "note:" not in printed

    @pytest.mark.usefixtures("asked")
    def test_what_is_not_possible_is_said_of_its_precisions(
        self, run: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name, names = "INT8 is not possible", ["int8-trt8", "int8-trt10"]
        rung = {"name": name, "precisions": names, "passed": False, "why": ["no layer"]}
        monkeypatch.setitem(BUILT["report"], "ladder", [rung])
        assert "note: INT8 is not possible for int8-trt8, int8-trt10: no layer\n" in run()[2]

    def test_fp32_alone_shows_no_gate(
        self, run: Command, asked: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        report = {"calibration": None, "notes": [], "ladder": [], "artifacts": BUILT["report"]["artifacts"]}
        alone = {"model.fp32.onnx": report["artifacts"]["model.fp32.onnx"]}
        built = {**BUILT, "rehearsal": False, "report": {**report, "artifacts": alone}}
        monkeypatch.setattr(build, "build_bundle", lambda *_, **__: built)
        code, printed, said = run("--precision", "fp32")
        assert (code, said, "gate" in printed) == (0, "", False)
        assert asked == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "runs/student is not a run folder"),
        (("--out", "photos.rsedge"), "is not a bundle"),
        (("--out", "none/b.rsedge"), "does not exist"),
        (("--precision", "int4"), "precision 'int4': unknown"),
        (("--precision", "fp16,"), "precision '': unknown"),
        (("--bands", "1,x"), "not a list of band numbers"),
        (("--scale", "5"), "not LOW,HIGH"),
        (("--calibration-tiles", "many"), "Invalid value for '--calibration-tiles'"),
        (("--max-miou-drop", "-1"), "points of 0 or more"),
        (("--max-class-drop", "nan"), "points of 0 or more"),
        (("--gate-tiles", "0"), "at least 1"),
        (("--gate", "photos.rsedge"), "holds no labelled image"),
        (("--gate", "none"), "is not a folder"),
        (("--bundle", "student.rsedge"), "add --trt"),
        (("--onnx", "a.onnx"), "give --classes FILE, --mean M,M,M and --std S,S,S"),
    ],
)
def test_what_cannot_be_is_explained_and_exits_with_2(
    run: Command, tmp_path: Path, args: tuple[str, ...], message: str
) -> None:
    (tmp_path / "photos.rsedge").mkdir()
    (tmp_path / "photos.rsedge" / "wedding.jpg").touch()
    code, _, said = run(*args)
    assert code == 2
    assert message in said
    assert [p.name for p in tmp_path.iterdir()] == ["photos.rsedge"]


@pytest.mark.parametrize("module", ["rsedge_export.bundle.build", "rsedge_export.precision.variants"])
def test_a_missing_package_prints_the_pip_command(
    run: Command, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    code, _, said = run()
    assert code == 1
    assert 'pip install "rsedge[export]"' in said


class TestSomebodyElsesOnnx:
    TABLE = (
        'ignore = ["#000000", "#FFFFFF"]\n[classes]\nred = "#C80000"\ngreen = "#00C800"\nblue = "#0000C8"\n'
    )
    ARGS = ("--onnx", "unet.onnx", "--classes", "c.toml", "--mean", "0.1,0.2,0.3", "--std", "1,2,3")

    def test_its_facts_go_through(self, run: Command, asked: list[Any], tmp_path: Path) -> None:
        (tmp_path / "c.toml").write_text(self.TABLE)
        code, _, _ = run(
            *self.ARGS, "--max-value", 200, "--band-names", "nir, red,green", "--gsd", "0.25,1", "--tile", 256,
            "--name", "unet", "--calibration", "samples", "--output", "out",
        )  # fmt: skip
        assert code == 0
        ((path, facts, plan, options),) = asked
        assert facts == ForeignFacts(
            CLASSES, (0.1, 0.2, 0.3), (1, 2, 3), 200, ("nir", "red", "green"), gsd_m=(0.25, 1.0), name="unet",
            tile=256, unlabelled=((0, 0, 0), (255, 255, 255)), output="out",
        )  # fmt: skip
        assert (path, options) == (Path("unet.onnx"), {})
        assert plan.calibration == Calibration(("samples",), 64)

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (("--mean", "0.1,x,0.3"), "--mean '0.1,x,0.3' is not a list of numbers"),
            (("--std", "1,,3"), "--std '1,,3' is not a list of numbers"),
            (("--std", "1,2"), "3 means and 2 standard deviations"),
            (("--gsd", "1,2,3"), "is not two numbers such as 0.25,1"),
            (("--max-value", "0"), "not a positive number"),
            (("--tile", "0"), "at least 1 pixel"),
            (("--classes", "none.toml"), "cannot be read as a class table"),
        ],
    )
    def test_facts_that_are_none(
        self, run: Command, tmp_path: Path, args: tuple[str, ...], message: str
    ) -> None:
        (tmp_path / "c.toml").write_text(self.TABLE)
        code, _, said = run(*self.ARGS, *args)
        assert code == 2
        assert message in said

    def test_to_a_bundle_and_its_table(self, run: Command, tmp_path: Path) -> None:
        (tmp_path / "c.toml").write_text(self.TABLE)
        onnx.save(tiny_graph(raw=False), tmp_path / "unet.onnx")
        args = (*self.ARGS[:4], "--mean", "0,0,0", "--std", "1,1,1", "--precision", "fp16")
        code, printed, said = run(*args, "--out", "u.rsedge", "--calibration", "samples", "--json")
        assert (code, said) == (0, "")
        assert "model      unet: unet.onnx" in printed
        assert "MACs" not in printed
        told = json.loads(printed.splitlines()[-1])
        assert told["report"] == Bundle.open("u.rsedge").report
        assert Bundle.open("u.rsedge").precisions == ("fp32", "fp16")

    def test_what_was_made_of_its_output_is_said_and_kept(self, run: Command, tmp_path: Path) -> None:
        (tmp_path / "c.toml").write_text(self.TABLE)
        made = tiny_graph(raw=False)
        (output,) = made.graph.output
        made.graph.node.append(onnx.helper.make_node("Softmax", [output.name], ["shares"], axis=1))
        output.name = "shares"
        onnx.save(made, tmp_path / "unet.onnx")
        args = (
            *self.ARGS[:4],
            "--mean",
            "0,0,0",
            "--std",
            "1,1,1",
            "--precision",
            "fp32",
            "--out",
            "u.rsedge",
        )
        code, _, said = run(*args)
        assert code == 0
        assert "note: its output holds probabilities (a softmax inside): the softmax was cut off" in said
        assert "softmax" in Bundle.open("u.rsedge").report["notes"][0]
        assert run(*args, "-q") == (0, "", "")


DEVICE = Device("Orin", "87", "10.3.0", "12.6", "12.6", "36.4.0")
FACTS = PlanFacts(
    "fp16-sm87-trt10.3.0.plan", "0" * 64, 12_000_000, "fp16", "model.fp16.onnx", "0" * 64, DEVICE, Batch(), 1 << 28,
    {"Half": 61, "Float": 2}, {"Half": 90}, None, "0.1.0", "2025-01-01",
)  # fmt: skip


class TestAnEngine:
    @pytest.fixture
    def engines(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """Record the calls of ``build_engine``, in place of its work."""
        calls: list[Any] = []

        def fake(path: Path, precision: str, options: TrtOptions, _progress: object) -> PlanFacts:
            calls.append((path, precision, options))
            return FACTS

        monkeypatch.setattr(trt, "build_engine", fake)
        return calls

    def bundle(self, folder: Path, *precisions: str, report: object = None) -> Path:
        graphs = {p: graph_of(MANIFEST, p) for p in ("fp32", *precisions)}
        return make_artifacts(folder, MANIFEST, graphs, report)

    @pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
    def test_of_a_bundle_without_torch(
        self,
        run: Command,
        engines: list[Any],
        tmp_path: Path,
        precision: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.bundle(tmp_path / "m.rsedge", "fp16", "int8-trt10")
        monkeypatch.setitem(sys.modules, "rsedge_export.bundle.build", None)
        monkeypatch.setitem(sys.modules, "rsedge_export.bundle.assemble", None)
        code, printed, said = run(
            "--trt", "--bundle", "m.rsedge", "--precision", precision, "--json", "--force"
        )
        assert (code, said) == (0, "")
        assert engines == [(Path("m.rsedge"), precision, TrtOptions(force=True))]
        assert "m.rsedge/engines/fp16-sm87-trt10.3.0.plan, 12.0 MB" in printed
        assert "Orin, SM 87, TensorRT 10.3.0" in printed
        assert "61 Half, 2 Float" in printed
        assert "--model m.rsedge --device tensorrt" in printed
        assert json.loads(printed.splitlines()[-1])["engine"]["precision"] == "fp16"

    def test_without_a_run_it_is_that_of_this_folder(
        self, run: Command, engines: list[Any], tmp_path: Path
    ) -> None:
        self.bundle(tmp_path / "student.rsedge", "fp16")
        assert run("--trt")[0] == 0
        assert engines == [(Path("student.rsedge"), "fp16", TrtOptions())]

    def test_with_a_run_it_is_exported_first(
        self, run: Command, engines: list[Any], asked: list[Any], tmp_path: Path
    ) -> None:
        (tmp_path / "runs" / "student").mkdir(parents=True)
        self.bundle(tmp_path / "t.rsedge", "fp16")
        code, printed, _ = run("--trt", "--out", "t.rsedge", "--json")
        assert code == 0
        assert plan_of(asked[0]).out == Path("t.rsedge")
        assert engines == [(Path("t.rsedge"), "fp16", TrtOptions())]
        told = json.loads(printed.splitlines()[-1])
        assert (told["engine"]["file"], told["name"]) == (FACTS.file, "student")

    def test_a_run_named_but_missing_is_no_reason_to_take_a_bundle(
        self, run: Command, engines: list[Any], tmp_path: Path
    ) -> None:
        self.bundle(tmp_path / "student.rsedge")
        code, _, said = run("--trt", "--run", "runs/other")
        assert (code, engines) == (2, [])
        assert "runs/other is not a run folder" in said

    def test_no_int8_means_fp16_and_says_why(self, run: Command, engines: list[Any], tmp_path: Path) -> None:
        """The CPU's INT8 does not help TensorRT."""
        rung = {"name": "INT8", "precisions": ["int8-trt10"], "passed": False, "why": ["conv7 is too dear"]}
        report = {"notes": [], "ladder": [rung], "artifacts": {}}
        self.bundle(tmp_path / "m.rsedge", "fp16", "int8", report=report)
        code, _, said = run("--trt", "--bundle", "m.rsedge", "--precision", "int8")
        assert (code, engines[0][1]) == (0, "fp16")
        assert said == "note: m.rsedge has no INT8 for TensorRT (conv7 is too dear): building FP16\n"

    @pytest.mark.parametrize(("asked_for", "built"), [("int8", "int8"), ("fp16,int8", "fp16")])
    def test_one_precision_of_an_export_is_the_engines_too(
        self, run: Command, engines: list[Any], asked: list[Any], tmp_path: Path, asked_for: str, built: str
    ) -> None:
        (tmp_path / "runs" / "student").mkdir(parents=True)
        self.bundle(tmp_path / "student.rsedge", "fp16", "int8-trt10")
        assert run("--trt", "--precision", asked_for)[0] == 0
        assert (len(asked), engines[0][1]) == (1, built)

    def test_what_is_kept_by_force_is_said(
        self, run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from dataclasses import replace

        self.bundle(tmp_path / "m.rsedge", "fp16")
        monkeypatch.setattr(trt, "build_engine", lambda *_: replace(FACTS, problem="half of it is fp32"))
        code, _, said = run("--trt", "--bundle", "m.rsedge")
        assert (code, said) == (0, "note: kept by force: half of it is fp32\n")
        assert run("--trt", "--bundle", "m.rsedge", "-q") == (0, "", "")

    def test_no_bundle(self, run: Command) -> None:
        code, _, said = run("--trt")
        assert code == 2
        assert "student.rsedge not found; copy a bundle to it, or name one with --bundle" in said

    def test_without_tensorrt_the_bundle_stands_and_the_device_does_it(
        self, run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The whole way: export, then no TensorRT here."""
        monkeypatch.setitem(sys.modules, "tensorrt", None)
        ready = tiny_bundle(tmp_path / "ready")

        def fake(_run: Path, plan: Plan, **_: object) -> dict[str, Any]:
            shutil.move(ready, plan.out)
            return {**BUILT, "rehearsal": False}

        monkeypatch.setattr(build, "build_bundle", fake)
        (tmp_path / "runs" / "student").mkdir(parents=True)
        code, printed, said = run("--trt")
        assert code == 1
        assert Bundle.open("student.rsedge").precisions == ("fp32",)
        assert "bundle     student.rsedge" in printed
        assert "TensorRT is not installed" in said
        assert "The bundle student.rsedge stays as it is" in said
        assert "rsedge export --trt --bundle student.rsedge" in said

    @pytest.mark.parametrize(("kind", "code"), [(BackendError, 1), (ModelError, 2)])
    def test_other_failures_keep_their_kind(
        self, run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], code: int
    ) -> None:
        self.bundle(tmp_path / "m.rsedge")

        def fail(*_: object) -> PlanFacts:
            raise kind("no memory")

        monkeypatch.setattr(trt, "build_engine", fail)
        found, _, said = run("--trt", "--bundle", "m.rsedge")
        assert found == code
        assert "no memory. The bundle m.rsedge stays as it is" in said


def test_quiet_shows_no_progress(run: Command, asked: list[Any]) -> None:
    run("--quiet")
    with plan_of(asked[0]).stages("judging int8") as progress:
        assert progress is None
