from __future__ import annotations

import hashlib
import json
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rsedge.bundle import METADATA_KEY, Bundle, onnx_metadata
from rsedge.errors import ModelError
from toys import make_bundle, pointwise_graph, pointwise_manifest


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
    assert onnx_metadata(tmp_path / "m.onnx") == expected
    assert METADATA_KEY in expected


def test_the_default_bundle_is_whole() -> None:
    bundle = Bundle.open()
    assert [c.name for c in bundle.manifest.classes] == ["building", "land", "road", "vegetation", "water"]
    assert bundle.manifest.tile == 512


class TestFailures:
    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="no model at"):
            Bundle.open(tmp_path / "none.rsedge")

    def test_a_folder_that_is_no_bundle(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"has no manifest\.json"):
            Bundle.open(tmp_path)

    def test_an_edited_artifact(self, tmp_path: Path) -> None:
        folder = make_bundle(tmp_path / "b", pointwise_manifest(), pointwise_graph(pointwise_manifest()))
        with (folder / "model.fp32.onnx").open("ab") as file:
            file.write(b"\0")
        with pytest.raises(ModelError, match="not the file its manifest names"):
            Bundle.open(folder)

    def test_a_missing_artifact_and_a_missing_precision(self, tmp_path: Path) -> None:
        folder = make_bundle(tmp_path / "b", pointwise_manifest(), pointwise_graph(pointwise_manifest()))
        with pytest.raises(ModelError, match=r"no model\.int8\.onnx; its artifacts: model\.fp32\.onnx"):
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
        with pytest.raises(ModelError, match="its artifacts: none"):
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
