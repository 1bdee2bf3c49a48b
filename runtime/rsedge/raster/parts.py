"""Finished rectangles of a result as small files, and the whole raster made of them."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.windows import Window as GdalWindow

from rsedge.errors import OutputError
from rsedge.journal import PartFile, describe, sync
from rsedge.manifest import NODATA, ClassInfo
from rsedge.raster.cache import bounded_cache
from rsedge.raster.grid import Grid, unreferenced_allowed
from rsedge.raster.overviews import build_overviews
from rsedge.raster.writer import BLOCK, GDAL_ERRORS, Format, create, failure, write_class_names
from rsedge.window import Window

PART_PIXELS = 4_000_000  # a part is about this large, so that little is lost and files are few
COMPRESSIONS = ("zstd", "deflate", "lzw")
# Fast levels: masks shrink to a few percent with any, and slower ones cost more than the model.
LEVELS = {"zstd": ("zstd_level", "level", 1), "deflate": ("zlevel", "level", 3)}


@dataclass(frozen=True)
class Layer:
    """One raster of a result: what it is called in the journal, its bands, and what its numbers mean."""

    name: str
    bands: int
    classes: tuple[ClassInfo, ...] = ()  # palette and names of a class mask
    descriptions: tuple[str, ...] = ()  # of the bands
    unit: str | None = None


@dataclass(frozen=True)
class Finish:
    """How the parts become a file."""

    format: Format
    compress: str
    tags: Mapping[str, str] = field(default_factory=dict)
    fine: Grid | None = None  # to be written on this grid instead, each pixel from the one its centre is in
    make_overviews: bool = True


def part_areas(area: Window) -> tuple[Window, ...]:
    """An area cut into parts from the top down, each of whole rows of blocks but the last."""
    height = BLOCK * max(1, PART_PIXELS // (BLOCK * area.width))
    return tuple(
        Window(row, area.col, min(height, area.row_end - row), area.width)
        for row in range(area.row, area.row_end, height)
    )


def write_part(path: Path, layer: str, pixels: NDArray[np.uint8]) -> PartFile:
    """Write (bands, h, w) as one small GeoTIFF without a place. Raises OutputError."""
    bands, height, width = pixels.shape
    pixels = np.ascontiguousarray(pixels)
    options = {"count": bands, **_creation("zstd")}
    try:
        with create(path, Grid(height, width), options) as dst:
            dst.write(pixels)
        size_bytes, crc = describe(path)
    except GDAL_ERRORS as error:
        raise failure(path, error) from error
    return PartFile(layer, size_bytes, crc, zlib.crc32(pixels.data))


def assemble(
    target: Path, grid: Grid, layer: Layer, parts: Sequence[tuple[Window, Path, PartFile]], finish: Finish
) -> None:
    """Make ``target`` of the parts, on the disk and read back; pixels of no part are nodata.

    Scratch files lie beside the parts. Raises OutputError where it cannot be written (disk full).
    """
    folder = parts[0][1].parent
    make_overviews = finish.format == "cog" and finish.make_overviews
    with _tidy(folder, layer.name) as scratch, bounded_cache(0):
        try:
            whole = _mosaic(scratch("whole.vrt"), grid, layer, parts, finish)
            if finish.fine is not None:
                whole = _mosaic(scratch("fine.vrt"), finish.fine, layer, [(_all(grid), whole, None)], finish)
            if make_overviews:
                _add_overviews(whole, build_overviews(whole, scratch, _creation(finish.compress)))
            _copy(whole, target, finish)
            sync(target)
            _compare(target, parts, None if finish.fine is None else whole)
            if layer.classes:
                write_class_names(target, layer.classes)
        except GDAL_ERRORS as error:
            raise failure(target, error) from error


def _all(grid: Grid) -> Window:
    return Window(0, 0, grid.height, grid.width)


def _creation(compress: str) -> dict[str, Any]:
    level = LEVELS.get(compress)
    return {"compress": compress, **({level[0]: level[2]} if level else {})}


def _copy(source: Path, target: Path, finish: Finish) -> None:
    options: dict[str, Any] = {"bigtiff": "IF_SAFER", "compress": finish.compress, "num_threads": "ALL_CPUS"}
    level = LEVELS.get(finish.compress)
    if finish.format == "cog":
        options.update(driver="COG", blocksize=BLOCK, overviews="FORCE_USE_EXISTING")
        options.update({level[1]: level[2]} if level else {})
    else:
        options.update(driver="GTiff", tiled=True, blockxsize=BLOCK, blockysize=BLOCK)
        options.update({level[0]: level[2]} if level else {})
    with unreferenced_allowed():
        rasterio.shutil.copy(source, target, **options)


def _mosaic(
    path: Path,
    grid: Grid,
    layer: Layer,
    parts: Sequence[tuple[Window, Path, PartFile | None]],
    finish: Finish,
) -> Path:
    """A VRT of the parts with all that the result should say of itself.

    GDAL writes it, from an empty file with the same grid, palette and tags; only the sources are ours.
    """
    empty = path.with_suffix(".empty.tif")
    options: dict[str, Any] = {"count": layer.bands, "nodata": NODATA, "sparse_ok": True, **_creation("zstd")}
    with create(empty, grid, options) as dst:
        if layer.classes:
            dst.write_colormap(1, {i: (*c.color, 255) for i, c in enumerate(layer.classes)})
            names = json.dumps({str(i): c.name for i, c in enumerate(layer.classes)})
            dst.update_tags(RSEDGE_CLASSES=names)
        dst.update_tags(**finish.tags)
        for band, text in enumerate(layer.descriptions, 1):
            dst.set_band_description(band, text)
        if layer.unit:
            dst.units = [layer.unit] * layer.bands
    with unreferenced_allowed():
        rasterio.shutil.copy(empty, path, driver="VRT")
    empty.unlink()
    tree = ET.parse(path)
    for number, band in enumerate(tree.getroot().findall("VRTRasterBand"), 1):
        for old in [e for e in band if e.tag.endswith("Source")]:
            band.remove(old)
        for area, file, _ in parts:
            band.append(_source(file, number, area, grid))
    tree.write(path, encoding="utf-8")
    return path


def _source(file: Path, band: int, area: Window, grid: Grid) -> ET.Element:
    """A part's place in the mosaic; the one part of a finer or coarser grid fills all of it."""
    with unreferenced_allowed(), rasterio.open(file) as src:
        height, width = src.shape
    is_same = (height, width) == (area.height, area.width)
    to = area if is_same and (area.row_end, area.col_end) <= (grid.height, grid.width) else _all(grid)
    source = ET.Element("SimpleSource", {"resampling": "nearest"})
    ET.SubElement(source, "SourceFilename", {"relativeToVRT": "1"}).text = file.name
    ET.SubElement(source, "SourceBand").text = str(band)
    sides = {"RasterXSize": str(width), "RasterYSize": str(height)}
    blocks = {"DataType": "Byte", "BlockXSize": str(BLOCK), "BlockYSize": str(BLOCK)}
    ET.SubElement(source, "SourceProperties", {**sides, **blocks})  # so that GDAL need not open it to know
    ET.SubElement(source, "SrcRect", _rectangle(0, 0, height, width))
    ET.SubElement(source, "DstRect", _rectangle(to.row, to.col, to.height, to.width))
    return source


def _rectangle(row: int, col: int, height: int, width: int) -> dict[str, str]:
    return {"xOff": str(col), "yOff": str(row), "xSize": str(width), "ySize": str(height)}


def _add_overviews(vrt: Path, overviews: Sequence[Path]) -> None:
    tree = ET.parse(vrt)
    for number, band in enumerate(tree.getroot().findall("VRTRasterBand"), 1):
        for overview in overviews:
            element = ET.SubElement(band, "Overview")
            ET.SubElement(element, "SourceFilename", {"relativeToVRT": "1"}).text = overview.name
            ET.SubElement(element, "SourceBand").text = str(number)
    tree.write(vrt, encoding="utf-8")


def _compare(target: Path, parts: Sequence[tuple[Window, Path, PartFile]], source: Path | None) -> None:
    """Raise OutputError unless the pixels on the disk are those that were meant.

    GDAL does not report every write that a full disk refuses.
    """
    with unreferenced_allowed(), rasterio.open(target) as dst:
        if source is None:
            same = all(_crc(dst, area) == file.pixels_crc for area, _, file in parts)
        else:
            rows = range(0, dst.height, BLOCK)
            areas = [Window(r, 0, min(BLOCK, dst.height - r), dst.width) for r in rows]
            with rasterio.open(source) as src:
                same = all(_crc(dst, area) == _crc(src, area) for area in areas)
    if not same:
        raise OutputError(f"{target}: what was written cannot be read back; is the disk full?")


def _crc(src: Any, area: Window) -> int:
    window = GdalWindow(area.col, area.row, area.width, area.height)
    return zlib.crc32(np.ascontiguousarray(src.read(window=window)).data)


@contextmanager
def _tidy(folder: Path, name: str) -> Iterator[Callable[[str], Path]]:
    """Names for scratch files, which are gone afterwards."""
    used: list[Path] = []

    def scratch(suffix: str) -> Path:
        used.append(folder / f"scratch.{name}.{suffix}")
        return used[-1]

    try:
        yield scratch
    finally:
        for path in used:
            with suppress(OSError):
                os.unlink(path)
