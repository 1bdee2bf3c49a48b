"""A sample scene and its labels as two GeoTIFFs of any size, written strip by strip."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from rasterio.crs import CRS
from rasterio.transform import Affine

from rsedge.errors import InputError
from rsedge.model.manifest import ClassInfo
from rsedge.raster import Grid, RasterWriter, bounded_cache
from rsedge.score.pairs import LABEL_SUFFIX
from rsedge.tiling.window import Window
from rsedge_sample import CLASSES, SampleScene

STRIP_ROWS = 512
# An invented place in a UTM zone, near whose central meridian the towns' metres are true to 1 in 2500.
CRS_EPSG, EAST_M, NORTH_M = 32631, 500_000.0, 5_400_000.0
COLORS = {
    "building": (196, 62, 52),
    "land": (222, 203, 164),
    "road": (104, 104, 112),
    "vegetation": (72, 148, 78),
    "water": (56, 118, 188),
}
LANDCOVER = tuple(ClassInfo(name, COLORS[name]) for name in CLASSES)


def write_sample(
    out: Path,
    width: int,
    height: int,
    gsd_m: float = 0.5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the scene to ``out`` (RGB) and its labels beside it; return the labels' path.

    Memory depends only on ``width``. ``progress`` is called with (rows done, rows in total). Raises InputError for
    impossible sizes, OutputError if a file cannot be written.
    """
    scene = SampleScene(width, height, seed, gsd_m)
    grid = Grid(
        height,
        width,
        CRS.from_epsg(CRS_EPSG),
        Affine(gsd_m, 0, EAST_M, 0, -gsd_m, NORTH_M),
    )
    labels_path = out.with_name(f"{out.stem}{LABEL_SUFFIX}{out.suffix}")
    tags = {"RSEDGE_SAMPLE": f"seed {seed}, gsd_m {gsd_m:g}"}
    with ExitStack() as stack:
        stack.enter_context(bounded_cache(RasterWriter.row_of_blocks_bytes(grid, bands=4)))
        image_file = stack.enter_context(RasterWriter(out, grid, bands=3, tags=tags, overwrite=overwrite))
        label_file = stack.enter_context(
            RasterWriter(labels_path, grid, classes=LANDCOVER, tags=tags, overwrite=overwrite)
        )
        for row in range(0, height, STRIP_ROWS):
            rows = min(STRIP_ROWS, height - row)
            image, labels = scene.render(Window(row, 0, rows, width))
            image_file.write(image)
            label_file.write(labels[None])
            if progress:
                progress(row + rows, height)
    return labels_path


def parse_size(text: str) -> tuple[int, int]:
    """Parse ``"4096"`` or ``"20000x80000"`` into (width, height) in pixels."""
    match = re.fullmatch(r"(\d+)(?:[xX](\d+))?", text.strip())
    if not match or int(match[1]) < 1 or (match[2] and int(match[2]) < 1):
        raise InputError(f"size {text!r} is not SIDE or WIDTHxHEIGHT in pixels, such as 4096 or 6000x4000")
    width = int(match[1])
    return width, int(match[2]) if match[2] else width
