"""A student of `rsedge models` with random weights, as exported, before NVIDIA's parser and compiler."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch

from rsedge.backends.rtx import import_tensorrt_rtx
from rsedge_export.engines.check import GraphFacts, problem
from rsedge_export.engines.cross import ask_parser, compile_onnx
from rsedge_export.graph.rewrite import set_opset, to_opset_17
from rsedge_export.graph.torch_graph import RawInput, export_onnx
from rsedge_export.precision.fp16 import keep_fp32, to_fp16
from rsedge_export.precision.qdq import quantize
from rsedge_export.precision.sites import find_sites
from rsedge_export.precision.variants import TRT10_OPSET
from rsedge_train.data.pixels import MEAN, STD
from rsedge_train.nets.deploy import deploy
from rsedge_train.nets.grids import Scale
from rsedge_train.nets.registry import build
from toys import CLASSES, pointwise_manifest

TILE, SM = 512, "86"
PRECISIONS = ("fp32", "fp16", "int8-trt10")


def export_student(name: str, folder: Path) -> None:
    """Write a student's files for TensorRT: what `rsedge export` writes, with made-up scales."""
    torch.manual_seed(0)
    net = deploy(build(name, len(CLASSES)).eval(), TILE)
    master_path = folder / "model.fp32.onnx"
    export_onnx(RawInput(net, MEAN, STD, 255.0), pointwise_manifest(TILE), master_path)
    master = onnx.load(master_path)
    half, sites = to_fp16(master, keep_fp32(master, ())), find_sites(master)
    scales = {site.tensor: Scale(0.05, 0) for site in sites}
    int8 = quantize(half, sites, {site.name for site in sites}, scales, unsigned=False)
    set_opset(int8, TRT10_OPSET)
    onnx.save(int8, folder / "model.int8-trt10.onnx")
    onnx.save(to_opset_17(half), folder / "model.fp16.onnx")


def check_student(name: str, folder: Path) -> None:
    """Fail unless NVIDIA's parser accepts all precisions and its compiler builds each in its own types."""
    export_student(name, folder)
    trt = import_tensorrt_rtx()
    for stored in PRECISIONS:
        path, precision = folder / f"model.{stored}.onnx", stored.partition("-")[0]
        said, refused = ask_parser(path)
        assert refused is None, said
        made = compile_onnx(trt, path, precision, SM)
        assert problem(precision, GraphFacts.read(path), made.engine) is None
        print(f"{name} {stored}: {len(made.plan) / 1e6:.1f} MB, {made.traffic}")  # noqa: T201 - seen with -s
