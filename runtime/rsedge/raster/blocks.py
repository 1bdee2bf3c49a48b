"""Stored blocks, and strips of a raster that decode each block once. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterator

from rsedge.tiling.window import Window

MOST_ROWS = 512


def strip_ends(begin: int, end: int, block_rows: int, most_rows: int = MOST_ROWS) -> Iterator[int]:
    """Yield the row after each strip of the rows ``begin .. end``, top down; blocks are ``block_rows`` high.

    No strip has more than ``most_rows`` rows. If a block is no higher than that, strips end where a
    block ends, after as many whole blocks as fit; higher blocks are cut, and no strip spans two of them.
    """
    most_rows, row = max(most_rows, 1), begin
    while row < end:
        if block_rows <= most_rows:
            row = (row + most_rows) // block_rows * block_rows
        else:
            row = min(row + most_rows, (row // block_rows + 1) * block_rows)
        yield min(row, end)


def iter_strips(area: Window, block_rows: int, most_rows: int = MOST_ROWS) -> Iterator[Window]:
    """Yield windows that tile ``area`` top down, full width, cut by `strip_ends`."""
    row = area.row
    for end in strip_ends(area.row, area.row_end, block_rows, most_rows):
        yield Window(row, area.col, end - row, area.width)
        row = end


def strips_of(area: Window, block_rows: int, most_rows: int = MOST_ROWS) -> tuple[Window, ...]:
    """Return all windows of `iter_strips`."""
    return tuple(iter_strips(area, block_rows, most_rows))


def first_strips(area: Window, block_rows: int, most_rows: int = MOST_ROWS) -> tuple[Window, ...]:
    """Return the first of `strips_of`, enough to show the greatest height, and if any but the last cuts a block."""
    some = Window(area.row, area.col, min(area.height, 3 * max(most_rows, 1)), area.width)
    return strips_of(some, block_rows, most_rows)


def touched(begin: int, end: int, block: int) -> int:
    """Return the pixels along one side of the blocks of length ``block`` that touch ``begin .. end``."""
    return (-(-end // block) - begin // block) * block
