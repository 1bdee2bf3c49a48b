"""Conversion of a torch network to an ONNX graph that takes raw pixels."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from rsedge.model.manifest import Manifest
from rsedge_export.graph.onnx_file import OPSET, save
from rsedge_export.graph.rewrite import pool_spatial_means


class RawInput(nn.Module):
    """``net`` preceded by its preprocessing, so that it takes bands as stored.

    (N, bands, H, W) of any real dtype to scores (N, classes, H, W) float32, if ``net`` expects
    ``(value / max_value - mean) / std`` per band.
    """

    def __init__(
        self, net: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], max_value: float
    ) -> None:
        super().__init__()
        self.net = net
        self.gain: Tensor
        self.offset: Tensor
        shape = (1, len(mean), 1, 1)
        self.register_buffer("gain", 1 / (torch.tensor(std).view(shape) * max_value))
        self.register_buffer("offset", torch.tensor(mean).view(shape) / torch.tensor(std).view(shape))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the scores of raw pixels."""
        scores: Tensor = self.net(pixels.float() * self.gain - self.offset)
        return scores


def export_onnx(model: nn.Module, manifest: Manifest, path: Path) -> None:
    """Write ``model`` (raw pixels in, scores out) as the fp32 master: opset 18, batch free, tile fixed."""
    tile, dtype = manifest.tile, getattr(torch, manifest.dtype)
    graph = trace(model, torch.zeros(2, len(manifest.bands), tile, tile, dtype=dtype))
    pool_spatial_means(graph)
    save(graph, manifest, "fp32", path)


def trace(
    model: nn.Module, example: Tensor, names: tuple[str, str] = ("pixels", "scores")
) -> onnx.ModelProto:
    """Return ``model`` as an opset 18 graph with the first axis of ``example``, 2 or more, free.

    ``names``: names of the input and the output.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own internals
        program = torch.onnx.export(
            model.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=names[:1],
            output_names=names[1:],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    _strip_debug(graph)
    return graph


def _strip_debug(graph: onnx.ModelProto) -> None:
    """Drop the exporter's notes, because they hold stack traces with local paths."""
    graph.doc_string = ""
    graph.graph.doc_string = ""
    holders = [graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.initializer]
    for holder in (*holders, *graph.graph.input, *graph.graph.output):
        del holder.metadata_props[:]
        holder.doc_string = ""
