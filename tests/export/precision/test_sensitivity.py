from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphs import graph, make, normal, run
from rsedge_export.precision.qdq import quantize
from rsedge_export.precision.ranges import calibrate
from rsedge_export.precision.sensitivity import Bench, choose
from rsedge_export.precision.sites import Site, find_sites
from rsedge_train.nets.grids import Scale, symmetric

TILE = 32
TILES = [normal(4, TILE, TILE, seed=seed) for seed in range(3)]
LAYERS = 6


def net(*, fragile: int | None) -> onnx.ModelProto:
    """Convolutions with skips around them; one channel of the fragile one's input is 1000 times the others.

    The activations share one scale, so the others vanish in INT8. The weights undo the factor, so in fp32
    the layer is like any other.
    """
    nodes, weights, x = [], {}, "pixels"
    for i in range(LAYERS):
        weights[f"w{i}"] = normal(4, 4, 3, 3, seed=10 + i, scale=0.3)
        source = x
        if i == fragile:
            factors = np.array([1000, 1, 1, 1], np.float32).reshape(1, 4, 1, 1)
            weights["factors"], source = factors, "stretched"
            weights[f"w{i}"] /= factors
            nodes.append(make("Mul", [x, "factors"], "stretched"))
        nodes.append(make("Conv", [source, f"w{i}"], f"conv{i}", pads=[1, 1, 1, 1]))
        nodes.append(make("Tanh", [f"conv{i}"], f"tanh{i}"))
        nodes.append(make("Add", [x, f"tanh{i}"], f"sum{i}" if i + 1 < LAYERS else "scores"))
        x = f"sum{i}"
    return graph(nodes, weights, ["batch", 4, TILE, TILE], ["batch", 4, TILE, TILE])


def bench(model: onnx.ModelProto) -> tuple[Bench, list[Site], dict[str, Scale]]:
    sites = find_sites(model)
    *_, histograms = calibrate(model, [s.tensor for s in sites], TILES)
    scales = {name: symmetric(found) for name, found in histograms.items()}
    return Bench(model, sites, scales, TILES, unsigned=False), sites, scales


@pytest.mark.parametrize("fragile", [1, 4])
def test_the_layer_that_suffers_most_is_found_and_alone_stays_float(fragile: int) -> None:
    measured, sites, _ = bench(net(fragile=fragile))
    assert len(sites) == LAYERS
    seen: list[tuple[int, int]] = []
    damages = measured.damages(lambda done, of: seen.append((done, of)))
    assert seen == [(i, LAYERS) for i in range(1, LAYERS + 1)]
    assert damages[0].site.name == f"node_conv{fragile}"
    assert damages[0].changed > 5 * damages[1].changed
    assert damages[0].error > 5 * max(d.error for d in damages[1:])
    all_int8, _, _ = measured.measure({s.name for s in sites})
    without, worst, _ = measured.measure({s.name for s in sites} - {damages[0].site.name})
    assert all_int8 < without
    choice = choose(measured, damages, (all_int8 + without) / 2)
    assert choice is not None
    assert choice.left_float == (damages[0],)
    assert set(choice.int8) == {s.name for s in sites} - {f"node_conv{fragile}"}
    assert (choice.agreement, choice.worst_tile) == (without, worst)


def test_no_layer_stays_float_where_all_do_well_and_none_helps_where_none_can() -> None:
    measured, sites, _ = bench(net(fragile=None))
    damages = measured.damages()
    every = choose(measured, damages, 0.5)
    assert every is not None
    assert not every.left_float
    assert set(every.int8) == {s.name for s in sites}
    more = choose(measured, damages, 0.5, more_than=1)
    assert more is not None
    assert len(more.left_float) > 1
    assert choose(measured, damages, 1.1) is None


def test_measures_are_those_of_the_quantized_graph() -> None:
    """Against quantize(), run apart, and numpy."""
    model = net(fragile=2)
    measured, sites, scales = bench(model)
    for chosen in ({sites[2].name}, {sites[0].name, sites[5].name}, {s.name for s in sites}):
        int8 = quantize(model, sites, chosen, scales, unsigned=False)
        same, squares = [], []
        for tile in TILES:
            found, exact = run(int8, tile[None]), run(model, tile[None])
            same.append((found.argmax(1) == exact.argmax(1)).mean())
            squares.append(np.square(found - exact).mean())
        agreement, worst, error = measured.measure(chosen)
        assert agreement == pytest.approx(np.mean(same), abs=2e-3)
        assert worst == pytest.approx(min(same), abs=2e-3)
        assert error == pytest.approx(np.sqrt(np.mean(squares)), rel=0.02)
    assert measured.measure(set()) == (1, 1, 0)
