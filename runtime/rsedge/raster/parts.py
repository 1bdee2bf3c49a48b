"""Parts of a result as small files, and the raster assembled from them."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.windows import Window as GdalWindow

from rsedge.errors import OutputError
from rsedge.files import describe, sync
from rsedge.model.manifest import NODATA, ClassInfo
from rsedge.raster.cache import bounded_cache
from rsedge.raster.grid import Grid, unreferenced_allowed
from rsedge.raster.overviews import build_overviews
from rsedge.raster.part_file import PartFile, is_whole
from rsedge.raster.resample import upsample_index
from rsedge.raster.stored_blocks import Placed, fill, fits, read_levels
from rsedge.raster.writer import BLOCK, CLASSES_TAG, GDAL_ERRORS, Format, create, failure, write_class_names
from rsedge.text import xml_text
from rsedge.tiling.window import Window

PIECE_BYTES = 4 << 20  # read or written at once
PART_PIXELS = 4_000_000  # approximate size of a part: an interruption loses little, and files stay few
COMPRESSIONS = ("zstd", "deflate", "lzw")
# Fast levels, because masks shrink to a few percent at any level and slower ones cost more than the model.
LEVELS = {"zstd": ("zstd_level", "level", 1), "deflate": ("zlevel", "level", 3)}


@dataclass(frozen=True)
class Layer:
    """One raster of a result: its name in the journal, its bands, and the meaning of its values."""

    name: str
    bands: int
    classes: tuple[ClassInfo, ...] = ()  # palette and names of a class mask
    descriptions: tuple[str, ...] = ()  # one per band
    unit: str | None = None


class Inside(Protocol):
    """A selection of a grid's pixels."""

    def inside(self, window: Window) -> NDArray[np.bool_]:
        """Return a boolean mask (h, w), True for the selected pixels of the window."""
        ...


@dataclass(frozen=True)
class Finish:
    """The settings of the file that the parts are assembled into."""

    format: Format
    compress: str
    tags: Mapping[str, str] = field(default_factory=dict)
    fine: Grid | None = None  # output grid if not the parts': each pixel copies the one that holds its centre
    inside: Inside | None = None  # selection on the ``fine`` grid; pixels outside become nodata


def part_areas(area: Window) -> tuple[Window, ...]:
    """Cut an area into parts from the top down; all but the last hold whole rows of blocks."""
    height = part_height(area.width)
    return tuple(
        Window(row, area.col, min(height, area.row_end - row), area.width)
        for row in range(area.row, area.row_end, height)
    )


def part_height(width: int) -> int:
    """Return the number of rows of every part but the last."""
    return BLOCK * max(1, PART_PIXELS // (BLOCK * width))


def write_part(path: Path, layer: str, pixels: NDArray[np.uint8]) -> PartFile:
    """Write (bands, h, w) as one small GeoTIFF without georeference, and read it back. Raises OutputError."""
    bands, height, width = pixels.shape
    try:
        with create(path, Grid(height, width), _creation("zstd", bands)) as dst:
            dst.write(pixels)
        meant = _crc(pixels[:, w.row : w.row_end, w.col : w.col_end] for w in _pieces(height, width, bands))
        file = PartFile(layer, *describe(path), meant)
        same = _same_pixels(path, Window(0, 0, height, width), file)
    except GDAL_ERRORS as error:
        raise failure(path, error) from error
    if not same:
        raise _unreadable(path)
    return file


def assemble(
    target: Path, grid: Grid, layer: Layer, parts: Sequence[tuple[Window, Path, PartFile]], finish: Finish
) -> None:
    """Assemble ``target`` from the parts, sync it to disk and verify it; pixels outside all parts are nodata.

    Scratch files are made beside the parts. Raises OutputError if ``target`` cannot be written (disk full), or if
    a part is damaged; the part's file is then removed, so that --resume redoes the part.
    """
    folder = parts[0][1].parent
    for _, path, file in parts:
        if not is_whole(path, file):
            path.unlink(missing_ok=True)
            raise OutputError(f"{path} was damaged and is removed. Redo this part with --resume")
    with _tidy(folder, layer.name) as scratch, bounded_cache(0):
        try:
            target.unlink(missing_ok=True)
            placed = [(area, path) for area, path, _ in parts]
            whole = _mosaic(scratch, "whole", grid, layer, placed, finish)
            if finish.fine is not None:
                _check_parts(parts)  # checked now, because the fine raster has other pixels
                fine = _refined(whole, scratch("refined.tif"), finish.fine, finish.inside)
                whole = _mosaic(scratch, "fine", finish.fine, layer, [(of_grid(finish.fine), fine)], finish)
            overviews: tuple[Path, ...] = ()
            if finish.format == "cog":
                overviews = build_overviews(whole, scratch, _creation("zstd", layer.bands))
            if finish.fine is not None or not _joined(
                scratch, target, grid, layer, placed, overviews, finish
            ):
                _add_overviews(whole, overviews)
                _copy(whole, target, finish)
                sync(target)
                _compare(target, whole)
            if layer.classes:
                write_class_names(target, layer.classes)
        except OutputError:
            raise
        except GDAL_ERRORS as error:
            _check_parts(parts)  # an unreadable part may be the cause
            raise failure(target, error) from error


def of_grid(grid: Grid) -> Window:
    """Return the window that covers a whole grid."""
    return Window(0, 0, grid.height, grid.width)


def _creation(compress: str, bands: int) -> dict[str, Any]:
    level = LEVELS.get(compress)
    # Without these options GDAL would tag three byte bands as RGB and a fourth as alpha.
    grey = {"photometric": "minisblack", "alpha": "unspecified"} if bands > 1 else {}
    return {"count": bands, "compress": compress, **grey, **({level[0]: level[2]} if level else {})}


def _hollow(bands: int) -> dict[str, Any]:
    """Return the options that create a raster without blocks."""
    return {"nodata": NODATA, "sparse_ok": True, **_creation("zstd", bands)}


def _joined(
    scratch: Callable[[str], Path],
    target: Path,
    grid: Grid,
    layer: Layer,
    parts: Sequence[tuple[Window, Path]],
    overviews: Sequence[Path],
    finish: Finish,
) -> bool:
    """Make ``target`` of the blocks of parts and overviews as stored; return False if they do not fit together.

    GDAL makes the file, from rasters without blocks, so that layout and tags are those of `_copy`.
    """
    if any(area.row % BLOCK or area.col % BLOCK for area, _ in parts):
        return False
    sources = [[Placed(read_levels(path)[0], area.row // BLOCK, area.col // BLOCK) for area, path in parts]]
    sources += [[Placed(read_levels(path)[0])] for path in overviews]
    hollow = _mosaic(scratch, "hollow", grid, layer, [], finish)
    empty = list[Path]()
    for (source,) in sources[1:]:
        empty.append(scratch(f"hollow{len(empty)}.tif"))
        create(empty[-1], Grid(*source.level.size), _hollow(layer.bands)).close()
    _add_overviews(hollow, empty)
    _copy(hollow, target, finish, sparse_ok=True)
    levels = read_levels(target)
    if not fits(levels, sources):
        return False
    fill(levels, sources, framed=finish.format == "cog")
    return True


def _copy(source: Path, target: Path, finish: Finish, **more: Any) -> None:
    options: dict[str, Any] = {"bigtiff": "IF_SAFER", "compress": finish.compress, "num_threads": "ALL_CPUS"}
    options.update(more)
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
    scratch: Callable[[str], Path],
    name: str,
    grid: Grid,
    layer: Layer,
    parts: Sequence[tuple[Window, Path]],
    finish: Finish,
) -> Path:
    """Write a VRT of the parts with the grid, palette, tags and descriptions of the result; return its path.

    GDAL writes the VRT from an empty file with the same metadata; only the sources are added by this function.
    """
    empty, path = scratch(f"{name}.empty.tif"), scratch(f"{name}.vrt")
    with create(empty, grid, _hollow(layer.bands)) as dst:
        if layer.classes:
            dst.write_colormap(1, {i: (*c.color, 255) for i, c in enumerate(layer.classes)})
            names = json.dumps({str(i): c.name for i, c in enumerate(layer.classes)})
            dst.update_tags(**{CLASSES_TAG: names})
        dst.update_tags(**{key: xml_text(value) for key, value in finish.tags.items()})
        for number, text in enumerate(layer.descriptions, 1):
            dst.set_band_description(number, xml_text(text))
        if layer.unit:
            dst.units = [layer.unit] * layer.bands
    with unreferenced_allowed():
        rasterio.shutil.copy(empty, path, driver="VRT")
    tree = ET.parse(path)
    for number, band in enumerate(tree.getroot().findall("VRTRasterBand"), 1):
        for old in [e for e in band if e.tag.endswith("Source")]:
            band.remove(old)
        band.extend(_source(file, number, area) for area, file in parts)
    tree.write(path, encoding="utf-8")
    return path


def _source(file: Path, band: int, area: Window) -> ET.Element:
    """Return the VRT element that places a part in the mosaic."""
    source = ET.Element("SimpleSource")
    ET.SubElement(source, "SourceFilename", {"relativeToVRT": "1"}).text = file.name
    ET.SubElement(source, "SourceBand").text = str(band)
    sides = {"RasterXSize": str(area.width), "RasterYSize": str(area.height)}
    blocks = {"DataType": "Byte", "BlockXSize": str(BLOCK), "BlockYSize": str(BLOCK)}
    ET.SubElement(source, "SourceProperties", {**sides, **blocks})  # so GDAL need not open the part to know
    ET.SubElement(source, "SrcRect", _rectangle(0, 0, area))
    ET.SubElement(source, "DstRect", _rectangle(area.row, area.col, area))
    return source


def _rectangle(row: int, col: int, area: Window) -> dict[str, str]:
    return {"xOff": str(col), "yOff": str(row), "xSize": str(area.width), "ySize": str(area.height)}


def _add_overviews(vrt: Path, overviews: Sequence[Path]) -> None:
    tree = ET.parse(vrt)
    for number, band in enumerate(tree.getroot().findall("VRTRasterBand"), 1):
        for overview in overviews:
            element = ET.SubElement(band, "Overview")
            ET.SubElement(element, "SourceFilename", {"relativeToVRT": "1"}).text = overview.name
            ET.SubElement(element, "SourceBand").text = str(number)
    tree.write(vrt, encoding="utf-8")


def _refined(coarse: Path, path: Path, grid: Grid, inside: Inside | None = None) -> Path:
    """Write the coarse raster to ``path`` on a grid of the same extent: each pixel copies the one at its centre.

    GDAL's nearest is not used, because it rounds centres that lie between two pixels either way.
    """
    with _opened(coarse) as src:
        rows, cols = upsample_index(src.height, grid.height), upsample_index(src.width, grid.width)
        with create(path, Grid(grid.height, grid.width), _creation("zstd", src.count)) as dst:
            for piece in _pieces(dst.height, dst.width, dst.count):
                window = _gdal_window(piece)
                down, along = (
                    index[part] for index, part in zip((rows, cols), window.toslices(), strict=True)
                )
                top, left = int(down[0]), int(along[0])
                size = int(along[-1]) + 1 - left, int(down[-1]) + 1 - top
                pixels = src.read(window=GdalWindow(left, top, *size))
                pixels = pixels[:, (down - top)[:, None], along - left]
                if inside is not None:
                    pixels[:, ~inside.inside(piece)] = NODATA
                dst.write(pixels, window=window)
    return path


def strips_of_file(path: Path) -> Iterator[tuple[Window, NDArray[np.uint8]]]:
    """Yield windows and pixels (bands, rows, width) of an uint8 raster, a few MiB at a time."""
    with _opened(path) as src:
        rows = max(1, PIECE_BYTES // (src.width * src.count))
        for row in range(0, src.height, rows):
            window = Window(row, 0, min(rows, src.height - row), src.width)
            yield window, src.read(window=_gdal_window(window))


def pieces_of_files(*paths: Path) -> Iterator[tuple[Window, tuple[NDArray[np.uint8], ...]]]:
    """Yield windows of whole blocks and the first bands (h, w) of rasters of one size, a few MiB each at a time."""
    with ExitStack() as stack:
        files = [stack.enter_context(_opened(path)) for path in paths]
        for piece in _pieces(files[0].height, files[0].width, 1):
            yield piece, tuple(src.read(1, window=_gdal_window(piece)) for src in files)


def _check_parts(parts: Sequence[tuple[Window, Path, PartFile]]) -> None:
    """Remove the first part that does not match its checksum, and raise OutputError."""
    for area, path, file in parts:
        try:
            same = _same_pixels(path, Window(0, 0, area.height, area.width), file)
        except GDAL_ERRORS:
            same = False
        if not same:
            path.unlink(missing_ok=True)
            raise _unreadable(path)


def _compare(target: Path, source: Path) -> None:
    """Raise OutputError unless ``target`` has the same pixels as ``source``."""
    with _opened(target) as dst, _opened(source) as src:
        for piece in _pieces(dst.height, dst.width, dst.count):
            window = _gdal_window(piece)
            if not np.array_equal(dst.read(window=window), src.read(window=window)):
                raise _unreadable(target)


def _unreadable(path: Path) -> OutputError:
    return OutputError(f"{path}: the pixels read back differ from those written. The disk may be full")


def _same_pixels(path: Path, area: Window, file: PartFile) -> bool:
    """Return True if a part has the pixels that were written.

    GDAL does not report every write that a full disk refuses.
    """
    with _opened(path) as src:
        pieces = _pieces(area.height, area.width, src.count)
        return _crc(src.read(window=_gdal_window(piece)) for piece in pieces) == file.pixels_crc


def _crc(pieces: Iterable[NDArray[np.uint8]]) -> int:
    crc = 0
    for piece in pieces:
        crc = zlib.crc32(np.ascontiguousarray(piece).data, crc)
    return crc


def _opened(path: Path) -> Any:
    with unreferenced_allowed():
        return rasterio.open(path)


def _pieces(height: int, width: int, bands: int) -> Iterator[Window]:
    """Yield windows of whole blocks that tile a raster, each of a few MiB over all bands."""
    across = BLOCK * max(1, PIECE_BYTES // (BLOCK * BLOCK * bands))
    for row in range(0, height, BLOCK):
        for col in range(0, width, across):
            yield Window(row, col, min(BLOCK, height - row), min(across, width - col))


def _gdal_window(window: Window) -> GdalWindow:
    return GdalWindow(window.col, window.row, window.width, window.height)


@contextmanager
def _tidy(folder: Path, name: str) -> Iterator[Callable[[str], Path]]:
    """Yield a function that names scratch files, which are deleted when the block ends."""
    used: list[Path] = []

    def scratch(suffix: str) -> Path:
        path = folder / f"scratch.{name}.{suffix}"
        path.unlink(missing_ok=True)  # GDAL may refuse to replace an incomplete file of a killed run
        used.append(path)
        return path

    try:
        yield scratch
    finally:
        for path in used:
            with suppress(OSError):
                os.unlink(path)
