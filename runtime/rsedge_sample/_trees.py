"""Trees along the streets, in the gardens and in the parks; scrub in the open country."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsedge_sample._noise import F32, F64, Frame, Ints, draw, hash_of, value_noise_at
from rsedge_sample._town import BLOCK_M, DESERT, PARK, VACANT, Blocks, Site, Town

_CELL_M = 6.5  # each cell of this lattice has one place for a tree
_REACH_M = 24.0  # canopies and their shadows extend less far from the trunk

# Probability of a tree at a place of the lattice, by use.
_TREE = np.array([0.14, 0.36, 0.06, 0.66, 0.45, 0.07, 0.04, 0.08], np.float32)


@dataclass(frozen=True)
class Trees:
    """Canopies: x, y and radius in metres, brightness, palm or not, shadow length in metres."""

    x: F64
    y: F64
    radius: F32
    tone: F32
    palm: NDArray[np.bool_]
    height: F32


def grow(town: Town, frame: Frame, blocks: Blocks) -> Trees:
    """Grow canopies on a jittered lattice, thinned by land use, off the roads and out of the water."""
    pad, cell = _REACH_M, _CELL_M
    x, y = frame.x, frame.y
    gx = np.arange(np.floor((x[0] - pad) / cell), np.floor((x[-1] + pad) / cell) + 1).astype(np.int64)
    gy = np.arange(np.floor((y[0] - pad) / cell), np.floor((y[-1] + pad) / cell) + 1).astype(np.int64)
    h = hash_of(town.key(60), gy[:, None], gx[None, :]).ravel()
    gxs, gys = np.tile(gx, len(gy)), np.repeat(gy, len(gx))
    keep = draw(h, 0) < 0.75
    h, gxs, gys = h[keep], gxs[keep], gys[keep]
    jitter_x, jitter_y = draw(h, 1).astype(np.float64), draw(h, 2).astype(np.float64)
    site = town.site((gxs + jitter_x) * cell, (gys + jitter_y) * cell)
    use, chance = _tree_chance(town, blocks, site)
    grown = draw(h, 0) / 0.75 < chance
    size = draw(h, 3)
    small = (use == DESERT) | (use == VACANT)
    radius = np.where(small, 0.9 + 0.9 * size, 1.6 + 3.0 * size * size)
    palm = (draw(h, 4) < 0.2) & ~small
    radius = np.where(palm, 2.4, radius).astype(np.float32)
    height = np.where(palm, 6.0, radius * (1.0 + draw(h, 5))).astype(np.float32)
    tone = draw(h, 6)
    return Trees(site.x[grown], site.y[grown], radius[grown], tone[grown], palm[grown], height[grown])


def _tree_chance(town: Town, blocks: Blocks, site: Site) -> tuple[Ints, F32]:
    i, j = np.floor(site.u).astype(np.int64), np.floor(site.v).astype(np.int64)
    fu, fv = site.u - i, site.v - j
    i, j = i - blocks.i0, j - blocks.j0
    n_u, n_v = blocks.n_u[j, i], blocks.n_v[j, i]
    bu, bv = np.floor(fu * n_u).astype(np.int64), np.floor(fv * n_v).astype(np.int64)
    use = blocks.sub_use[j, i, bv, bu].astype(np.int64)
    local = blocks.street[j, i]
    street = np.minimum(_street_m(fu, n_u, blocks.half_u[j, i], blocks.half_u[j, i + 1], local),
                        _street_m(fv, n_v, blocks.half_v[j, i], blocks.half_v[j + 1, i], local))  # fmt: skip
    clump = value_noise_at(site.x, site.y, town.key(61), 38.0)
    chance = _TREE[use] * np.where(use >= PARK, np.clip(0.75 + 1.5 * clump, 0, 1.5), 1.0)
    verge = (street > 0.6) & (street < 3.2) & (use <= PARK)
    chance = np.where(verge, np.maximum(chance, 0.42), chance)
    r2 = (2 * fu - 1) ** 2 + (2 * fv - 1) ** 2
    wet = (site.river_m < town.river_half_m + 6.0) | (r2 < 1.75 * blocks.pond[j, i])
    return use, np.where(wet | (street < 0.6), 0, chance).astype(np.float32)


def _street_m(f: F64, n: Ints, before: F32, after: F32, local: F32) -> F64:
    """Return the metres from the nearest kerb of this direction's streets, negative on the street."""
    sub = f * n
    line = np.floor(sub + 0.5)
    off = np.abs(sub - line) * BLOCK_M / n
    half = np.where(line == 0, before, np.where(line == n, after, local))
    return np.where(half > 0, off - half, BLOCK_M)
