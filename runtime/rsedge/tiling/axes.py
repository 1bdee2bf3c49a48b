"""Windows that cover a raster, and the weight of each pixel of a window. No I/O."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rsedge.errors import InputError
from rsedge.tiling.window import Window

Seam = Literal["blend", "crop"]
MAX_OVERLAP = 0.75
MOST_LISTED = 1 << 16  # most windows of an axis that are kept as a tuple, which is faster


@dataclass(frozen=True)
class _Spread(Sequence[int]):
    """``steps`` + 1 integers spread evenly from ``first`` to ``first`` + ``last``, computed when used."""

    last: int
    steps: int
    first: int = 0

    def __len__(self) -> int:
        return self.steps + 1

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return tuple(self[n] for n in range(*number.indices(len(self))))
        number += len(self) * (number < 0)
        if not 0 <= number <= self.steps:
            raise IndexError(number)
        return self.first + number * self.last // max(1, self.steps)


@dataclass(frozen=True)
class Axis:
    """Windows along one side of a raster.

    ``length`` and ``tile`` are pixels; ``overlap`` is the least share of a tile that neighbours
    have in common, 0 to 0.75. Windows are spread evenly from the first pixel to the last, so none exceeds the
    raster and all overlaps are similar; a side shorter than the tile has one window
    of its own length (the engine pads it by reflection). ``shift``, 0 to 1, moves the inner borders
    by that share of a stride, to compare two tilings of one raster.
    """

    length: int
    tile: int
    overlap: float
    seam: Seam = "blend"
    shift: float = 0.0

    def __post_init__(self) -> None:
        if self.length < 1 or self.tile < 1:
            raise InputError(f"length {self.length} and tile {self.tile} must be at least 1 pixel")
        if not 0 <= self.overlap <= MAX_OVERLAP:
            raise InputError(f"overlap {self.overlap} must be within 0..{MAX_OVERLAP}, a share of the tile")
        if self.seam not in get_args(Seam):
            raise InputError(f"seam {self.seam!r} is unknown. Choose one of {', '.join(get_args(Seam))}")

    @property
    def size(self) -> int:
        """Return the pixels of one window: the tile, or the whole side if shorter."""
        return min(self.tile, self.length)

    @property
    def stride(self) -> int:
        """Return the most pixels from one window's start to the next."""
        return max(1, self.tile - round(self.tile * self.overlap))

    @property
    def count(self) -> int:
        """Return the number of windows."""
        return len(self.starts) if self.shift else self._steps + 1

    @property
    def _steps(self) -> int:
        return -(-max(0, self.length - self.tile) // self.stride)

    @cached_property
    def starts(self) -> Sequence[int]:
        """First pixel of every window, ascending."""
        last = max(0, self.length - self.tile)
        if self.shift:
            offset = min(last, round(self.stride * self.shift))
            rest = Axis(self.length - offset, self.tile, self.overlap, self.seam).starts
            return tuple(sorted({0, *(offset + start for start in rest)}))
        spread = _Spread(last, self._steps)
        return spread if len(spread) > MOST_LISTED else tuple(spread)

    @cached_property
    def ends(self) -> Sequence[int]:
        """First pixel after every window."""
        if isinstance(self.starts, _Spread):
            return replace(self.starts, first=self.size)
        return tuple(start + self.size for start in self.starts)

    def steps(self, windows: range) -> tuple[int, int]:
        """Return the fewest and the most pixels between neighbours of ``windows``; bounds if there are very many."""
        if isinstance(self.starts, _Spread):
            last, steps = self.starts.last, self.starts.steps
            return last // steps, -(-last // steps)
        found = [self.starts[n + 1] - self.starts[n] for n in windows[:-1]]
        return min(found, default=self.size), max(found, default=self.size)

    def covering(self, begin: int, end: int) -> range:
        """Return the numbers of the windows that hold one of the pixels ``begin`` .. ``end``."""
        return range(bisect_right(self.ends, begin), bisect_left(self.starts, end))

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """Weight of each pixel in each window, shape (windows, size); every pixel's weights sum to 1.

        ``blend``: linear ramps over the overlap. ``crop``: 1 in the window whose centre is
        nearest, 0 in the others.
        """
        return np.stack([self.weights_of(number) for number in range(len(self.starts))])

    def weights_of(self, number: int) -> NDArray[np.float32]:
        """Return the weight of each pixel in window ``number``, (size,), read-only: a row of `weights`.

        Weights depend on the offsets of the overlapping windows. Evenly spread windows have few combinations of
        offsets, so the weights of each are cached.
        """
        start = self.starts[number]
        around = tuple(self.starts[n] - start for n in self.covering(start, start + self.size))
        known = self._known_weights
        if around not in known:
            made = self._ramp(around) if self.seam == "blend" else self._owned(around)
            made.setflags(write=False)
            known[around] = made
        return known[around]

    @cached_property
    def _known_weights(self) -> dict[tuple[int, ...], NDArray[np.float32]]:
        """Weights by the offsets of the windows that overlap one, itself included."""
        return {}

    def _ramp(self, around: tuple[int, ...]) -> NDArray[np.float32]:
        ramp = max(1, self.tile - self.stride)
        to_border = np.minimum(np.arange(self.size) + 0.5, np.arange(self.size, 0, -1) - 0.5)
        raw = np.minimum(to_border / ramp, 1.0)
        total = np.zeros(self.size)
        for offset in around:
            begin, end = max(0, offset), min(self.size, self.size + offset)
            total[begin:end] += raw[begin - offset : end - offset]
        weights: NDArray[np.float32] = (raw / total).astype(np.float32)
        return weights

    def _owned(self, around: tuple[int, ...]) -> NDArray[np.float32]:
        # Pixels after the cut are nearer to the centre of the later window.
        before, after = [o for o in around if o < 0], [o for o in around if o > 0]
        begin = (before[-1] + self.size + 1) // 2 if before else 0
        end = (after[0] + self.size + 1) // 2 if after else self.size
        mine = np.zeros(self.size, np.float32)
        mine[max(0, begin) : end] = 1
        return mine


@dataclass(frozen=True)
class Tiling:
    """All windows of a raster, row by row."""

    rows: Axis
    cols: Axis

    @classmethod
    def of(cls, height: int, width: int, tile: int, overlap: float, seam: Seam, shift: float = 0.0) -> Tiling:
        """Return the tiling of a raster of ``height`` x ``width`` pixels by square tiles."""
        return cls(Axis(height, tile, overlap, seam, shift), Axis(width, tile, overlap, seam, shift))

    @property
    def windows(self) -> int:
        """Return the number of windows; `len` cannot exceed 2^63."""
        return self.rows.count * self.cols.count

    def __len__(self) -> int:
        return self.windows

    def __iter__(self) -> Iterator[Window]:
        for row in self.rows.starts:
            for col in self.cols.starts:
                yield Window(row, col, self.rows.size, self.cols.size)
