"""Engines of TensorRT for RTX: compiled here by NVIDIA's own compiler, where its package is installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rsedge.backends import rtx as rtx_module
from rsedge.backends.rtx import MAGIC, import_tensorrt_rtx
from rsedge.errors import BackendError, InputError, ModelError
from rsedge.model.bundle import Bundle, write_bundle_manifest
from rsedge.model.engines import RTX, list_engines, plan_path
from rsedge_export.engines.build import TrtOptions
from rsedge_export.engines.cross import (
    ask_parser,
    check_known,
    compile_onnx,
    cross_compile,
    note_in_report,
    parse_targets,
)
from rsedge_export.precision.qdq import quantize
from rsedge_export.precision.sites import find_sites
from rsedge_train.nets.grids import Scale
from rtx import needs_rtx, small_graph
from toys import pointwise_manifest


def quantized(unsigned: bool = False) -> onnx.ModelProto:
    graph = small_graph(np.float16)
    scales = {"real": Scale(2.0, 0), "mean": Scale(0.5, 7 if unsigned else 0)}
    return quantize(graph, find_sites(graph), {"conv1", "conv2"}, scales, unsigned=unsigned)


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A bundle in three precisions."""
    manifest, folder = pointwise_manifest(), tmp_path / "toy.rsedge"
    folder.mkdir()
    for name, graph in (
        ("fp32", small_graph(np.float32)),
        ("fp16", small_graph(np.float16)),
        ("int8-trt10", quantized()),
    ):
        onnx.save(graph, folder / f"model.{name}.onnx")
    artifacts = {"model.fp16.onnx": {"precision": "fp16", "passed": True}}
    (folder / "report.json").write_text(json.dumps({"artifacts": artifacts}))
    write_bundle_manifest(folder, manifest)
    return folder


def test_targets_are_compute_capabilities() -> None:
    assert parse_targets("sm86, SM120,sm86") == ("86", "120")
    for wrong in ("", "86", "sm8.6", "sm86,", "ampere"):
        with pytest.raises(
            InputError, match=r"--for .* is no compute capability. Give some as in --for sm86,sm89"
        ):
            parse_targets(wrong)


def test_an_unknown_compute_capability_is_refused_with_those_that_are_known() -> None:
    trt = SimpleNamespace(
        __name__="tensorrt_rtx",
        __version__="1.7.1",
        ComputeCapability=SimpleNamespace(SM86=1, SM120=2, NONE=0),
    )
    check_known(trt, ["86", "120"])
    with pytest.raises(InputError, match=r"TensorRT-RTX 1\.7\.1 does not compile for sm90.*sm86, sm120"):
        check_known(trt, ["86", "90"])


def test_without_the_package_its_name_is_said_and_the_parser_not_asked(
    full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rtx_module, "MODULES", ("no_such_module",))
    for name in ("PACKAGE", "BINDINGS"):
        monkeypatch.setattr(rtx_module, name, "no_such_module")
    with pytest.raises(BackendError, match=r'not installed; run `pip install "rsedge\[rtx\]"`'):
        cross_compile(full, "sm86")
    assert not (full / "engines").exists()
    assert ask_parser(full / "model.fp16.onnx") == (None, None)


@needs_rtx
def test_engines_are_compiled_without_a_gpu_and_kept_with_their_facts(full: Path) -> None:
    steps: list[tuple[int, int]] = []
    built, advice = cross_compile(full, "sm86,sm120", ["fp16", "int8"], progress=lambda *s: steps.append(s))
    assert steps == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert sorted(list_engines(full), key=str) == sorted(built, key=str)
    for facts in built:
        assert (facts.device.library, facts.device.name, facts.problem) == (RTX, None, None)
        assert facts.file == f"{facts.precision}-sm{facts.device.sm}-rtx{facts.device.tensorrt}.plan"
        assert plan_path(full, facts).read_bytes().startswith(MAGIC)
        assert facts.onnx_sha256 == Bundle.open(full, facts.source).sha256
        assert facts.convolutions == {"FP16" if facts.precision == "fp16" else "INT8": 2}
        assert facts.traffic is not None
        assert facts.traffic.moved_bytes > 3 * 64 * 64 * (1 + 4)  # at least its pixels and its scores
    assert [found.sm for found in advice] == ["86", "120"]
    # From the facts on disk, by hand: INT8 is advised only where it moves less.
    moved = {(f.device.sm, f.precision): f.traffic.moved_bytes for f in built if f.traffic}
    for found in advice:
        assert (found.precision == "int8") == (moved[found.sm, "int8"] < moved[found.sm, "fp16"])


@needs_rtx
def test_a_precision_that_the_bundle_lacks_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "poor.rsedge"
    folder.mkdir()
    onnx.save(small_graph(np.float32), folder / "model.fp32.onnx")
    write_bundle_manifest(folder, pointwise_manifest())
    for precision in ("fp16", "int8"):
        with pytest.raises(ModelError, match="has no model"):
            cross_compile(folder, "sm86", [precision])
    assert not (folder / "engines").exists()


@needs_rtx
def test_turing_has_no_fp32_matrix_products_so_fp16_is_offered(tmp_path: Path) -> None:
    folder = tmp_path / "product.rsedge"
    folder.mkdir()
    for name, kind in (("fp32", np.float32), ("fp16", np.float16)):
        graph = small_graph(kind)
        graph.graph.initializer.append(numpy_helper.from_array(np.eye(64, dtype=kind), "turn"))
        graph.graph.node[-1].input[0] = "turned"
        graph.graph.node.insert(4, helper.make_node("MatMul", ["narrow", "turn"], ["turned"], name="product"))
        onnx.save(graph, folder / f"model.{name}.onnx")
    write_bundle_manifest(folder, pointwise_manifest())
    with pytest.raises(ModelError, match="FP32 GEMM is not supported.*sm75: --precision fp16"):
        cross_compile(folder, "sm75", ["fp32"])
    (facts,), _ = cross_compile(folder, "sm75", ["fp16"])
    assert facts.device.sm == "75"


@needs_rtx
def test_an_engine_of_another_precision_is_not_written(full: Path) -> None:
    onnx.save(small_graph(np.float32), full / "model.int8-trt10.onnx")
    write_bundle_manifest(full, pointwise_manifest())
    with pytest.raises(ModelError, match="the ONNX has no quantized convolution.*it was not written"):
        cross_compile(full, "sm86", ["int8"])
    assert not (full / "engines").exists()
    (facts,), _ = cross_compile(full, "sm86", ["int8"], TrtOptions(force=True))
    assert facts.problem


@needs_rtx
def test_the_parser_accepts_right_graphs_and_refuses_wrong_ones(tmp_path: Path) -> None:
    def asked(graph: onnx.ModelProto) -> tuple[str | None, str | None]:
        onnx.save(graph, tmp_path / "model.onnx")
        return ask_parser(tmp_path / "model.onnx")

    version = import_tensorrt_rtx().__version__
    for right in (small_graph(np.float32), small_graph(np.float16), quantized()):
        assert asked(right) == (f"accepted by TensorRT-RTX {version}", None)
    _, refused = asked(quantized(unsigned=True))  # a zero point that is not 0
    assert refused is not None
    assert "zero point" in refused.lower()
    mixed = small_graph(np.float16)
    weight = next(t for t in mixed.graph.initializer if t.name == "second")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), "second"))
    onnx.save(mixed, tmp_path / "model.onnx")
    assert weight.data_type == TensorProto.FLOAT
    with pytest.raises(ModelError, match="TensorRT-RTX"):  # by the parser or by the compiler
        compile_onnx(import_tensorrt_rtx(), tmp_path / "model.onnx", "fp16", "86")


@needs_rtx
def test_a_new_bundles_report_keeps_what_the_compiler_said(full: Path) -> None:
    built, _ = cross_compile(full, "sm86")
    note_in_report(full, built)
    record = Bundle.open(full, "fp16").record()["tensorrt_rtx"]["sm86"]  # opened: the report's hash is right
    assert record["kernels"] == built[0].traffic.kernels
    assert record["convolutions"] == {"FP16": 2}
    with pytest.raises(ModelError, match="has no"):
        Bundle.open(full).read("engines/" + built[0].file)  # engines are no artifacts of the bundle


def test_plain_inference_imports_none_of_it() -> None:
    import subprocess

    code = (
        "import sys\nfrom rsedge import open_model\nopen_model(device='cpu').close()\n"
        "found = [m for m in sys.modules if 'tensorrt' in m or m.endswith('.rtx') or 'rsedge_export' in m]\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
