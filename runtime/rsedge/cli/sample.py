"""``rsedge sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsedge.cli import common, flags


def sample(
    out: Annotated[
        Path, typer.Argument(help="GeoTIFF to write; labels go to NAME_labels.tif.", show_default=False)
    ],
    size: Annotated[str, typer.Option(help="Pixels: SIDE or WIDTHxHEIGHT.", metavar="N|WxH")] = "4096",
    gsd_m: Annotated[float, typer.Option("--gsd", help="Ground sampling distance, metres per pixel.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Random seed of the town.")] = 0,
    overwrite: flags.Overwrite = False,
    quiet: flags.Quiet = False,
) -> None:
    """Write a procedural aerial scene of any size with exact labels beside it."""
    from rsedge_sample.files import parse_size, write_sample

    width, height = parse_size(size)
    with common.progress_bar("rows", quiet) as progress:
        labels = write_sample(out, width, height, gsd_m, seed, progress, overwrite)
    if not quiet:
        common.say(f"image    {out}")
        common.say(f"labels   {labels}")
