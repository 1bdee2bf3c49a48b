"""``rsedge infer``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from rsedge.cli import common

if TYPE_CHECKING:
    from rsedge.raster.writer import Format
    from rsedge.segment import Result
    from rsedge.tiling import Seam


def infer(
    raster: Annotated[str, typer.Argument(help="GeoTIFF or any raster GDAL opens.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Mask to write.", show_default=False)],
    model: common.Model = None,
    overlap: common.Overlap = 0.25,
    seam: common.Seam = "blend",
    bands: common.Bands = None,
    scale: common.Scale = None,
    preview: Annotated[Path | None, typer.Option(help="PNG of image and mask to write.")] = None,
    format: Annotated[
        str, typer.Option(help="Cloud-optimised or plain GeoTIFF.", metavar="cog|gtiff")
    ] = "cog",
    overwrite: common.Overwrite = False,
    device: common.Device = "auto",
    precision: common.Precision = None,
    threads: common.Threads = None,
    as_json: common.Json = False,
    quiet: common.Quiet = False,
) -> None:
    """Segment a raster of any size into a class mask on the same grid."""
    from rsedge.segment import Options, open_model, segment

    options = Options(
        overlap=overlap,
        seam=cast("Seam", seam),
        bands=common.parse_bands(bands),
        scale=common.parse_scale(scale),
        format=cast("Format", format),
        preview=preview,
        overwrite=overwrite,
    )
    model = common.model_or_default(model, quiet)
    with (
        open_model(model, device, threads, precision) as backend,
        common.progress_bar("windows", quiet) as progress,
    ):
        result = segment(backend, raster, out, options, progress)
    for note in result.notes:
        print(f"note: {note}", file=sys.stderr)
    if not quiet:
        _show(result)
    if as_json:
        common.say(json.dumps(result.to_dict()))


def _show(result: Result) -> None:
    common.say(f"mask     {result.out}")
    if result.preview:
        common.say(f"preview  {result.preview}")
    common.say(f"model    {result.model}, {result.precision}, {result.backend} {result.provider}")
    common.say(
        f"speed    {result.seconds['total']:.1f} s, {result.mpx_per_s:.1f} Mpx/s end to end, "
        f"peak memory {result.peak_rss_bytes / 2**20:.0f} MiB"
    )
    common.say(f"windows  {result.windows} of {result.tile} px, {result.windows_skipped} skipped as nodata")
    pixels = result.nodata_pixels + sum(c.pixels for c in result.classes)
    common.say(
        f"nodata   {result.nodata_pixels / pixels:.1%} of the raster; the classes are shares of the rest:"
    )
    width = max(len(c.name) for c in result.classes)
    for c in result.classes:
        common.say(f"  {c.value:3d}  {c.name:{width}}  {c.share:6.1%}{_area(c.area_m2)}")


def _area(area_m2: float | None) -> str:
    if area_m2 is None:
        return ""
    return f"  {area_m2 / 1e4:12,.2f} ha" if area_m2 >= 1e4 else f"  {area_m2:12,.1f} m2"
