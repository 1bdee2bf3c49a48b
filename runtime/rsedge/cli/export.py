"""``rsedge export``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rsedge.cli import common
from rsedge.errors import InputError


def export(
    run: Annotated[Path, typer.Option(help="Run folder of distill or train-teacher.")] = Path("runs/student"),
    out: Annotated[Path, typer.Option("--out", "-o", help="Bundle to write.")] = common.OWN_MODEL,
    weights: Annotated[
        str, typer.Option(help="Best by validation mIoU, or last.", metavar="best|last")
    ] = "best",
    name: Annotated[str | None, typer.Option(help="Name of the model.", show_default="that of --out")] = None,
    trt: Annotated[bool, typer.Option("--trt", help="Not built yet: a TensorRT engine.")] = False,
    as_json: common.Json = False,
    quiet: common.Quiet = False,
) -> None:
    """Turn a trained network into a bundle that runs without torch, proved equal to it."""
    if trt:
        raise InputError(
            "--trt: TensorRT engines are not built yet; without it, export writes an ONNX file for ONNX Runtime"
        )
    with common.needs_extra("export"):
        from rsedge_export.build import build_bundle

        built = build_bundle(run, out, name=name, weights=weights)
    if not quiet:
        _show(built)
        if built["rehearsal"]:
            print(
                f"note: {run} is a rehearsal: its weights show that the commands work, not what a model can do",
                file=sys.stderr,
            )
    if as_json:
        common.say(json.dumps(built))


def _show(built: Mapping[str, Any]) -> None:
    counts, parity, tile = built["complexity"], built["parity"], built["tile"]
    common.say(f"bundle     {built['out']}, {built['size_bytes'] / 1e6:.1f} MB on disk")
    common.say(
        f"model      {built['name']}: {built['network']}, fp32, weights stored as {built['weights_stored_as']}"
    )
    common.say(f"weights    {built['weights']}")
    common.say(
        f"params     {counts['params'] / 1e6:.3f} M, {counts['params_deployed'] / 1e6:.3f} M as exported"
    )
    common.say(
        f"MACs       {counts['macs'] / 1e9:.2f} G a {tile} px tile, {counts['macs_deployed'] / 1e9:.2f} G as exported"
    )
    if teacher := counts.get("teacher"):
        common.say(
            f"teacher    {teacher['network']}: {teacher['params'] / 1e6:.3f} M parameters, "
            f"{teacher['macs'] / 1e9:.2f} G MACs"
        )
    common.say(
        f"agreement  with torch on {parity['tiles']} sample tiles: {parity['argmax_agreement']:.3%} of the pixels, "
        f"{parity['clear_agreement']:.3%} of the {parity['clear_share']:.1%} that are no near tie"
    )
    common.say(f"           largest error {parity['worst_error']:.1e} of the scores' range")
    common.say(f"use it     rsedge infer RASTER --out MASK --model {built['out']}")
