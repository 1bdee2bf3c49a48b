from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from rsedge import open_model
from rsedge.model.bundle import Bundle
from rsedge_export.graph.torch_graph import RawInput, export_onnx, trace
from rsedge_export.proof.parity import compare
from toys import TILE, pointwise_manifest

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1)).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(RawInput(small_net(), MEAN, STD, 255.0), pointwise_manifest(gsd_m=(0.25, 1.0)), path)
    return path


def test_preprocessing_is_the_formula() -> None:
    pixels = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    found = RawInput(nn.Identity(), MEAN, STD, 255.0)(pixels).numpy()
    shape = (1, 3, 1, 1)
    expected = (pixels.numpy() / 255.0 - np.array(MEAN).reshape(shape)) / np.array(STD).reshape(shape)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_the_file_computes_what_the_network_computes(exported: Path) -> None:
    rng = np.random.default_rng(0)
    tiles = [rng.integers(0, 256, (3, TILE, TILE)).astype(np.uint8) for _ in range(3)]
    found = compare(RawInput(small_net(), MEAN, STD, 255.0), exported, tiles)
    assert found.tiles == 3
    assert found.worst_error < 1e-5
    assert found.argmax_agreement > 0.9999


def test_parity_sees_another_network(exported: Path) -> None:
    torch.manual_seed(1)
    other = nn.Conv2d(3, 3, 1).eval()
    tile = np.random.default_rng(0).integers(0, 256, (3, TILE, TILE)).astype(np.uint8)
    assert compare(RawInput(other, MEAN, STD, 255.0), exported, [tile]).argmax_agreement < 0.9


def test_the_batch_is_free(exported: Path) -> None:
    batch = np.random.default_rng(0).integers(0, 256, (5, 3, TILE, TILE)).astype(np.uint8)
    with open_model(exported) as model:
        together = model.infer(batch)
        apart = np.concatenate([model.infer(batch[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(together, apart, atol=1e-5)


def test_the_file_is_fp32_opset_18_and_tells_nothing_of_this_machine(exported: Path) -> None:
    graph = onnx.load(exported)
    assert [o.version for o in graph.opset_import if not o.domain] == [18]
    assert {t.data_type for t in graph.graph.initializer if len(t.dims) == 4} == {TensorProto.FLOAT}
    assert str(Path(__file__).parents[3]).encode() not in exported.read_bytes()
    assert b"site-packages" not in exported.read_bytes()


def test_the_file_knows_its_manifest_and_precision(exported: Path) -> None:
    opened = Bundle.open(exported)
    assert (opened.manifest, opened.precision) == (pointwise_manifest(gsd_m=(0.25, 1.0)), "fp32")


def test_spatial_means_are_pooled(tmp_path: Path) -> None:
    class Gate(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x.mean((2, 3), keepdim=True).sigmoid()

    path = tmp_path / "model.onnx"
    raw = RawInput(nn.Sequential(small_net(), Gate()), MEAN, STD, 255.0)
    export_onnx(raw, pointwise_manifest(), path)
    ops = [node.op_type for node in onnx.load(path).graph.node]
    assert "GlobalAveragePool" in ops
    assert "ReduceMean" not in ops
    tile = np.random.default_rng(0).integers(0, 256, (3, TILE, TILE)).astype(np.uint8)
    assert compare(raw, path, [tile]).worst_error < 1e-5


def test_trace_names_what_it_is_told_and_frees_the_first_axis() -> None:
    graph = trace(small_net(), torch.zeros(2, 3, 16, 24), ("image", "logits")).graph
    for value, name, sizes in (
        (graph.input[0], "image", [3, 16, 24]),
        (graph.output[0], "logits", [3, 16, 24]),
    ):
        first, *others = value.type.tensor_type.shape.dim
        assert value.name == name
        assert first.dim_param
        assert [d.dim_value for d in others] == sizes


def test_the_network_on_a_crop_and_infer_on_its_geotiff_agree(
    exported: Path, write_raster: Callable[..., Path], tmp_path: Path
) -> None:
    import rasterio

    from rsedge import segment

    pixels = np.random.default_rng(3).integers(0, 256, (3, TILE, TILE)).astype(np.uint8)
    with open_model(exported) as model:
        segment(model, write_raster(pixels), tmp_path / "mask.tif")
    with torch.inference_mode():
        expected = (
            RawInput(small_net(), MEAN, STD, 255.0)(torch.from_numpy(pixels[None])).argmax(1)[0].numpy()
        )
    with rasterio.open(tmp_path / "mask.tif") as src:
        assert (src.read(1) == expected).mean() >= 0.998
