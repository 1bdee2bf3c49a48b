"""Examination of one labelled raster that collects problems instead of raising errors."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from rsedge.errors import InputError, unexpected
from rsedge.model.manifest import NODATA, Manifest
from rsedge.raster import BandPlan, RasterReader, bounded_cache, plan_bands
from rsedge.raster.look import look
from rsedge.raster.scaling import check_scale
from rsedge.score.evaluation import check_labels
from rsedge.score.labels import ClassTable
from rsedge.score.truth import Decoded, LabelReader
from rsedge.tiling.window import Window
from rsedge_sample.files import LANDCOVER
from rsedge_train.data.base import BandChoice, SceneFiles, strips
from rsedge_train.data.footprint import Footprint, footprint

UNKNOWN_LISTED = 5
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIECE_BYTES = 1 << 20  # bytes per read


@dataclass
class Facts:
    """Facts and problems of one labelled raster."""

    files: SceneFiles
    height: int = 0  # pixels; 0 if the image cannot be opened
    width: int = 0
    stored: str = ""  # e.g. "3 x uint8"
    fed: str = ""  # e.g. "1,2,3 as red, green, blue"
    gsd_m: float | None = None
    footprint: Footprint | None = None
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))  # by class
    counted: bool = False  # True if all labels were read
    unlabelled: int = 0
    unlabelled_by: Counter[str] = field(default_factory=Counter)  # value or colour -> pixels
    unknown: int = 0  # pixels whose colour or value belongs to no class
    empty: int = 0  # pixels of the image without data; counted only if images are read
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def examine(files: SceneFiles, table: ClassTable | None, bands: BandChoice, *, images: bool) -> Facts:
    """Read a label strip by strip, and the image if ``images`` is set, in memory of a few rows of blocks.

    With ``table`` None, the label's meaning is unknown and the label is only opened.
    """
    facts = Facts(files, counts=np.zeros(len(table.classes) if table else 0, np.int64))
    with _gathered(facts), RasterReader(files.image) as image:
        _note_grid(facts, image)
        with _gathered(facts):
            plan = plan_bands(image, _manifest(bands), bands.indexes, bands.scale, bands.masking)
            listed = ",".join(map(str, plan.indexes))
            facts.fed = f"{listed} as {', '.join(bands.names)}"
            facts.notes += plan.notes
            if images:
                _verify_png(files.image)
                facts.notes += look(image, plan)
                _read_image(facts, image, plan)
    for label in (files.label, files.scoring_label):
        if label is not None:
            _examine_label(facts, label, table, count=label == files.label)
    return facts


def _examine_label(facts: Facts, path: Path, table: ClassTable | None, *, count: bool) -> None:
    with _gathered(facts):
        _verify_png(path)
        with RasterReader(path) as label:
            if facts.height:
                with RasterReader(facts.files.image) as image:
                    check_labels(image, label)
        if table is not None:
            with LabelReader(path, table.colors, len(table.classes)) as reader:
                _count(facts, reader, count=count)


def _count(facts: Facts, reader: LabelReader, *, count: bool) -> None:
    unknown: dict[float, list[int]] = {}  # value -> pixels, first row, first column
    grid = reader.raster.grid
    with bounded_cache(reader.raster.row_of_blocks_bytes):
        for window in strips(grid):
            decoded = reader.decode(window)
            found = np.bincount(decoded.labels.ravel(), minlength=NODATA + 1)
            strangers = int(np.count_nonzero(decoded.unknown))
            if count:
                facts.counts += found[: len(facts.counts)]
                facts.unknown += strangers
                facts.unlabelled += int(found[NODATA]) - strangers
                facts.unlabelled_by.update(reader.count_unlabelled(decoded))
            if strangers:
                _gather_unknown(unknown, decoded, window)
    facts.counted |= count
    if unknown:
        facts.problems.append(_describe_unknown(reader, unknown))


def _gather_unknown(unknown: dict[float, list[int]], decoded: Decoded, window: Window) -> None:
    values, first, counts = np.unique(decoded.stored[decoded.unknown], return_index=True, return_counts=True)
    rows, cols = np.nonzero(decoded.unknown)
    for value, at, count in zip(values.tolist(), first, counts.tolist(), strict=True):
        place = unknown.setdefault(value, [0, window.row + int(rows[at]), int(cols[at])])
        place[0] += count


def _describe_unknown(reader: LabelReader, unknown: dict[float, list[int]]) -> str:
    worst = sorted(unknown.items(), key=lambda item: -item[1][0])[:UNKNOWN_LISTED]
    what = "colours" if reader.holds_colors else "values"
    listed = ", ".join(
        f"{reader.name(value)} ({count} px, first at row {row}, column {col})"
        for value, (count, row, col) in worst
    )
    how = "name them in a class table by index, e.g. NAME = 1, or ignore them, e.g. ignore = [0]"
    remedy = reader.remedy if reader.holds_colors else how
    return f"{reader.raster.path}: {len(unknown)} {what} belong to no class: {listed}; {remedy}"


def _read_image(facts: Facts, image: RasterReader, plan: BandPlan) -> None:
    with bounded_cache(image.row_of_blocks_bytes):
        for window in strips(image.grid):
            _, valid = image.read(window, plan)
            facts.empty += valid.size - int(np.count_nonzero(valid))
    if note := check_scale(image, plan):
        facts.notes.append(note)


def _verify_png(path: Path) -> None:
    """Raise InputError if a checksum is wrong or the end is missing, because GDAL reads small files silently."""
    if path.suffix.lower() != ".png":
        return
    try:
        with path.open("rb") as file:
            if file.read(8) != PNG_SIGNATURE:
                return  # GDAL reports what the file is
            kind = b""
            while kind != b"IEND":
                head = file.read(8)
                size, kind = int.from_bytes(head[:4], "big"), head[4:]
                if _crc_of(file, size, zlib.crc32(kind)) != int.from_bytes(file.read(4), "big"):
                    raise InputError(
                        f"{path} is truncated or damaged: the checksum of {kind!r} is wrong. Copy the file again"
                    )
    except EOFError as error:
        raise InputError(f"{path} is truncated or damaged: it ends too early. Copy the file again") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _crc_of(file: BinaryIO, size: int, crc: int) -> int:
    """Return the CRC-32 of the next ``size`` bytes, read in pieces. Raises EOFError if the file ends early."""
    while size:
        piece = file.read(min(size, PIECE_BYTES))
        if not piece:
            raise EOFError
        crc, size = zlib.crc32(piece, crc), size - len(piece)
    return crc


def _note_grid(facts: Facts, image: RasterReader) -> None:
    grid = image.grid
    facts.height, facts.width = grid.height, grid.width
    facts.stored = f"{len(image.dtypes)} x {', '.join(sorted(set(image.dtypes)))}"
    facts.gsd_m = grid.gsd_m
    facts.footprint = footprint(grid)


def _manifest(bands: BandChoice) -> Manifest:
    """Return a manifest for reading the bands; its classes are placeholders."""
    return Manifest("check", bands.names, "uint8", 1, LANDCOVER, (0.0,) * len(bands.names))


@contextmanager
def _gathered(facts: Facts) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        facts.problems.append(str(error))
    except MemoryError:
        raise
    except Exception as error:  # continue, as the other rasters may be readable
        facts.problems.append(unexpected(facts.files.name, error))
