from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from rsedge import BackendError, InputError, ModelError, open_model
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
    folder = make_bundle(tmp_path / "b", pointwise_manifest(**changes), pointwise_graph(pointwise_manifest()))
    with pytest.raises(ModelError, match=message):
        open_model(folder)


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
