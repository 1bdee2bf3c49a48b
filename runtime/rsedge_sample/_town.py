"""The plan of a town: a warped grid of superblocks, their use, their streets, the rivers.

Grid coordinates (u, v) count superblocks; world coordinates (x, y) are metres, y downwards. (u, v) is the world
rotated by one angle and displaced by a few long waves, which bend the roads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rsedge_sample._noise import F32, F64, Ints, draw, hash_of, key_of, key_unit, wave

BLOCK_M = 250.0  # side of a superblock, between two arterials
NODE_M = 16.0  # the warp is evaluated on this lattice and interpolated
MAX_WARP_M = 62.0  # upper bound of the displacement
RIVER_PERIOD_M = 1500.0
LOCAL_HALF_M = 4.0  # half the width of the widest local streets
WALK_M = 2.2  # sidewalk beside a street

# Uses of a superblock, and of the sub-blocks between its local streets.
DENSE, RESIDENTIAL, INDUSTRIAL, PARK, LAKE, DESERT, FIELD, VACANT = range(8)

# Uses of 3 x 3 superblocks per flavour of district, a quota that keeps every class present.
_QUOTAS = np.array(
    [
        [DENSE, DENSE, DENSE, RESIDENTIAL, RESIDENTIAL, INDUSTRIAL, PARK, LAKE, PARK],
        [RESIDENTIAL, RESIDENTIAL, RESIDENTIAL, RESIDENTIAL, DENSE, PARK, LAKE, DESERT, FIELD],
        [INDUSTRIAL, INDUSTRIAL, DENSE, RESIDENTIAL, RESIDENTIAL, FIELD, PARK, LAKE, DENSE],
        [FIELD, FIELD, PARK, RESIDENTIAL, RESIDENTIAL, DENSE, LAKE, DENSE, RESIDENTIAL],
        [DESERT, DESERT, RESIDENTIAL, DENSE, RESIDENTIAL, PARK, LAKE, FIELD, DENSE],
    ],
    np.uint8,
)
_SHUFFLE = np.array([1, 2, 4, 5, 7, 8])  # steps coprime with 9: rank = (step * place + shift) mod 9
# Three ways by use to cut a superblock into sub-blocks; either number may go along u.
_STREETS = np.array(
    [
        [[3, 3], [2, 3], [3, 2]],
        [[2, 4], [1, 4], [2, 4]],
        [[2, 2], [1, 2], [2, 2]],
        *[[[1, 1]] * 3] * 3,
        [[2, 3], [2, 4], [1, 4]],  # parcels without streets
        [[1, 1]] * 3,
    ]
)
# Half widths of arterials in metres; those over 12 have a median.
_ARTERIALS_M = np.array([4.8, 5.2, 5.6, 6.4, 6.4, 7.4, 8.6, 12.5], np.float32)


@dataclass(frozen=True)
class Blocks:
    """Tables of the superblocks [j0, j0 + nj) x [i0, i0 + ni); flat cell = (j - j0) * ni + i - i0."""

    i0: int
    j0: int
    use: NDArray[np.uint8]  # (nj, ni)
    n_u: NDArray[np.int64]  # (nj, ni): columns of sub-blocks
    n_v: NDArray[np.int64]
    half_u: F32  # (nj, ni + 1): half width in metres of the arterial left of each cell; 0 = none
    half_v: F32  # (nj + 1, ni): above each cell
    street: F32  # (nj, ni): half width in metres of the local streets, 0 = none
    sub_use: NDArray[np.uint8]  # (nj, ni, 4, 4): use of sub-block [row, column]
    sub_hash: NDArray[np.uint32]  # (nj, ni, 4, 4)
    pond: F32  # (nj, ni): size of the lake or pond, 0 = none

    @property
    def ni(self) -> int:
        """Superblocks per row of the tables."""
        return int(self.use.shape[1])


@dataclass(frozen=True)
class Site:
    """Single points on the plan."""

    x: F64
    y: F64
    u: F64
    v: F64
    river_m: F64  # distance to the axis of the nearest river


@dataclass(frozen=True)
class Town:
    """Everything about a scene that depends only on its seed."""

    seed: int

    def key(self, purpose: int) -> int:
        """Return the hash key of a purpose."""
        return key_of(self.seed, purpose)

    def number(self, purpose: int, low: float = 0.0, high: float = 1.0) -> float:
        """Return a random number in [low, high)."""
        return low + (high - low) * key_unit(self.seed, purpose)

    @cached_property
    def turn(self) -> tuple[float, float]:
        """Cosine and sine of the grid's rotation, from the half-angle tangent because cos is not portable."""
        t = self.number(10, -0.41, 0.41)
        return (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)

    @cached_property
    def sun(self) -> tuple[float, float, float]:
        """Unit vector in which shadows fall (x, y), and shadow length per metre of height."""
        t = self.number(11, -0.9, 0.9)
        flip = 1.0 if self.number(12) < 0.7 else -1.0
        # Mostly northwards, as in the northern hemisphere before noon.
        return 2 * t / (1 + t * t), -flip * (1 - t * t) / (1 + t * t), self.number(13, 0.55, 1.25)

    def _waves(self, x: F64, y: F64, purpose: int, sizes: tuple[tuple[float, float], ...]) -> F64:
        total = np.zeros(np.broadcast_shapes(x.shape, y.shape))
        for n, (typical, height) in enumerate(sizes):
            p = purpose + 5 * n
            kx, ky = self.number(p, -1, 1), self.number(p + 1, -1, 1)
            norm = math.sqrt(kx * kx + ky * ky) + 1e-9
            length = typical * self.number(p + 2, 0.8, 1.25)
            phase = self.number(p + 3)
            total += height * wave((x * kx + y * ky) / (norm * length) + phase)
        return total

    def warp(self, x: F64, y: F64) -> tuple[F64, F64]:
        """Return the displacement (u, v) in metres, at most MAX_WARP_M each."""
        sizes = ((1500.0, 36.0), (800.0, 17.0), (430.0, 5.0))
        return self._waves(x, y, 100, sizes), self._waves(x, y, 150, sizes)

    def river_m(self, x: F64, y: F64) -> F64:
        """Return the distance in metres to the axis of the nearest river (parallel meandering lines)."""
        cos, sin = self.turn
        across = -sin * x + cos * y if self.number(14) < 0.5 else cos * x + sin * y
        across = across + self._waves(x, y, 200, ((1900.0, 130.0), (700.0, 38.0), (300.0, 9.0)))
        turns = across / RIVER_PERIOD_M + self.number(15)
        return np.abs(turns - np.floor(turns + 0.5)) * RIVER_PERIOD_M

    @cached_property
    def river_half_m(self) -> float:
        """Half the width of the rivers, in metres."""
        return self.number(16, 17.0, 30.0)

    def site(self, x: F64, y: F64) -> Site:
        """Return the positions of world points on the plan."""
        cos, sin = self.turn
        wu, wv = self.warp(x, y)
        u, v = (cos * x + sin * y + wu) / BLOCK_M, (-sin * x + cos * y + wv) / BLOCK_M
        return Site(x, y, u, v, self.river_m(x, y))

    def world(self, u: F64, v: F64, rounds: int = 14) -> tuple[F64, F64]:
        """Return the world position of grid coordinates, by fixed-point iteration (the warp contracts).

        Four rounds come within a few metres.
        """
        cos, sin = self.turn
        wu, wv = np.zeros_like(u), np.zeros_like(v)
        for _ in range(rounds):
            p, q = u * BLOCK_M - wu, v * BLOCK_M - wv
            x, y = cos * p - sin * q, sin * p + cos * q
            wu, wv = self.warp(x, y)
        return x, y

    def axes(self, x: F64, y: F64) -> tuple[F64, F64, F64, F64]:
        """Return the world vectors (ux, uy, vx, vy) of one metre along u and along v at world points."""
        d = 1.0
        cos, sin = self.turn
        right, left = self.warp(x + d, y), self.warp(x - d, y)
        below, above = self.warp(x, y + d), self.warp(x, y - d)
        ux, vx = cos + (right[0] - left[0]) / (2 * d), -sin + (right[1] - left[1]) / (2 * d)
        uy, vy = sin + (below[0] - above[0]) / (2 * d), cos + (below[1] - above[1]) / (2 * d)
        det = ux * vy - uy * vx
        return vy / det, -vx / det, -uy / det, ux / det

    def blocks(self, i0: int, i1: int, j0: int, j1: int) -> Blocks:
        """Return tables of the superblocks i0..i1 x j0..j1 (ends excluded)."""
        # One more on each side, because an arterial depends on the blocks on both sides.
        i, j = np.arange(i0 - 1, i1 + 1)[None, :], np.arange(j0 - 1, j1 + 1)[:, None]
        wide = self._use(i, j)
        use = wide[1:-1, 1:-1]
        h = hash_of(self.key(20), j[1:-1], i[:, 1:-1])
        swap = draw(h, 0) < 0.5
        streets = _STREETS[use, (draw(h, 3) * 3).astype(np.int64)]
        n_u = np.where(swap, streets[..., 0], streets[..., 1])
        n_v = np.where(swap, streets[..., 1], streets[..., 0])
        half_u = self._arterials(i[:, 1:], j[1:-1], wide[1:-1, :-1], wide[1:-1, 1:], 21)
        half_v = self._arterials(j[1:], i[:, 1:-1], wide[:-1, 1:-1], wide[1:, 1:-1], 22)
        sub = np.arange(16).reshape(4, 4)
        sub_hash = hash_of(self.key(23), j[1:-1, :, None, None], i[:, 1:-1, None, None], sub)
        small_pond = np.where(draw(h, 2) < 0.6, np.float32(0.16), np.float32(0))
        street = np.where(use <= INDUSTRIAL, 3.3 + 0.7 * draw(h, 4), 0).astype(np.float32)
        pond = np.where(use == LAKE, 0.78 + 0.2 * draw(h, 1), np.where(use == PARK, small_pond, 0))
        return Blocks(
            i0, j0, use, n_u, n_v, half_u, half_v, street,
            self._sub_use(use, draw(sub_hash, 0)), sub_hash, pond.astype(np.float32),
        )  # fmt: skip

    def _use(self, i: Ints, j: Ints) -> NDArray[np.uint8]:
        h = hash_of(self.key(24), j // 3, i // 3)
        flavour = (draw(h, 0) * len(_QUOTAS)).astype(np.int64)
        step = _SHUFFLE[(draw(h, 1) * 6).astype(np.int64)]
        place = (j % 3) * 3 + i % 3
        rank = (step * place + (draw(h, 2) * 9).astype(np.int64)) % 9
        return np.asarray(_QUOTAS[flavour, rank])

    def _arterials(
        self, line: Ints, along: Ints, before: NDArray[np.uint8], after: NDArray[np.uint8], purpose: int
    ) -> F32:
        """Return half widths: one class per line, with gaps, mostly in the open country."""
        line_hash = hash_of(self.key(purpose), line)
        half = _ARTERIALS_M[(draw(line_hash, 0) * len(_ARTERIALS_M)).astype(np.int64)]
        rural = np.minimum(before, after) >= PARK
        gap = draw(hash_of(self.key(purpose + 10), line, along), 1)
        absent = (gap < np.where(rural, 0.5, 0.08)) & (half < 7)
        return np.where(absent, np.float32(0), half)

    @staticmethod
    def _sub_use(use: NDArray[np.uint8], r: F32) -> NDArray[np.uint8]:
        """Turn a few sub-blocks of built-up superblocks into vacant lots or pocket parks."""
        out = np.broadcast_to(use[..., None, None], r.shape).copy()
        built = out <= INDUSTRIAL
        out[built & (r < 0.07)] = VACANT
        out[built & (r > 0.91) & (out != INDUSTRIAL)] = PARK
        return out
