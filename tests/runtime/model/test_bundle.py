from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifacts import graph_of, make_artifacts
from rsedge import open_model
from rsedge.errors import InputError, ModelError
from rsedge.model.bundle import (
    FULL_BUNDLE,
    METADATA_KEY,
    PRECISIONS,
    Bundle,
    write_bundle_manifest,
)
from rsedge.model.engines import Device, choose
from rsedge.model.manifest import Manifest
from rsedge.model.onnx_metadata import onnx_metadata
from toys import TILE, make_bundle, pointwise_graph, pointwise_manifest

FULL = Path(__file__).parents[3] / FULL_BUNDLE


def test_a_folder_names_every_artifact_with_its_hash(bundle: Path) -> None:
    listed = json.loads((bundle / "manifest.json").read_text())["artifacts"]
    digest = hashlib.sha256((bundle / "model.fp32.onnx").read_bytes()).hexdigest()
    assert listed == {"model.fp32.onnx": digest}
    opened = Bundle.open(bundle)
    assert (opened.sha256, opened.manifest) == (digest, pointwise_manifest())


def test_a_lone_onnx_carries_the_same_facts(bundle: Path) -> None:
    assert Bundle.open(bundle / "model.fp32.onnx").manifest == Bundle.open(bundle).manifest


def test_metadata_are_read_as_the_onnx_package_reads_them(tmp_path: Path) -> None:
    graph = pointwise_graph(pointwise_manifest())
    for key, value in (("empty", ""), ("umlaut", "Gewässer"), ("long", "x" * 70_000)):
        graph.metadata_props.add(key=key, value=value)
    onnx.save(graph, tmp_path / "m.onnx")
    expected = {p.key: p.value for p in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert onnx_metadata((tmp_path / "m.onnx").read_bytes(), "m") == expected
    assert METADATA_KEY in expected


def test_a_manifest_edited_by_hand_is_refused(tmp_path: Path) -> None:
    manifest = pointwise_manifest()
    folder = make_bundle(tmp_path / "b.rsedge", manifest, pointwise_graph(manifest))
    text = (folder / "manifest.json").read_text()
    assert text.count('"red"') == 2  # a band and a class
    (folder / "manifest.json").write_text(text.replace('"red"', '"rot"'))
    with pytest.raises(ModelError, match="one of them was edited"):
        Bundle.open(folder)


def test_the_default_bundle_is_whole() -> None:
    bundle = Bundle.open()
    assert [c.name for c in bundle.manifest.classes] == ["building", "land", "road", "vegetation", "water"]
    assert bundle.manifest.tile == 512
    assert bundle.precisions == ("fp32", "int8")
    for name in bundle.artifacts:
        assert bundle.read(name)


def test_what_the_wheel_leaves_out_is_in_the_repository() -> None:
    full, part = Bundle.open(FULL), Bundle.open()
    assert full.precisions == PRECISIONS
    assert full.manifest == part.manifest
    assert set(part.artifacts.items()) < set(full.artifacts.items())
    for name in full.artifacts:
        assert full.read(name)
        assert not (full.path / name).is_symlink()  # so that the folder can be copied elsewhere
    with pytest.raises(ModelError, match=rf"precisions: fp32, int8\); .*{FULL_BUNDLE}"):
        Bundle.open(precision="fp16")
    assert FULL_BUNDLE in str(part.why_not("int8-trt"))
    with pytest.raises(ModelError, match=rf"it has none\); .*{FULL_BUNDLE}"):
        choose(part, None, Device("Orin", "8.7", "10.3.0", "12.6", "12.6"))


class TestSeveralArtifacts:
    def made(self, tmp_path: Path, report: object = None) -> Path:
        manifest = pointwise_manifest()
        graphs = {p: graph_of(manifest, p) for p in ("int8-trt10", "int8", "fp32")}
        return make_artifacts(tmp_path / "b.rsedge", manifest, graphs, report)

    def test_a_folder_says_what_it_has(self, tmp_path: Path) -> None:
        folder = self.made(tmp_path)
        assert Bundle.open(folder).precisions == ("fp32", "int8", "int8-trt10")
        opened = Bundle.open(folder, "int8")
        assert (opened.precision, opened.artifact.name) == ("int8", "model.int8.onnx")
        assert opened.artifacts == json.loads((folder / "manifest.json").read_text())["artifacts"]
        assert opened.sha256 == hashlib.sha256((folder / "model.int8.onnx").read_bytes()).hexdigest()

    def test_a_lone_file_is_what_its_metadata_say(self, tmp_path: Path, bundle: Path) -> None:
        lone = self.made(tmp_path) / "model.int8.onnx"
        for opened in (Bundle.open(lone), Bundle.open(lone, "int8")):
            assert (opened.precision, opened.precisions) == ("int8", ("int8",))
            assert opened.artifacts == {"model.int8.onnx": opened.sha256}
            assert opened.read("model.int8.onnx") == lone.read_bytes()
            assert (opened.report, opened.record()) == ({}, {})
        with pytest.raises(ModelError, match="is int8, not fp32"):
            Bundle.open(lone, "fp32")
        assert Bundle.open(bundle / "model.fp32.onnx").precision == "fp32"  # no such metadata: rsedge 0.1

    def test_an_unknown_precision(self, bundle: Path) -> None:
        with pytest.raises(InputError, match="fp32, fp16, int8"):
            Bundle.open(bundle, "int4")

    def test_the_report_by_artifact(self, tmp_path: Path) -> None:
        report = {"artifacts": {"model.int8.onnx": {"agreement": 0.98}, "model.fp32.onnx": "none"}}
        folder = self.made(tmp_path, report)
        assert Bundle.open(folder).report == report
        assert Bundle.open(folder, "int8").record() == {"agreement": 0.98}
        assert Bundle.open(folder).record("int8") == {"agreement": 0.98}
        assert (Bundle.open(folder).record(), Bundle.open(folder).record("fp16")) == ({}, {})

    @pytest.mark.parametrize("report", [None, [], {}, {"artifacts": []}])
    def test_a_report_that_says_nothing(self, tmp_path: Path, report: object) -> None:
        opened = Bundle.open(self.made(tmp_path, report))
        assert opened.report == (report if isinstance(report, dict) else {})
        assert opened.record() == {}

    def test_a_report_that_is_gone_or_no_json(self, tmp_path: Path) -> None:
        folder = self.made(tmp_path, {})
        (folder / "report.json").write_text("{")
        write_bundle_manifest(folder, pointwise_manifest())
        assert Bundle.open(folder).report == {}
        (folder / "report.json").unlink()
        assert Bundle.open(folder).report == {}

    def test_an_edited_report_is_no_report(self, tmp_path: Path) -> None:
        folder = self.made(tmp_path, {"artifacts": {"model.int8.onnx": {"forced": True}}})
        (folder / "report.json").write_text("{}")
        with pytest.raises(ModelError, match="was changed"):
            assert Bundle.open(folder).report
        with pytest.raises(ModelError, match="was changed"):
            open_model(folder)  # before the work rather than after it

    def test_why_a_precision_is_missing(self, tmp_path: Path) -> None:
        manifest = pointwise_manifest()
        graphs = {p: graph_of(manifest, p) for p in ("fp32", "int8-trt8")}

        def rung(precisions: list[str], passed: bool, *why: str) -> dict[str, object]:
            return {"name": "rung", "precisions": precisions, "passed": passed, "why": why}

        ladder = [
            rung(["int8"], False, "int8: too far off"),
            rung(["int8"], False, "conv7 is too dear", "conv8 too"),
            rung(["int8-trt8", "int8-trt10"], True),
            rung(["fp16"], False, "fp16: overflows"),
        ]
        report = {"ladder": ladder, "notes": ["INT8 was not calibrated", "something else"]}
        opened = Bundle.open(make_artifacts(tmp_path / "b", manifest, graphs, report))
        assert opened.why_not("fp32") is None
        assert opened.why_not("int8") is None  # TensorRT's is one too
        assert opened.why_not("int8-trt8") is None
        assert opened.why_not("fp16") == "fp16: overflows"
        alone = Bundle.open(make_artifacts(tmp_path / "c", manifest, {"fp32": graphs["fp32"]}, report))
        assert (
            alone.why_not("int8")
            == "INT8 was not calibrated; int8: too far off; conv7 is too dear; conv8 too"
        )

    @pytest.mark.parametrize("report", [None, [], {}, {"ladder": None, "notes": None}])
    def test_why_a_precision_is_missing_that_nobody_tried(self, tmp_path: Path, report: object) -> None:
        assert Bundle.open(self.made(tmp_path, report)).why_not("fp16") == "it was not exported"

    def test_any_file_of_it_is_checked(self, tmp_path: Path) -> None:
        opened = Bundle.open(self.made(tmp_path, {}))
        assert opened.read("report.json") == (opened.path / "report.json").read_bytes()
        with pytest.raises(ModelError, match=r"has no reference\.npz"):
            opened.read("reference.npz")


class TestWhatRunsIsWhatWasHashed:
    def test_the_bytes_are_those_that_were_opened_whatever_takes_their_place(
        self, bundle: Path, tmp_path: Path
    ) -> None:
        folder = make_bundle(tmp_path / "b", pointwise_manifest(), pointwise_graph(pointwise_manifest()))
        for path in (folder, folder / "model.fp32.onnx"):
            own = (folder / "model.fp32.onnx").read_bytes()
            opened = Bundle.open(path)
            (folder / "model.fp32.onnx").write_bytes(b"another")
            assert opened.artifact_bytes() == own
            with pytest.raises(ModelError, match="was changed"):
                opened.artifact_bytes()  # they are not kept
            (folder / "model.fp32.onnx").write_bytes(own)
            assert opened.artifact_bytes() == own

    @pytest.mark.parametrize("device", ["cpu", "openvino"])
    def test_a_file_exchanged_while_it_is_opened_does_not_run(
        self, tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if device == "openvino":
            pytest.importorskip("openvino")
        manifest = pointwise_manifest()
        folder = make_artifacts(tmp_path / "b", manifest, {"fp32": graph_of(manifest)})
        other = graph_of(manifest, "fp32", (9, 9, 9)).SerializeToString()
        load = Manifest.from_json

        def exchanged(text: str | bytes, source: str) -> Manifest:
            if source.endswith(".onnx"):  # its hash has been checked
                (folder / "model.fp32.onnx").write_bytes(other)
            return load(text, source)

        monkeypatch.setattr(Manifest, "from_json", exchanged)
        batch = np.full((1, 3, TILE, TILE), 7, np.uint8)
        with open_model(folder, device, 1) as model:
            assert model.infer(batch).max() == 7
            if device == "openvino":  # reads it again for another number of tiles
                with pytest.raises(ModelError, match="was changed"):
                    model.infer(np.concatenate([batch, batch]))

    @pytest.mark.parametrize("lone", [False, True])
    def test_weights_that_no_hash_covers(self, tmp_path: Path, lone: bool) -> None:
        graph, folder = pointwise_graph(pointwise_manifest()), tmp_path / "b"
        folder.mkdir()
        onnx.save(
            graph, folder / "model.fp32.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
        )
        write_bundle_manifest(folder, pointwise_manifest())
        assert "w.bin" in json.loads((folder / "manifest.json").read_text())["artifacts"]
        with pytest.raises(ModelError, match="keeps weights in other files"):
            Bundle.open(folder / "model.fp32.onnx" if lone else folder)

    @pytest.mark.parametrize("name", ["manifest.json", "model.fp32.onnx"])
    def test_what_is_no_file_is_not_waited_for(self, tmp_path: Path, name: str) -> None:
        folder = make_bundle(tmp_path / "b", pointwise_manifest(), pointwise_graph(pointwise_manifest()))
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/zero")
        with pytest.raises(ModelError):
            Bundle.open(folder)
        os.mkfifo(tmp_path / "pipe.onnx")
        with pytest.raises(ModelError, match="not a regular file"):
            Bundle.open(tmp_path / "pipe.onnx")

    @pytest.mark.parametrize(
        "artifacts",
        [{"model.fp32.onnx": 5}, {"model.fp32.onnx": "A" * 64}, {"a\nb": "0" * 64}, {"": "0" * 64}],
    )
    def test_a_list_of_artifacts_that_is_none(self, tmp_path: Path, artifacts: object) -> None:
        facts = {**json.loads(pointwise_manifest().to_json()), "artifacts": artifacts}
        (tmp_path / "manifest.json").write_text(json.dumps(facts))
        with pytest.raises(ModelError, match="artifact|SHA-256"):
            Bundle.open(tmp_path)

    @pytest.mark.parametrize(
        "report",
        [{"ladder": 5}, {"ladder": [5]}, {"ladder": [{}]}, {"notes": 5}, {"ladder": [{"precisions": 5}]}],
    )
    def test_a_report_of_another_kind(self, tmp_path: Path, report: object) -> None:
        manifest = pointwise_manifest()
        folder = make_artifacts(tmp_path / "b", manifest, {"fp32": graph_of(manifest)}, report)
        assert Bundle.open(folder).why_not("int8") == "it was not exported"

    def test_a_report_that_is_too_deep_says_nothing(self, tmp_path: Path) -> None:
        folder = make_bundle(tmp_path / "b", pointwise_manifest(), pointwise_graph(pointwise_manifest()))
        (folder / "report.json").write_text("[" * 100_000)
        write_bundle_manifest(folder, pointwise_manifest())
        assert Bundle.open(folder).report == {}

    def test_a_precision_that_is_none(self, tmp_path: Path) -> None:
        onnx.save(graph_of(pointwise_manifest(), "\x1b[2J"), tmp_path / "m.onnx")
        with pytest.raises(ModelError, match="has the unknown precision"):
            Bundle.open(tmp_path / "m.onnx")


class TestFailures:
    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="not found. Give a bundle"):
            Bundle.open(tmp_path / "none.rsedge")

    def test_a_folder_that_is_no_bundle(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"manifest\.json not found"):
            Bundle.open(tmp_path)

    def test_an_edited_artifact(self, tmp_path: Path) -> None:
        folder = make_bundle(tmp_path / "b", pointwise_manifest(), pointwise_graph(pointwise_manifest()))
        with (folder / "model.fp32.onnx").open("ab") as file:
            file.write(b"\0")
        with pytest.raises(ModelError, match="was changed"):
            Bundle.open(folder)

    def test_a_missing_artifact_and_a_missing_precision(self, tmp_path: Path) -> None:
        folder = make_bundle(tmp_path / "b", pointwise_manifest(), pointwise_graph(pointwise_manifest()))
        with pytest.raises(ModelError, match=r"no model\.int8\.onnx \(artifacts: model\.fp32\.onnx"):
            Bundle.open(folder, "int8")
        (folder / "model.fp32.onnx").unlink()
        with pytest.raises(ModelError, match="listed in manifest.json but missing"):
            Bundle.open(folder)

    def test_erased_flash_is_refused_at_once(self, tmp_path: Path) -> None:
        (tmp_path / "m.onnx").write_bytes(b"\xff" * 10_000_000)
        with pytest.raises(ModelError, match="longer than 64 bits"):
            Bundle.open(tmp_path / "m.onnx")

    def test_a_manifest_without_artifacts(self, tmp_path: Path) -> None:
        facts = {**json.loads(pointwise_manifest().to_json()), "artifacts": None}
        (tmp_path / "manifest.json").write_text(json.dumps(facts))
        with pytest.raises(ModelError, match="artifacts: none"):
            Bundle.open(tmp_path)

    def test_someone_elses_onnx(self, tmp_path: Path) -> None:
        onnx.save(pointwise_graph(pointwise_manifest(), metadata=False), tmp_path / "m.onnx")
        with pytest.raises(ModelError, match="no rsedge metadata"):
            Bundle.open(tmp_path / "m.onnx")

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.binary(max_size=200))
    def test_any_bytes_are_a_model_error(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "any.onnx"
        path.write_bytes(data)
        with pytest.raises(ModelError, match="not an ONNX file|no rsedge metadata"):
            Bundle.open(path)
