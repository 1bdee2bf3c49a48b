"""Options of ``rsedge infer``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from rsedge.cli import flags
from rsedge.cli.flags import option

if TYPE_CHECKING:
    from rsedge.infer.options import Options
    from rsedge.raster.writer import Format
    from rsedge.tiling.axes import Seam

AREA, RESULTS, LONG_RUNS = "Part of the raster", "Further results", "Memory and long runs"


@dataclass(frozen=True)
class InferOptions:
    """Options as typed on the command line; ``to_options`` parses them."""

    rasters: Annotated[
        list[str],
        typer.Argument(help="GeoTIFFs or any rasters GDAL opens: files, globs, URLs.", show_default=False),
    ]
    out: Annotated[Path | None, option("--out", "-o", help="Mask to write, for a single raster.")] = None
    out_dir: Annotated[Path | None, option(help="Folder for the masks of several rasters.")] = None
    model: flags.Model = None
    resume: Annotated[bool, option("--resume", help="Continue an unfinished run.")] = False
    overwrite: Annotated[
        bool, option("--overwrite", help="Replace a raster that rsedge did not write; start a run over.")
    ] = False

    bands: flags.Bands = None
    scale: Annotated[
        str | None,
        option(
            help="Raster values mapped to the model's range; needed if the raster is not uint8. auto: 2nd to 98th "
            "percentile of all rasters given.",
            panel=flags.READING,
            metavar="LOW,HIGH|auto",
        ),
    ] = None
    nodata: flags.Nodata = None
    alpha: flags.Alpha = None
    resample: Annotated[
        bool,
        option(
            "--resample", help="Read at the model's GSD; write on the raster's grid.", panel=flags.READING
        ),
    ] = False
    allow: Annotated[
        list[str] | None,
        option(
            help="outside: a VRT's sources need not lie below it; or a further driver of GDAL's.",
            panel=flags.READING,
            metavar="WHAT",
        ),
    ] = None

    bbox: Annotated[
        str | None, option(help="Only these bounds, in the raster's CRS.", panel=AREA, metavar="W,S,E,N")
    ] = None
    bbox_crs: Annotated[str | None, option(help="CRS of --bbox.", panel=AREA, metavar="EPSG:4326")] = None
    aoi: Annotated[
        Path | None, option(help="Only inside these polygons: GeoJSON, GeoPackage, shapefile.", panel=AREA)
    ] = None
    aoi_layer: Annotated[
        str | None, option(help="Layer of --aoi, if it has several.", panel=AREA, metavar="NAME")
    ] = None
    crop: Annotated[bool, option("--crop", help="Write only the extent of --bbox or --aoi.", panel=AREA)] = (
        False
    )

    preview: Annotated[Path | None, option(help="PNG of image and mask.", panel=RESULTS)] = None
    confidence: Annotated[
        bool,
        option("--confidence", help="MASK_confidence.tif: percent of the winning class.", panel=RESULTS),
    ] = False
    probabilities: Annotated[
        bool, option("--probabilities", help="MASK_probabilities.tif: percent of each class.", panel=RESULTS)
    ] = False
    polygons: Annotated[
        Path | None, option(help="The classes' areas as polygons.", panel=RESULTS, metavar="GPKG")
    ] = None
    min_area: Annotated[float, option(help="Smallest polygon, m2.", panel=RESULTS)] = 0.0
    min_pixels: Annotated[int, option(help="Smallest polygon, pixels.", panel=RESULTS)] = 0
    summary: Annotated[
        Path | None,
        option(help="Class shares by cell, a few kB for a narrow link.", panel=RESULTS, metavar="JSON"),
    ] = None
    summary_cell: Annotated[
        str | None,
        option(
            help="Side of a summary's cells: 1km, 500m, 256px.",
            panel=RESULTS,
            metavar="LENGTH",
            show_default="a round one, at most 100 cells",
        ),
    ] = None
    format: Annotated[
        str, option(help="Cloud-optimised or plain GeoTIFF.", panel=RESULTS, metavar="cog|gtiff")
    ] = "cog"
    compress: Annotated[
        str,
        option(
            help="Mask compression; deflate and lzw for old software.",
            panel=RESULTS,
            metavar="zstd|deflate|lzw",
        ),
    ] = "zstd"

    max_ram: Annotated[
        str | None,
        option(
            help="Memory not to exceed, e.g. 800M: works in columns if needed.",
            panel=LONG_RUNS,
            metavar="SIZE",
        ),
    ] = None
    dry_run: Annotated[
        bool, option("--dry-run", help="Print what would be done and the memory it takes.", panel=LONG_RUNS)
    ] = False
    dask: Annotated[
        str | None, option(help="Run on a dask.distributed cluster.", panel=LONG_RUNS, metavar="ADDRESS")
    ] = None

    overlap: flags.Overlap = 0.25
    seam: flags.Seam = "blend"
    device: flags.Device = "auto"
    precision: flags.Precision = None
    threads: flags.Threads = None
    streams: flags.Streams = None
    fast: flags.Fast = False
    as_json: flags.Json = False
    quiet: flags.Quiet = False

    def to_options(self) -> Options:
        """Parse the values; ``scale`` "auto" becomes None, for the caller to survey the rasters. Raises InputError."""
        from rsedge.infer.options import Options
        from rsedge.raster.trust import Trust

        return Options(
            overlap=self.overlap,
            seam=cast("Seam", self.seam),
            bands=flags.parse_bands(self.bands),
            scale=None if self.scale == "auto" else flags.parse_scale(self.scale),
            nodata=flags.parse_nodata(self.nodata),
            alpha=flags.parse_alpha(self.alpha),
            resample=self.resample,
            bbox=_parse_bbox(self.bbox),
            bbox_crs=self.bbox_crs,
            aoi=self.aoi,
            aoi_layer=self.aoi_layer,
            crop=self.crop,
            format=cast("Format", self.format),
            compress=self.compress,
            confidence=self.confidence,
            probabilities=self.probabilities,
            polygons=self.polygons,
            min_area_m2=self.min_area,
            min_pixels=self.min_pixels,
            preview=self.preview,
            summary=self.summary,
            summary_cell=self.summary_cell,
            max_ram_bytes=flags.parse_bytes(self.max_ram),
            resume=self.resume,
            overwrite=self.overwrite,
            trust=Trust(allow=tuple(self.allow or ())),
        )


def _parse_bbox(text: str | None) -> tuple[float, float, float, float] | None:
    if text is None:
        return None
    from rsedge.vector.aoi import parse_bbox  # not at every start

    return parse_bbox(text)
