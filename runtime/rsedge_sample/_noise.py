"""Hashes of lattice coordinates, and noise made from them.

Every random choice of a scene is a hash of (seed, purpose, integer coordinates), so it does not depend on the window.
Floating point is used only with +, -, *, / and sqrt, which are exact to the last bit on every platform, unlike sin
and exp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U32 = NDArray[np.uint32]
Ints = NDArray[Any]

_MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Frame:
    """Pixel centres of a rectangle of the pixel grid, which is infinite in all directions."""

    row: int
    col: int
    height: int
    width: int
    gsd: float

    @property
    def x(self) -> F64:
        """Metres right of the scene's left edge, one per column."""
        return (np.arange(self.col, self.col + self.width, dtype=np.float64) + 0.5) * self.gsd

    @property
    def y(self) -> F64:
        """Metres below the scene's top edge, one per row."""
        return (np.arange(self.row, self.row + self.height, dtype=np.float64) + 0.5) * self.gsd


def key_of(seed: int, purpose: int) -> int:
    """Return a 32-bit key of (seed, purpose), which depends on all bits of the seed (splitmix64)."""
    z = (seed * 0x9E3779B97F4A7C15 + (purpose + 1) * 0xD1B54A32D192ED03) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (z ^ (z >> 31)) & _MASK


def key_unit(seed: int, purpose: int) -> float:
    """Return a number in [0, 1) for (seed, purpose)."""
    return key_of(seed, purpose) / 2.0**32


def _mix(h: U32) -> U32:
    """Mix 32 bits (lowbias32) in place; arrays wrap silently."""
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x7FEB352D)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x846CA68B)
    h ^= h >> np.uint32(16)
    return h


def hash_of(key: int, *coords: Ints) -> U32:
    """Hash of integer arrays (broadcast together; at least one dimension) under a key."""
    h = np.full(1, key, np.uint32)
    for c in coords:
        h = _mix(c.astype(np.uint32) * np.uint32(0x9E3779B1) ^ (h + np.uint32(0x632BE5AB)))
    return h


def draw(h: U32, n: int) -> F32:
    """Return the n-th number in [0, 1) of the stream started by each hash."""
    return unit(_mix(h + np.uint32((n * 0x9E3779B9 + 1) & _MASK)))


def unit(h: U32) -> F32:
    """Return the hash as a number in [0, 1), from its upper 24 bits."""
    return (h >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def wave(turns: F64) -> F64:
    """Return sin(2 pi turns) to 0.1 %, computed by parabolas."""
    t = turns - np.floor(turns + 0.5)
    y = 8.0 * t - 16.0 * t * np.abs(t)
    return y * (0.775 + 0.225 * np.abs(y))


def _steps(coord: F64, cell: float) -> tuple[NDArray[np.int64], F32]:
    scaled = coord / cell
    low = np.floor(scaled)
    return low.astype(np.int64), (scaled - low).astype(np.float32)


def _fade(t: F32) -> F32:
    return t * t * (3.0 - 2.0 * t)


def interpolate(nodes: F32, ix: Ints, fx: F32, iy: Ints, fy: F32) -> F32:
    """Interpolate nodes bilinearly at the outer product of (ix + fx) and (iy + fy)."""
    along = np.take(nodes[:, 1:] - nodes[:, :-1], ix, axis=1)
    along *= fx
    along += np.take(nodes, ix, axis=1)
    out = np.take(along[1:] - along[:-1], iy, axis=0)
    out *= fy[:, None]
    out += np.take(along, iy, axis=0)
    return out


def lattice(frame: Frame, cell: float) -> tuple[Ints, Ints, Ints, F32, Ints, F32]:
    """Return node columns, node rows, and the position of each pixel column and row among them."""
    ix, fx = _steps(frame.x, cell)
    iy, fy = _steps(frame.y, cell)
    cols = np.arange(ix[0], ix[-1] + 2)
    rows = np.arange(iy[0], iy[-1] + 2)
    return cols, rows, ix - ix[0], fx, iy - iy[0], fy


def value_noise(frame: Frame, key: int, cell: float) -> F32:
    """Return smooth noise in [-1, 1) with a node every ``cell`` metres; shape (height, width)."""
    cols, rows, ix, fx, iy, fy = lattice(frame, cell)
    nodes = unit(hash_of(key, rows[:, None], cols[None, :])) * 2.0 - 1.0
    return interpolate(nodes, ix, _fade(fx), iy, _fade(fy))


def value_noise_at(x: F64, y: F64, key: int, cell: float) -> F32:
    """Return the noise of ``value_noise`` at single points."""
    ix, fx = _steps(x, cell)
    iy, fy = _steps(y, cell)
    fx, fy = _fade(fx), _fade(fy)
    n00, n01 = unit(hash_of(key, iy, ix)), unit(hash_of(key, iy, ix + 1))
    n10, n11 = unit(hash_of(key, iy + 1, ix)), unit(hash_of(key, iy + 1, ix + 1))
    top, low = n00 + (n01 - n00) * fx, n10 + (n11 - n10) * fx
    return (top + (low - top) * fy) * 2.0 - 1.0


def repeat_index(counts: Ints) -> tuple[Ints, Ints]:
    """For counts (2, 0, 3) return owners (0, 0, 2, 2, 2) and running numbers within each (0, 1, 0, 1, 2)."""
    owner = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    return owner, np.arange(len(owner)) - np.repeat(first, counts)
