from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime as ort
import pytest

from artifacts import graph_of, make_artifacts
from rsedge import BackendError, InputError, ModelError, open_model
from rsedge.backends.ort import OrtBackend
from rsedge.bundle import Bundle
from toys import CLASSES, TILE, make_bundle, pointwise_graph, pointwise_manifest


def test_scores_are_the_graphs_output(bundle: Path) -> None:
    batch = np.random.default_rng(0).integers(0, 256, (2, 3, TILE, TILE)).astype(np.uint8)
    with open_model(bundle, "cpu") as model:
        np.testing.assert_array_equal(model.infer(batch), batch.astype(np.float32))
        assert (model.name, model.provider) == ("onnxruntime", "CPUExecutionProvider")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tile": 32}, "input is uint8 Nx3x64x64, its manifest says uint8 Nx3x32x32"),
        ({"dtype": "uint16"}, "its manifest says uint16"),
        ({"classes": CLASSES[:2]}, "output is float32 Nx3x64x64, its manifest says float32 Nx2x64x64"),
    ],
)
def test_a_graph_other_than_its_manifest_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    folder = make_bundle(
        tmp_path / "b", pointwise_manifest(**changes), pointwise_graph(pointwise_manifest(), metadata=False)
    )
    with pytest.raises(ModelError, match=message):
        open_model(folder)


def test_without_a_precision_it_is_fp32(tmp_path: Path) -> None:
    manifest = pointwise_manifest()
    graphs = {"int8": graph_of(manifest, "int8", (2, 2, 2)), "fp32": graph_of(manifest)}
    folder = make_artifacts(tmp_path / "b", manifest, graphs)
    batch = np.full((1, 3, TILE, TILE), 7, np.uint8)
    for device in ("auto", "cpu"):
        with open_model(folder, device, 1) as model:
            assert (model.bundle.precision, model.infer(batch).max()) == ("fp32", 7)
        with open_model(folder, device, 1, "int8") as model:
            assert (model.bundle.precision, model.infer(batch).max()) == ("int8", 14)
    with open_model(folder / "model.int8.onnx", "cpu", 1) as model:
        assert model.bundle.precision == "int8"
    with pytest.raises(ModelError, match=r"no model\.fp16\.onnx.*precisions: fp32, int8.*rsedge export"):
        open_model(folder, "cpu", 1, "fp16")


def test_tensorrt_gets_the_precision_that_was_asked_for(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None stays None: the engine that is there. An ONNX file of its precision need not be."""
    asked: list[tuple[str, str | None]] = []

    class Engine(OrtBackend):
        def __init__(self, bundle: Bundle, precision: str | None) -> None:
            asked.append((bundle.precision, precision))
            super().__init__(bundle, "cpu", 1)

    module = ModuleType("rsedge.backends.tensorrt")
    module.TensorRtBackend = Engine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rsedge.backends.tensorrt", module)
    for precision in (None, "int8"):
        open_model(bundle, "tensorrt", precision=precision).close()
    assert asked == [("fp32", None), ("fp32", "int8")]


def test_a_damaged_graph_is_a_model_error(tmp_path: Path) -> None:
    graph = pointwise_graph(pointwise_manifest())
    graph.graph.node[1].op_type = "Konv"
    with pytest.raises(ModelError, match="does not load in onnxruntime"):
        open_model(make_bundle(tmp_path / "b", pointwise_manifest(), graph))


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="CUDA is here")
def test_a_device_that_is_not_there_is_an_error_unless_auto(bundle: Path) -> None:
    with pytest.raises(BackendError, match=r"cuda was asked for.*pip install"):
        open_model(bundle, "cuda")
    with open_model(bundle, "auto") as model:
        assert model.provider == "CPUExecutionProvider"


@pytest.mark.parametrize(("device", "threads"), [("tpu", None), ("cpu", 0)])
def test_impossible_options_are_refused(bundle: Path, device: str, threads: int | None) -> None:
    with pytest.raises(InputError):
        open_model(bundle, device, threads)


def test_a_missing_onnxruntime_prints_the_pip_command(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r'pip install "rsedge\[cpu\]"'):
        open_model(bundle)
