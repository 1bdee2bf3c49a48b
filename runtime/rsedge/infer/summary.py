"""A summary of a result in a few kB of JSON, for a link that carries no raster: class shares by cell."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsedge.files import whole_or_nothing
from rsedge.infer.part_sink import count_classes
from rsedge.model.manifest import NODATA
from rsedge.raster.cells import Cells
from rsedge.raster.ground import PixelAreas
from rsedge.raster.parts import pieces_of_files
from rsedge.raster.writer import failure
from rsedge.tiling.window import Window
from rsedge.version import __version__

if TYPE_CHECKING:
    from rsedge.infer.job import Job
    from rsedge.infer.options import ClassArea

SCHEMA_KEY, SCHEMA = "rsedge_summary_schema", 1
MOST_NUMBERS = 4000  # in the cells, so that the file stays below about 30 kB
OF_A_CELL = 5  # numbers of a cell beside the shares
HEAD_BYTES = 64


@dataclass
class Tally:
    """Sums by cell: ``pixels`` (rows, cols, classes), ``area_m2`` and ``percent`` (rows, cols)."""

    pixels: NDArray[np.int64]
    area_m2: NDArray[np.float64] = field(init=False)
    percent: NDArray[np.int64] = field(init=False)  # confidences of valid pixels, added up

    def __post_init__(self) -> None:
        self.area_m2 = np.zeros(self.pixels.shape[:2])
        self.percent = np.zeros(self.pixels.shape[:2], np.int64)


def most_cells(classes: int) -> int:
    """Return how many cells a summary of ``classes`` classes may have."""
    return max(1, MOST_NUMBERS // (classes + OF_A_CELL))


def write_summary(job: Job, classes: Sequence[ClassArea], mask: Path, confidence: Path | None) -> None:
    """Write the summary of an assembled mask. Raises OutputError if it cannot be written."""
    cells, target = job.cells, Path(str(job.options.summary))
    assert cells is not None
    ground = job.out_grid.pixel_areas()
    tally = tally_cells(mask, confidence, cells, len(classes), ground)
    facts = {**_head(job, classes), **_cells(cells, tally, ground is not None, confidence is not None)}
    try:
        with whole_or_nothing(target) as partial:
            partial.write_text(json.dumps(facts, separators=(",", ":")) + "\n", encoding="utf-8")
    except OSError as error:
        raise failure(target, error) from error


def tally_cells(
    mask: Path, confidence: Path | None, cells: Cells, classes: int, ground: PixelAreas | None
) -> Tally:
    """Count classes, square metres and confidences by cell, from a mask file (and its confidences), in pieces."""
    tally = Tally(np.zeros((len(cells.j), len(cells.i), classes), np.int64))
    for piece, layers in pieces_of_files(*filter(None, (mask, confidence))):
        for at, window in _cut(piece, cells):
            rows = slice(window.row - piece.row, window.row_end - piece.row)
            cols = slice(window.col - piece.col, window.col_end - piece.col)
            values = layers[0][rows, cols]
            pixels, area_m2 = count_classes(values, window, classes, ground)
            tally.pixels[at] += pixels
            tally.area_m2[at] += sum(area_m2 or ())
            if confidence is not None:
                tally.percent[at] += int(
                    np.sum(layers[1][rows, cols], where=values != NODATA, dtype=np.int64)
                )
    return tally


def is_summary(path: Path) -> bool:
    """Return True if ``path`` is a summary that rsedge wrote."""
    with path.open("rb") as file:
        return file.read(HEAD_BYTES).startswith(b'{"' + SCHEMA_KEY.encode() + b'":')


def _cut(piece: Window, cells: Cells) -> Iterator[tuple[tuple[int, int], Window]]:
    """Cut a window at the cells' edges; yield the place of a cell and its share of the window."""
    for j, top, bottom in _spans(piece.row, piece.row_end, cells.rows):
        for i, left, right in _spans(piece.col, piece.col_end, cells.cols):
            yield (j, i), Window(top, left, bottom - top, right - left)


def _spans(begin: int, end: int, edges: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    first = int(np.searchsorted(edges, begin, side="right")) - 1
    last = int(np.searchsorted(edges, end, side="left"))
    return [(k, max(begin, int(edges[k])), min(end, int(edges[k + 1]))) for k in range(first, last)]


def _head(job: Job, classes: Sequence[ClassArea]) -> dict[str, Any]:
    model, grid = job.model, job.out_grid
    valid = sum(c.pixels for c in classes)
    return {
        SCHEMA_KEY: SCHEMA,
        "raster": Path(str(job.raster)).name,
        "mask": job.out.name,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "rsedge": __version__,
        "model": model.bundle.manifest.name,
        "model_sha256": model.bundle.sha256,
        "precision": model.bundle.precision,
        "grid": grid.facts(),
        "nodata_pixels": grid.height * grid.width - valid,
        "classes": [
            {
                "name": c.name,
                "pixels": c.pixels,
                "share": round(c.share, 4),
                "area_m2": None if c.area_m2 is None else round(c.area_m2, 1),
            }
            for c in classes
        ],
    }


def _cells(cells: Cells, tally: Tally, has_areas: bool, has_confidence: bool) -> dict[str, Any]:
    """Return the cells that hold a valid pixel, as rows of a table."""
    valid = tally.pixels.sum(2)
    table = []
    for j, i in np.argwhere(valid):
        pixels = int(valid[j, i])
        row: list[Any] = [int(cells.i[i]), int(cells.j[j]), pixels]
        row.append(round(float(tally.area_m2[j, i]), 1) if has_areas else None)
        row.append([round(float(share), 4) for share in tally.pixels[j, i] / pixels])
        if has_confidence:
            row.append(round(float(tally.percent[j, i]) / pixels, 1))
        table.append(row)
    mean = round(float(tally.percent.sum()) / max(1, int(valid.sum())), 1) if has_confidence else None
    return {
        "mean_confidence_percent": mean,
        "cell": cells.facts(),
        "columns": [
            "i", "j", "pixels", "area_m2", "shares", *["mean_confidence_percent"] * has_confidence,
        ],
        "cells": table,
    }  # fmt: skip
