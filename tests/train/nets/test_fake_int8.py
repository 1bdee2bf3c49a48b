"""The imitation of INT8 against the files that export writes, run by ONNX Runtime without optimisation."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from rsedge.errors import InputError
from rsedge_export.graph.torch_graph import RawInput, trace
from rsedge_export.precision.qdq import quantize
from rsedge_export.precision.sites import find_sites
from rsedge_train.data.pixels import MEAN, STD
from rsedge_train.nets.deploy import deploy, folded
from rsedge_train.nets.fake_int8 import (
    calibrate,
    check_simple,
    imitate,
    int8_layers,
    on_grids,
    settle,
    use_signed,
)
from rsedge_train.nets.grids import Scale, integers, weight_scales
from rsedge_train.nets.network import SegNet
from rsedge_train.nets.registry import build
from tinystudent import TINY, use_tiny

NETWORK, TILE, CLASSES = TINY, 64, 3


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        use_tiny(patch)
        yield


def pixels(count: int, seed: int) -> Tensor:
    """Return smooth crops, (count, 3, TILE, TILE), as bands are stored."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, TILE // 8, TILE // 8, generator=generator) * 255
    return nn.functional.interpolate(coarse, scale_factor=8.0, mode="bilinear").to(torch.uint8)


def normal(raw: Tensor) -> Tensor:
    return (raw.float() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@pytest.fixture(scope="module")
def deployed() -> SegNet:
    """A network that has learnt each pixel's strongest band: with random weights INT8 is chaos."""
    torch.manual_seed(0)
    net = build(NETWORK, CLASSES).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for step in range(60):
        raw = pixels(8, 100 + step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(normal(raw)), raw.argmax(1)).backward()
        optimizer.step()
    return deploy(net, TILE)


@pytest.fixture(scope="module")
def imitated(deployed: SegNet) -> SegNet:
    net = imitate(copy.deepcopy(deployed), int8_layers(deployed, TILE))
    calibrate(net, [normal(pixels(4, 1)), normal(pixels(4, 2))])
    return net


@pytest.fixture(scope="module")
def master(deployed: SegNet) -> Any:
    raw = RawInput(deployed, MEAN, STD, 255.0)
    return trace(raw, torch.zeros(2, 3, TILE, TILE, dtype=torch.uint8))


def run(model: Any, raw: Tensor) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["scores"], {"pixels": raw.numpy()})[0]


def test_the_layers_are_those_that_export_quantizes(imitated: SegNet, master: Any) -> None:
    mine = {name for name, m in imitated.named_modules() if m in set(on_grids(imitated))}
    weights = [site.weight for site in find_sites(master)]
    assert {w.removeprefix("net.").removesuffix(".weight") for w in weights} == mine
    assert len(weights) == len(mine) > 20
    assert {"decoder.fuse.high_gate_coarse.taps", "decoder.fuse.high_gate_coarse.columns"} <= mine


@pytest.mark.parametrize("unsigned", [True, False])
def test_it_computes_what_the_file_computes(imitated: SegNet, master: Any, unsigned: bool) -> None:
    sites = find_sites(master)
    layers = dict(imitated.named_modules())
    scales = {}
    for site in sites:
        layer = layers[site.weight.removeprefix("net.").removesuffix(".weight")]
        i = 0 if unsigned else 1
        scales[site.tensor] = Scale(float(layer.scale[i]), int(layer.zero[i]))
    file = quantize(master, sites, {s.name for s in sites}, scales, unsigned=unsigned)
    raw = pixels(16, 3)
    use_signed(imitated, not unsigned)
    with torch.no_grad():
        found = imitated(normal(raw)).numpy()
    expected, exact = run(file, raw), run(master, raw)
    top = np.sort(exact, axis=1)
    no_tie = top[:, -1] - top[:, -2] > 1e-3 * np.ptp(exact)
    assert (found.argmax(1) == expected.argmax(1))[no_tie].mean() >= 0.999
    assert np.abs(found - expected).max() < 0.5 * np.abs(exact - expected).max()  # rounding is not ignored


def test_weights_on_their_grid_find_it_again() -> None:
    rng = np.random.default_rng(0)
    steps = rng.uniform(1e-3, 1e-1, 31).astype(np.float32)
    whole = rng.integers(-60, 61, (31, 5, 3, 3))
    whole[:, 0, 0, 0] = np.arange(67, 128, 2)  # the largest level in use
    weights = (whole * steps[:, None, None, None]).astype(np.float32)
    found = weight_scales(weights, 0)
    np.testing.assert_allclose(found, steps, rtol=1e-6)
    np.testing.assert_array_equal(integers(weights, found, 0), whole)


def test_settled_weights_lie_on_the_grid_and_fit_the_folded_network(imitated: SegNet) -> None:
    with torch.no_grad():
        for layer in on_grids(imitated):
            layer.layer.weight.mul_(0.9)
    settled = settle(imitated)
    plain = folded(build(NETWORK, CLASSES), TILE)
    plain.load_state_dict(settled.state_dict())
    again = imitate(deploy(plain, TILE), int8_layers(deploy(plain, TILE), TILE))
    exact, rounded = deploy(plain, TILE), dict(again.named_modules())
    for name, layer in rounded.items():
        if name.endswith("columns") or not hasattr(layer, "steps"):
            continue
        torch.testing.assert_close(
            layer.weight(), exact.get_submodule(name).weight, rtol=1e-5, atol=1e-7, msg=name
        )


@pytest.mark.parametrize("name", ["tiny", "maflnet-s"])
def test_networks_with_attention_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"cannot be imitated. Quantize a network without them"):
        check_simple(folded(build(name, 2)), name)
