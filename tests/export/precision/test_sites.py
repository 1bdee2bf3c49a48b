from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from graphs import graph, make, normal
from rsedge_export.graph.torch_graph import RawInput, trace
from rsedge_export.precision.sites import Site, find_sites
from rsedge_train.nets.grids import LEAST_SHARE

TILE = 32


class Counted(nn.Module):
    """A network whose hooks count every layer's MACs by its own output, once a multiplication."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.Conv2d(16, 16, 5, padding=2, groups=16),
            nn.Conv2d(16, 32, 1),
            nn.Conv2d(32, 32, 3, padding=2, dilation=2, groups=4),
            nn.ConvTranspose2d(32, 16, 2, 2),
        )
        self.mixed = nn.Linear(16, 24)
        self.head = nn.Conv2d(24, 5, (1, 3), padding=(0, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layers(x)
        return self.head(self.mixed(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def counted(net: nn.Module) -> list[int]:
    """MACs a tile of each Conv2d and Linear, in the order they run."""
    found: list[int] = []

    def count(module: nn.Module, _: object, out: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            taps = module.in_channels // module.groups * height * width
        else:
            assert isinstance(module, nn.Linear)
            taps = module.in_features
        found.append(taps * out[0].numel())

    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    net(torch.zeros(1, 3, TILE, TILE))
    return found


@pytest.fixture(scope="module")
def exported() -> tuple[nn.Module, onnx.ModelProto]:
    torch.manual_seed(0)
    net = Counted().eval()
    raw = RawInput(net, (0.5,) * 3, (0.25,) * 3, 255.0)
    return net, trace(raw, torch.zeros(2, 3, TILE, TILE, dtype=torch.uint8))


def test_macs_are_those_counted_in_torch_without_transposed_convolutions(
    exported: tuple[nn.Module, onnx.ModelProto],
) -> None:
    net, model = exported
    sites = find_sites(model)
    assert [s.macs for s in sites] == counted(net)
    assert [s.op for s in sites] == ["Conv", "Conv", "Conv", "Conv", "MatMul", "Conv"]


def test_a_site_names_its_tensors(exported: tuple[nn.Module, onnx.ModelProto]) -> None:
    _, model = exported
    by_name = {node.name: node for node in model.graph.node}
    weights = {t.name: tuple(t.dims) for t in model.graph.initializer}
    for site in find_sites(model):
        node = by_name[site.name]
        assert (site.op, site.tensor, site.weight) == (node.op_type, *node.input[:2])
        assert site.shape == weights[site.weight]
        assert site.axis == (1 if site.op == "MatMul" else 0)


def test_shares_are_the_mean_of_two_shares_and_sum_to_one(
    exported: tuple[nn.Module, onnx.ModelProto],
) -> None:
    net, model = exported
    macs = np.array(counted(net))
    quarter, whole = (TILE // 2) ** 2, TILE**2
    elements = np.array(
        [
            3 * whole + 16 * quarter,
            32 * quarter,
            48 * quarter,
            64 * quarter,
            40 * whole,
            29 * whole,
        ]
    )
    expected = (macs / macs.sum() + elements / elements.sum()) / 2
    shares = [s.share for s in find_sites(model)]
    np.testing.assert_allclose(shares, expected)
    assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize("batch", ["batch", 1, 4, None])
def test_macs_are_a_tile_s_whatever_the_batch(batch: str | int | None) -> None:
    model = graph(
        [make("Conv", ["pixels", "w"], "scores", pads=[1, 1, 1, 1], group=2)],
        {"w": normal(6, 2, 3, 3)},
        [batch, 4, 8, 10],
        [batch, 6, 8, 10],
    )
    (site,) = find_sites(model)
    assert site == Site(
        "node_scores", "Conv", "pixels", "w", 0, (6, 2, 3, 3), 6 * 2 * 9 * 80, pytest.approx(1.0)
    )


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_in_both_layouts(transposed: int) -> None:
    shape = (5, 12) if transposed else (12, 5)
    nodes = [
        make("Flatten", ["pixels"], "x"),
        make("Gemm", ["x", "w"], "y", transB=transposed),
        make("Reshape", ["y", "shape"], "scores"),
    ]
    weights = {"w": normal(*shape), "shape": np.array([-1, 5, 1, 1])}
    (site,) = find_sites(graph(nodes, weights, ["batch", 3, 2, 2], ["batch", 5, 1, 1]))
    assert (site.op, site.axis, site.macs) == ("Gemm", 1 - transposed, 60)
    assert site.shape[site.axis] == 5


def test_layers_that_do_next_to_nothing_are_left_out() -> None:
    """Squeeze-excite: few multiplications, and hardly an element read or written."""
    nodes = [
        make("GlobalAveragePool", ["pixels"], "mean"),
        make("Conv", ["mean", "w1"], "squeezed"),
        make("Sigmoid", ["squeezed"], "gate"),
        make("Mul", ["pixels", "gate"], "x"),
        make("Conv", ["x", "w2"], "y", pads=[1, 1, 1, 1]),
        make("Conv", ["y", "w3"], "scores"),
    ]
    weights = {"w1": normal(16, 16, 1, 1), "w2": normal(16, 16, 3, 3), "w3": normal(1, 16, 1, 1)}
    sites = find_sites(graph(nodes, weights, ["batch", 16, 64, 64], ["batch", 1, 64, 64]))
    assert [s.name for s in sites] == ["node_y", "node_scores"]
    share = 256 / (16 * 9 * 16 * 64**2)
    assert share < LEAST_SHARE


def test_products_without_constant_weights_are_no_sites() -> None:
    """Attention's own: both factors are activations; nor is a constant on the left one, or one of 3 axes."""
    nodes = [
        make("Transpose", ["pixels"], "t", perm=[0, 1, 3, 2]),
        make("MatMul", ["pixels", "t"], "a"),
        make("MatMul", ["left", "a"], "b"),
        make("MatMul", ["b", "stack"], "scores"),
    ]
    weights = {"left": normal(8, 8), "stack": normal(2, 8, 8)}
    assert not find_sites(graph(nodes, weights, ["batch", 2, 8, 8], ["batch", 2, 8, 8]))


def test_layers_of_unknown_size_are_left_out() -> None:
    model = graph(
        [make("Conv", ["pixels", "w"], "scores")],
        {"w": normal(2, 3, 1, 1)},
        ["batch", 3, "height", "width"],
        ["batch", 2, "height", "width"],
    )
    assert not find_sites(model)


def test_the_graph_is_left_alone(exported: tuple[nn.Module, onnx.ModelProto]) -> None:
    _, model = exported
    before = model.SerializeToString(deterministic=True)
    find_sites(model)
    assert model.SerializeToString(deterministic=True) == before
