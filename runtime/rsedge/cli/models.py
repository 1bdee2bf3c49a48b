"""``rsedge models``."""

from __future__ import annotations

from typing import Annotated

import typer

from rsedge.cli import common
from rsedge.errors import InputError


def models(
    name: Annotated[str | None, typer.Argument(help="Name of one network.", show_default="all")] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="Show the network's stages and their shapes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the networks of both papers and the edge family: parameters, MACs, size."""
    if summary and name is None:
        raise InputError("--summary needs the name of one network; list them with `rsedge models`")
    with common.needs_extra("train"):
        from rsedge_train.nets.complexity import PAPER_CLASSES
        from rsedge_train.nets.complexity import summary as stages_of
        from rsedge_train.nets.deploy import rewrite_report
        from rsedge_train.nets.registry import build, entry
        from rsedge_train.nets.table import models_table
    if summary and name is not None:
        common.say(f"{'stage':24}  {'shape (N, C, H, W)':>20}  {'params':>11}  {'M MACs':>9}")
        for stage in stages_of(name):
            shape = " x ".join(map(str, stage.shape))
            common.say(f"{stage.name:24}  {shape:>20}  {stage.params:11,}  {stage.macs / 1e6:9,.1f}")
        if entry(name).trunk is None:  # teachers are not deployed
            saved = rewrite_report(build(name, PAPER_CLASSES))
            common.say(f"{'deployed (exact)':46}  {saved.params_after:11,}  {saved.macs_after / 1e6:9,.1f}")
    else:
        common.say_lines(models_table(as_json, None if name is None else (name,)))
