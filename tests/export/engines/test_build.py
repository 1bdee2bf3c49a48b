"""What of building an engine needs no TensorRT: which ONNX, its opset, refusals.

Nothing here builds an engine. That its calls are right is shown in tests/bindings, as far as it can be without a GPU.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from rsedge.errors import BackendError, InputError, ModelError, OutputError
from rsedge.model.bundle import write_bundle_manifest
from rsedge_export.engines.build import (
    TrtOptions,
    _check_memory,
    build_engine,
    check_opset,
    check_writable,
    open_source,
)
from rsedge_export.engines.check import GraphFacts
from toys import make_bundle, pointwise_graph, pointwise_manifest

OLD, NEW = SimpleNamespace(__version__="8.6.1"), SimpleNamespace(__version__="10.3.0")


def full_bundle(tmp_path: Path, **facts: object) -> Path:
    manifest = pointwise_manifest(**facts)
    folder = make_bundle(tmp_path / "full.rsedge", manifest, pointwise_graph(manifest))
    for name in ("fp16", "int8", "int8-trt8", "int8-trt10"):
        onnx.save(pointwise_graph(manifest), folder / f"model.{name}.onnx")
    write_bundle_manifest(folder, manifest)
    return folder


@pytest.mark.parametrize(
    ("trt", "precision", "name"),
    [
        (OLD, "fp16", "model.fp16.onnx"),
        (NEW, "fp16", "model.fp16.onnx"),
        (OLD, "int8", "model.int8-trt8.onnx"),
        (NEW, "int8", "model.int8-trt10.onnx"),
        (NEW, "fp32", "model.fp32.onnx"),
    ],
)
def test_which_onnx_is_built_from(tmp_path: Path, trt: Any, precision: str, name: str) -> None:
    assert open_source(trt, full_bundle(tmp_path), precision).artifact.name == name


def test_what_cannot_be_built_is_refused(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(InputError, match="precision 'int4': unknown"):
        open_source(NEW, bundle, "int4")
    with pytest.raises(InputError, match="is a file"):
        open_source(NEW, bundle / "model.fp32.onnx", "fp32")
    with pytest.raises(ModelError, match="has no model.fp16.onnx"):
        open_source(NEW, bundle, "fp16")
    with pytest.raises(ModelError, match=r"uint16 pixels, which TensorRT does not support"):
        open_source(NEW, full_bundle(tmp_path, dtype="uint16"), "fp16")


def test_an_opset_that_tensorrt_8_does_not_parse(bundle: Path) -> None:
    source = open_source(OLD, bundle, "fp32")
    graph = GraphFacts.read(source.artifact)
    with pytest.raises(
        ModelError, match=r"unsupported opset: .* opset 18, TensorRT 8\.6\.1 .* 17. Use --precision fp16"
    ):
        check_opset(OLD, source, graph)
    check_opset(NEW, source, graph)


def test_too_little_memory_is_said_before_building(bundle: Path) -> None:
    source = open_source(NEW, bundle, "fp32")
    with pytest.raises(BackendError, match="256 MiB of device memory, 100 MiB are free"):
        _check_memory(source, 100 << 20)
    _check_memory(source, 1 << 30)


def test_a_bundle_that_cannot_be_written_is_refused_before_building(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_writable(bundle)
    (bundle / "engines").mkdir()
    refused = bundle / "engines"
    monkeypatch.setattr(os, "access", lambda path, _: path != refused)
    with pytest.raises(OutputError, match=r"engines is not a writable folder.*Copy the bundle.*`cp -r "):
        check_writable(bundle)
    refused.rmdir()
    check_writable(bundle)
    refused.write_bytes(b"in the way")
    with pytest.raises(OutputError, match="not a writable folder"):
        check_writable(bundle)
    refused.unlink()
    refused = bundle
    with pytest.raises(OutputError, match="is not a writable folder"):
        check_writable(bundle)


def test_without_tensorrt_nothing_is_written(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match="TensorRT is not installed"):
        build_engine(bundle, "fp32")
    assert not (bundle / "engines").exists()


@pytest.mark.parametrize("options", [{"level": 6}, {"workspace_bytes": 5}])
def test_impossible_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InputError):
        TrtOptions(**options)


def test_the_builder_needs_neither_torch_nor_onnx() -> None:
    """It runs on a Jetson."""
    import subprocess

    code = (
        "import sys\nfor m in ('torch', 'onnx', 'rsedge_train', 'onnxruntime'): sys.modules[m] = None\n"
        "import rsedge_export.engines.build, rsedge.backends.tensorrt"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
