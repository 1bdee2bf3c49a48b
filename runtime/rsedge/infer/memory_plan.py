"""Column blocks and memory bound of a run, computed before it starts."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np

from rsedge.backends import Backend
from rsedge.engine.sliding_window import AHEAD, ANSWERS_AHEAD, Inside
from rsedge.errors import InputError
from rsedge.machine import machine_bytes, rss_bytes
from rsedge.raster import BandPlan, RasterReader
from rsedge.raster.cache import LEAST_BYTES
from rsedge.raster.parts import part_areas, part_height
from rsedge.raster.writer import BLOCK
from rsedge.tiling.axes import Tiling
from rsedge.tiling.blend import Spans
from rsedge.tiling.window import Window

SLACK, SLACK_BYTES = 1.1, 24 << 20  # allocators round up, and libraries keep some freed memory
MOST_OF_MACHINE = 0.85
ROW_INSIDE_BYTES = 10  # per pixel of a row that is being filled
FEW_BLOCKS, MOST_BLOCKS = 32, 4096  # limits on the number of column blocks
LARGE_CACHE_BYTES = 64 << 20


@dataclass(frozen=True)
class Work:
    """Input, tiling and outputs of a run, as far as its memory depends on them."""

    reader: RasterReader
    bands: BandPlan
    tiling: Tiling
    area: Window
    inside: Inside | None = None
    layer_bands: int = 1  # of all result rasters together
    probabilities: bool = False
    later_bytes: int = 0  # needed after the model's work, when all of its memory is free again


@dataclass(frozen=True)
class Plan:
    """Column blocks of the area, each processed from the top down, and their memory.

    ``base_bytes``: resident memory after warm-up. ``bytes_by_part``: additional peak memory by purpose, all of
    it at once.
    """

    blocks: tuple[Window, ...]
    windows: int
    base_bytes: int
    bytes_by_part: Mapping[str, int]

    @property
    def bound_bytes(self) -> int:
        """Return the upper bound on the resident memory of the process."""
        return self.base_bytes + round(sum(self.bytes_by_part.values()) * SLACK) + SLACK_BYTES

    @property
    def parts(self) -> tuple[tuple[Window, ...], ...]:
        """Return the parts of each block, from the top down."""
        return tuple(part_areas(block) for block in self.blocks)


def make_plan(
    backend: Backend, work: Work, max_ram_bytes: int | None = None, begun: Sequence[int] | None = None
) -> Plan:
    """Return the widest column blocks that fit ``max_ram_bytes`` (None: most of this machine's memory).

    ``begun``: block widths of a run to be resumed, kept if they fit the area.

    Raises InputError if even the narrowest blocks do not fit.
    """
    if max_ram_bytes is None:
        max_ram_bytes = round(machine_bytes() * MOST_OF_MACHINE)
    base_bytes = warm_up(backend)
    if begun:
        plan = _plan(backend, work, begun[0], base_bytes)
        if plan.bound_bytes > max_ram_bytes:
            raise InputError(
                f"the unfinished run needs up to {plan.bound_bytes / 2**20:.0f} MiB for its {len(plan.blocks)} column "
                "blocks. Allow that with --max-ram, or start over with --overwrite."
            )
        return plan
    return _widest(backend, work, base_bytes, max_ram_bytes)


def _widest(backend: Backend, work: Work, base_bytes: int, max_ram_bytes: int) -> Plan:
    """Find the fewest blocks that fit: one by one up to FEW_BLOCKS, then by bisection."""
    area, count, too_few = work.area, 1, 0
    while True:
        width = -(-area.width // count // BLOCK) * BLOCK
        plan = _plan(backend, work, width, base_bytes)
        if plan.bound_bytes <= max_ram_bytes:
            break
        if width <= BLOCK or width <= work.tiling.cols.tile:
            raise InputError(_too_little(plan, max_ram_bytes, backend.streams))
        too_few = count
        count = max(count + 1, -(-area.width // (width - BLOCK))) if count < FEW_BLOCKS else 2 * count
    while count - too_few > 1 and count > FEW_BLOCKS:
        middle = (too_few + count) // 2
        found = _plan(backend, work, -(-area.width // middle // BLOCK) * BLOCK, base_bytes)
        if found.bound_bytes <= max_ram_bytes:
            plan, count = found, middle
        else:
            too_few = middle
    return plan


def _too_little(plan: Plan, max_ram_bytes: int, streams: int) -> str:
    parts = ", ".join(f"{name} {n / 2**20:.0f}" for name, n in plan.bytes_by_part.items() if n)
    # Resident memory before the run differs a little from one time to the next.
    enough = -(-round(plan.bound_bytes * 1.05) // 2**20)
    advice = (
        " The raster's blocks span its width or height; `gdal_translate -co TILED=YES` reduces the need."
        if plan.bytes_by_part["GDAL"] > LARGE_CACHE_BYTES
        else ""
    )
    if streams > 1:
        advice += f" --streams 1 reduces it, too: each of the {streams} streams needs memory of its own."
    return (
        f"{max_ram_bytes / 2**20:.0f} MiB of memory (--max-ram, else 85 % of the machine's) is too little. Give at "
        f"least {enough}M (model and libraries {plan.base_bytes / 2**20:.0f}, {parts} MiB).{advice}"
    )


def _plan(backend: Backend, work: Work, width: int, base_bytes: int) -> Plan:
    area = work.area
    if area.width > MOST_BLOCKS * width:
        raise InputError(
            f"{area.width} columns would need more than {MOST_BLOCKS} blocks of {width}. Allow more memory with "
            "--max-ram."
        )
    blocks = tuple(
        Window(area.row, col, area.height, min(width, area.col_end - col))
        for col in range(area.col, area.col_end, width)
    )
    spans = [Spans(work.tiling, block) for block in blocks]
    widest = max(spans, key=lambda s: s.outline.width)
    return Plan(blocks, sum(map(len, spans)), base_bytes, _need(backend, work, widest))


def _need(backend: Backend, work: Work, spans: Spans) -> dict[str, int]:
    """Return the peak bytes of everything that grows with the width of the block."""
    m, outline, area = backend.bundle.manifest, spans.outline, spans.area
    classes, side = len(m.classes), work.tiling.rows.tile
    strip_rows = max(strip.height for strip in work.reader.first_strips(outline))
    # Strips touched by a row of windows, and strips being read ahead meanwhile.
    strips = min(-(-side // strip_rows) + 1 + AHEAD, -(-outline.height // strip_rows))
    pixel_bytes = len(m.bands) * np.dtype(m.dtype).itemsize
    pixel_bytes += work.reader.may_have_nodata(work.bands) or work.inside is not None
    strip_bytes = strip_rows * outline.width * pixel_bytes
    inside_bytes = 0
    if work.inside is not None:  # the area's mask of a strip, and at least one row at a time
        inside_bytes = (strip_rows + ROW_INSIDE_BYTES) * outline.width + work.inside.filling_bytes
    finished = spans.rows.most_own * outline.width * (1 + classes * work.probabilities)
    carried = 4 * classes * (spans.rows.most_carried * outline.width + spans.cols.most_carried * side)
    # Scores being blended, ready or computed; and the tile being cut, with the copies of those being computed.
    answers, tiles = ANSWERS_AHEAD + backend.in_flight, backend.in_flight + (backend.in_flight > 1)
    tile_bytes = side * side * (4 * classes * answers + pixel_bytes * tiles) * max(1, backend.batch)
    # Rows that are cut, but whose last tiles the model has not answered.
    rows_waiting = 1 + -(-backend.in_flight // len(spans.cols.windows))
    valid_bytes = (
        (pixel_bytes - len(m.bands) * np.dtype(m.dtype).itemsize) * spans.rows.most_own * outline.width
    )
    totals = 4 * classes * side * side * 2
    part_rows = min(area.height, part_height(area.width))
    needed = {
        "strips": strips * strip_bytes,
        "reading": work.reader.extra_bytes(outline, work.bands) + inside_bytes,
        "GDAL": max(LEAST_BYTES, work.reader.cache_bytes(outline, work.bands)) + LEAST_BYTES,
        "tiles": tile_bytes + totals + rows_waiting * valid_bytes,
        "blending": carried + finished,
        "writing": finished * (AHEAD + 1) + 2 * part_rows * area.width * work.layer_bands,
    }
    return {**needed, "polygons": max(0, work.later_bytes - sum(needed.values()))}


def warm_up(backend: Backend) -> int:
    """Run the model until its libraries have allocated their memory, and return the resident bytes.

    That includes what every stream of the model needs for its own tile.
    """
    backend.warm_up()
    return rss_bytes()


def time_tile(backend: Backend) -> float:
    """Measure the seconds that the model takes per tile, with all its streams at work."""
    tiles = backend.streams
    begin = time.perf_counter()
    for _ in backend.stream(repeat(backend.blank_tile(), tiles)):
        pass
    return (time.perf_counter() - begin) / tiles


def free_bytes(folder: Path) -> int:
    """Return the free space on the disk of ``folder``, in bytes."""
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize
