"""Stored blocks and the strips of a raster that decode each of them once. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterator

from rsedge.window import Window

MOST_ROWS = 512


def strip_ends(begin: int, end: int, block_rows: int, most_rows: int = MOST_ROWS) -> Iterator[int]:
    """Row after each strip of the rows ``begin .. end``, top down; blocks are ``block_rows`` high.

    No strip has more than ``most_rows`` rows. Where a block is no higher than that, strips end where a
    block ends, after as many whole blocks as fit; higher blocks are cut, and no strip is of two of them.
    """
    most_rows, row = max(most_rows, 1), begin
    while row < end:
        if block_rows <= most_rows:
            row = (row + most_rows) // block_rows * block_rows
        else:
            row = min(row + most_rows, (row // block_rows + 1) * block_rows)
        yield min(row, end)


def strips_of(area: Window, block_rows: int, most_rows: int = MOST_ROWS) -> tuple[Window, ...]:
    """Windows that tile ``area`` top down, full width, as `strip_ends` cuts it."""
    strips, row = list[Window](), area.row
    for end in strip_ends(area.row, area.row_end, block_rows, most_rows):
        strips.append(Window(row, area.col, end - row, area.width))
        row = end
    return tuple(strips)


def touched(begin: int, end: int, block: int) -> int:
    """Pixels along one side of the blocks of length ``block`` that touch ``begin .. end``."""
    return (-(-end // block) - begin // block) * block
