"""Finished class masks as polygons in a GeoPackage. `outlines` traces, `file` writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsedge.errors import InputError
from rsedge.model.manifest import NODATA, ClassInfo
from rsedge.raster.cache import bounded_cache
from rsedge.raster.grid import Grid
from rsedge.raster.reader import RasterReader
from rsedge.text import xml_text
from rsedge.tiling.window import Window
from rsedge.vector.file import LandcoverWriter, check_polygon_target, need_vector_libraries
from rsedge.vector.outlines import Areas, Minimum, OutlineTracer
from rsedge.vector.rings import Rings, offsets, ranges

STRIP_PIXELS = 2**18  # traced at a time; for pure noise GDAL takes some 500 bytes per pixel
MOST_STRIP_ROWS = 512
MOST_OPEN_VERTICES = 1_000_000  # of all open areas together; joining takes some 200 bytes per vertex
MOST_BYTES = 450 << 20  # memory of these limits together
BATCH, BATCH_VERTICES = 50_000, 1_000_000  # written at a time
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PolygonSummary:
    """Counts of polygons. ``dropped``: areas below the minimum; ``cut``: cuts through areas too large for memory."""

    polygons: int
    dropped: int
    cut: int
    notes: tuple[str, ...] = ()


def check_polygons_possible(
    out: Path, grid: Grid, minimum: Minimum | None = None, overwrite: bool = False
) -> None:
    """Raise the errors that polygons would otherwise raise after hours.

    BackendError if pyogrio or shapely is missing; InputError if ``out`` cannot become a file, if the raster is
    georeferenced by control points, or if a minimum in square metres is given for a grid of unknown pixel area.
    """
    need_vector_libraries("polygons")
    check_polygon_target(out, overwrite)
    if grid.gcps:
        raise InputError(
            "the raster is georeferenced by ground control points, so polygons would have no map coordinates. "
            "Rectify the raster first with `gdalwarp IN OUT`"
        )
    if minimum is not None and minimum.area_m2 and grid.pixel_areas() is None:
        raise InputError(
            f"the minimum of {minimum.area_m2:g} m2 per polygon cannot be used, because the raster "
            f"{grid.why_no_areas}. Give the minimum in pixels"
        )


def write_polygons(
    mask: Path,
    out: Path,
    classes: Sequence[ClassInfo],
    *,
    min_area_m2: float = 0.0,
    min_pixels: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
    strip_rows: int | None = None,
    most_open_vertices: int = MOST_OPEN_VERTICES,
) -> PolygonSummary:
    """Write a class mask's 4-connected areas to a GeoPackage ``out``, one polygon each; nodata is left out.

    Layer ``landcover`` with class_id, class and area_m2 (null if unknown), in the mask's CRS; without
    georeference in pixels, column and row. Areas below ``min_area_m2`` or ``min_pixels`` are dropped, not
    merged into their neighbours. Unfinished areas may have ``most_open_vertices`` in all; above this, the
    largest is cut along a row, and areas beside a cut are never dropped. ``progress``: (rows done, rows in all).

    Raises InputError, BackendError or OutputError; an existing file at ``out`` is then untouched.
    """
    minimum = Minimum(min_area_m2, min_pixels)
    with RasterReader(mask) as reader:
        if reader.dtypes != ("uint8",):
            raise InputError(
                f"{mask} has bands {', '.join(reader.dtypes)}, but polygons need a class mask, one band of uint8"
            )
        grid = reader.grid
        check_polygons_possible(out, grid, minimum, overwrite)
        rows = strip_rows or max(1, min(MOST_STRIP_ROWS, STRIP_PIXELS // grid.width))
        tracer = OutlineTracer(grid, rows, most_open_vertices, minimum)
        names = np.array([xml_text(c.name) for c in classes], object)
        with bounded_cache(reader.row_of_blocks_bytes), LandcoverWriter(out, _crs(grid)) as file:
            for areas in _batches(tracer.run(_strips(reader, rows, len(names), progress))):
                file.write(*_on_map(areas, grid), areas.value, names[areas.value], areas.area_m2)
    notes: tuple[str, ...] = (
        () if _crs(grid) else ("the mask has no CRS: polygon coordinates are pixels, column and row",)
    )
    if tracer.cut:
        notes += (f"areas too large for memory were cut along a row {tracer.cut} times",)
    return PolygonSummary(file.written, tracer.dropped, tracer.cut, notes)


def _strips(
    reader: RasterReader, rows: int, classes: int, progress: Progress | None
) -> Iterator[NDArray[np.uint8]]:
    height, width = reader.grid.height, reader.grid.width
    for row in range(0, height, rows):
        strip = reader.read_raw(Window(row, 0, min(rows, height - row), width))[0]
        if (odd := strip[(strip >= classes) & (strip != NODATA)]).size:
            raise InputError(
                f"{reader.path} contains value {odd[0]}, but the classes are 0 to {classes - 1}. Check whether this is "
                "a mask of the same model"
            )
        yield strip
        if progress:
            progress(min(row + rows, height), height)


def _batches(found: Iterable[Areas]) -> Iterator[Areas]:
    """Yield the same areas in larger batches, because each write opens the file."""
    held: list[Areas] = []
    count = vertices = 0
    for areas in found:
        for begin in range(0, len(areas), BATCH):
            part = areas.select(np.arange(begin, min(begin + BATCH, len(areas))))
            held.append(part)
            count, vertices = count + len(part), vertices + len(part.rings.xy)
            if count >= BATCH or vertices >= BATCH_VERTICES:
                yield Areas.joined(held)
                held, count, vertices = [], 0, 0
    if held:
        yield Areas.joined(held)


def _crs(grid: Grid) -> str | None:
    """Return the WKT of the polygons' CRS; None if coordinates are pixels."""
    return None if grid.crs is None or grid.transform.is_identity else str(grid.crs.to_wkt())


def _on_map(areas: Areas, grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return closed rings in map coordinates (v, 2), the start of each, and the first ring of each polygon."""
    rings: Rings = areas.rings
    lengths = rings.lengths + 1
    starts = offsets(lengths)
    index = ranges(rings.starts[:-1], lengths)
    index[starts[1:] - 1] = rings.starts[:-1]
    x, y = rings.xy[index].T.astype(np.float64)
    t = grid.transform
    on_map = np.column_stack([t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f])
    return on_map, starts, np.searchsorted(rings.owner, np.arange(len(areas) + 1))
