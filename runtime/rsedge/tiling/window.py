"""A rectangle of pixels in a raster."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """Integer pixels in a raster: rows ``row .. row + height``, columns ``col .. col + width``.

    Raises ValueError if an offset is negative or a side is not positive.
    """

    row: int
    col: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.row < 0 or self.col < 0 or self.height < 1 or self.width < 1:
            raise ValueError(f"not a window: {self}. Offsets must be >= 0 and sides >= 1")

    @property
    def row_end(self) -> int:
        """Return the first row below the window."""
        return self.row + self.height

    @property
    def col_end(self) -> int:
        """Return the first column right of the window."""
        return self.col + self.width

    def __str__(self) -> str:
        return f"rows {self.row}..{self.row_end}, columns {self.col}..{self.col_end}"
