"""Calibration: histograms of every layer's activations on real tiles, from which the scales follow.

Tiles are processed one at a time and leave only histograms, so memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import helper

from rsedge_export.graph.session import open_session
from rsedge_train.nets.grids import Histogram

GROUP_BYTES = 192 << 20  # total size of the tensors that leave the graph in one run


def calibrate(
    model: onnx.ModelProto, tensors: Sequence[str], tiles: Iterable[NDArray[Any]]
) -> Iterator[dict[str, Histogram]]:
    """Yield the growing histograms of ``tensors`` over ``tiles``, (bands, tile, tile), after each tile.

    Raises ModelError if a tensor holds NaN or infinity.
    """
    histograms = {name: Histogram() for name in tensors}
    sessions: list[tuple[list[str], Any]] = []
    for tile in tiles:
        if histograms and not sessions:
            groups = _groups(model, list(histograms), tile)
            sessions = [(group, _exposing(model, group)) for group in groups]
        for group, session in sessions:
            for name, values in zip(group, session.run(group, {"pixels": tile[None]}), strict=True):
                histograms[name].add(values)
        yield histograms


def _exposing(model: onnx.ModelProto, tensors: Sequence[str]) -> Any:
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors)
    return open_session(probe)


def _groups(model: onnx.ModelProto, tensors: Sequence[str], tile: NDArray[Any]) -> list[list[str]]:
    """Split ``tensors`` into groups that fit GROUP_BYTES, with sizes from a run that returns only shapes."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    for name in tensors:
        probe.graph.node.append(helper.make_node("Size", [name], [f"{name}.size"]))
        probe.graph.output.append(helper.make_tensor_value_info(f"{name}.size", onnx.TensorProto.INT64, []))
    sizes = open_session(probe).run([f"{name}.size" for name in tensors], {"pixels": tile[None]})
    groups, room = [[]], GROUP_BYTES  # type: tuple[list[list[str]], int]
    for name, size in zip(tensors, sizes, strict=True):
        if 4 * int(size) > room and groups[-1]:
            groups.append([])
            room = GROUP_BYTES
        groups[-1].append(name)
        room -= 4 * int(size)
    return groups
