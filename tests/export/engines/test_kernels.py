"""The compiler's list of kernels, read from a recorded one: `small_graph` in INT8, SM 8.6, TensorRT-RTX 1.7.1."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsedge.errors import ModelError
from rsedge_export.engines.check import GraphFacts, Nodes
from rsedge_export.engines.kernels import GPUS, engine_facts, read_kernels, traffic

RECORDED = (Path(__file__).parent / "kernels.txt").read_text(encoding="utf-8")
TILE = 64 * 64


def test_kernels_are_read_with_types_shapes_and_nodes() -> None:
    kernels = read_kernels(RECORDED)
    assert [k.kind for k in kernels] == ["kgen", "correlation", "kgen", "correlation", "kgen", "kgen"]
    first = kernels[1]
    assert first.nodes == ("conv1", "real.dq.DequantizeLinear", "first.dq.DequantizeLinear")
    assert [(t.shape, t.dtype) for t in first.inputs] == [
        ((1, 4, 64, 64), "INT8")
    ]  # three bands, padded to four
    assert [(t.shape, t.dtype) for t in first.outputs] == [((1, 16, 64, 64), "FP32")]
    assert first.read_bytes == 4 * TILE + 16 * 4 * 9 + 2 * 16 * 4
    assert first.written_bytes == 16 * TILE * 4
    assert (first.dtype, first.macs) == ("INT8", 16 * TILE * 4 * 9)
    assert kernels[-1].outputs[1].name == "rsedge.classes"  # beside a name that holds brackets


def test_what_an_engine_moves_is_the_sum_of_its_kernels() -> None:
    kernels = read_kernels(RECORDED)
    found = traffic(kernels, "86")
    # By hand: pixels, padding, quantized pixels; convolution; ReLU; convolution; scores; argmax.
    written = [4 * TILE, 64 * TILE, 16 * TILE, 12 * TILE, 12 * TILE + 4, 4 * TILE + 4 * TILE]
    assert (found.kernels, found.written_bytes) == (6, sum(written))
    assert found.moved_bytes == found.read_bytes + found.written_bytes
    gpu = GPUS["86"]
    assert found.on == gpu.name
    assert found.least_ms == pytest.approx(
        1e3 * found.moved_bytes / gpu.bytes_per_s
    )  # nothing here is bound by MACs
    assert traffic(kernels, "121").least_ms is None


def test_convolutions_are_counted_by_the_type_that_they_read() -> None:
    nodes = {"convolution": Nodes(frozenset({"conv1", "conv2"}), 2, 0), "matrix product": Nodes()}
    facts = engine_facts(read_kernels(RECORDED), GraphFacts(19, frozenset(), nodes))
    assert facts.convolutions == {"INT8": 2}  # not the kernel before, which quantizes for conv1 and names it
    assert sum(facts.layers.values()) == 6


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("Layers:", "Kernels:", "no list of kernels"),
        (RECORDED, "Layers:\n", "no list of kernels"),
        ("LayerType: correlation, Inputs", "LayerType: correlation, Read", "has another form"),
        ("Datatype: Int8", "Datatype: Int3", "unknown type Int3"),
        ("Dimensions: [1,4,64,64]", "Dims: [1,4,64,64]", "have another form"),
    ],
)
def test_a_list_of_another_form_is_an_error_not_a_guess(old: str, new: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        read_kernels(RECORDED.replace(old, new))
