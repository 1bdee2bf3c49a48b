"""Objects on the plan: lots with buildings, yards, lawns and pools, and cars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsedge_sample import _materials as mat
from rsedge_sample._noise import F32, F64, U32, Frame, Ints, draw, hash_of, repeat_index
from rsedge_sample._raster import Boxes, concat, take
from rsedge_sample._town import (
    BLOCK_M,
    DENSE,
    INDUSTRIAL,
    LOCAL_HALF_M,
    MAX_WARP_M,
    RESIDENTIAL,
    WALK_M,
    Blocks,
    Town,
)

REACH_M = 96.0  # no object, including its shadow, extends further than this from its centre
MAX_SHADOW_M = 42.0

# Roof shapes (Boxes.kind of buildings).
FLAT, GABLE, HIP, SHED = range(4)

# By use of the sub-block: side of a lot, share of lots built on, minimum and maximum share of its side taken by a
# building, minimum and maximum height, share of L-shapes, share of lots with a lawn.
_LOT = np.array(
    # side   built  low   high  h_lo  h_hi    L    lawn
    [
        [20.0, 0.93, 0.66, 0.99, 6.0, 22.0, 0.40, 0.06],
        [25.0, 0.93, 0.52, 0.80, 3.5, 8.0, 0.55, 0.66],
        [47.0, 0.90, 0.62, 0.90, 6.0, 12.0, 0.20, 0.00],
        [73.0, 0.00, 0.10, 0.20, 3.0, 5.0, 0.00, 0.00],
        [73.0, 0.00, 0.10, 0.20, 3.0, 5.0, 0.00, 0.00],
        [44.0, 0.10, 0.20, 0.60, 3.0, 6.0, 0.30, 0.00],
        [73.0, 0.10, 0.15, 0.35, 3.0, 6.0, 0.30, 0.00],
        [30.0, 0.06, 0.20, 0.60, 3.0, 6.0, 0.30, 0.02],
    ]
)
_PAINT = np.array(
    [[238, 238, 236], [200, 202, 204], [120, 122, 126], [60, 62, 66], [150, 40, 36], [46, 66, 110]],
    np.float32,
)
_ROOF = np.array(
    [
        [232, 230, 224],  # white coating
        [200, 197, 192],  # pale concrete
        [168, 166, 164],  # concrete
        [126, 125, 126],  # bitumen, weathered
        [92, 92, 96],  # bitumen
        [206, 188, 158],  # sandy render
        [184, 164, 136],  # tan
        [170, 104, 80],  # clay tile
        [146, 84, 66],  # old clay tile
        [122, 98, 84],  # brown tile
        [112, 134, 158],  # blue sheet metal
        [142, 160, 148],  # green-grey sheet metal
    ],
    np.float32,
)
# Frequency of each colour by use (dense, residential, industrial, other).
_ROOF_SHARE = np.array(
    [
        [4, 6, 5, 3, 2, 5, 4, 2, 1, 1, 0, 0],
        [4, 4, 3, 1, 1, 5, 4, 5, 4, 3, 0, 0],
        [8, 6, 3, 2, 1, 2, 1, 0, 0, 0, 3, 2],
        [4, 4, 3, 1, 1, 6, 5, 1, 1, 1, 0, 0],
    ],
    np.float32,
)


@dataclass(frozen=True)
class Lots:
    """Parcels between the streets, one entry each."""

    use: Ints
    hash: U32
    u: F64  # centre, superblocks
    v: F64
    half_u: F64  # metres
    half_v: F64
    street: F64  # metres along v from the centre to the axis of the street above, 0 if none
    lane: F64  # half width of that street, metres
    x: F64  # centre, metres
    y: F64
    ux: F64  # world vector of one metre along u
    uy: F64
    vx: F64
    vy: F64


def blocks_near(town: Town, frame: Frame) -> Blocks:
    """Return the superblocks whose objects can extend into the frame."""
    cos, sin = town.turn
    x, y, pad = frame.x, frame.y, REACH_M
    xs, ys = np.array([x[0] - pad, x[-1] + pad]), np.array([y[0] - pad, y[-1] + pad])
    u = (cos * xs[None, :] + sin * ys[:, None]) / BLOCK_M
    v = (-sin * xs[None, :] + cos * ys[:, None]) / BLOCK_M
    slack = MAX_WARP_M / BLOCK_M
    return town.blocks(
        int(np.floor(u.min() - slack)), int(np.floor(u.max() + slack)) + 1,
        int(np.floor(v.min() - slack)), int(np.floor(v.max() + slack)) + 1,
    )  # fmt: skip


def _sides(n: Ints, b: Ints, before: F32, after: F32) -> tuple[F64, F64]:
    """Return the span in metres of the b-th of n sub-blocks without its streets and sidewalks."""
    local = LOCAL_HALF_M + WALK_M
    low = b * BLOCK_M / n + np.where(b == 0, before + WALK_M + 1.0, local)
    high = (b + 1) * BLOCK_M / n - np.where(b == n - 1, after + WALK_M + 1.0, local)
    return low, high


def lots(town: Town, frame: Frame, blocks: Blocks) -> Lots:
    """Return the dry parcels around the frame, in an order that does not depend on the frame."""
    four = np.arange(4)
    exists = (four[:, None] < blocks.n_v[..., None, None]) & (four < blocks.n_u[..., None, None])
    j, i, bv, bu = np.nonzero(exists)
    use = blocks.sub_use[j, i, bv, bu].astype(np.int64)
    u0, u1 = _sides(blocks.n_u[j, i], bu, blocks.half_u[j, i], blocks.half_u[j, i + 1])
    v0, v1 = _sides(blocks.n_v[j, i], bv, blocks.half_v[j, i], blocks.half_v[j + 1, i])
    # Each sub-block has its own lot size.
    side = _LOT[use, 0] * (0.78 + 0.5 * draw(blocks.sub_hash[j, i, bv, bu], 3))
    k_u = np.clip(np.floor((u1 - u0) / side + 0.5), 1, 6).astype(np.int64)
    k_v = np.clip(np.floor((v1 - v0) / side + 0.5), 1, 6).astype(np.int64)
    s, n = repeat_index(k_u * k_v)
    half_u, half_v = ((u1 - u0) / k_u / 2)[s], ((v1 - v0) / k_v / 2)[s]
    a, b, i, j, bv = n % k_u[s], n // k_u[s], i[s], j[s], bv[s]
    u_m, v_m = u0[s] + (2 * a + 1) * half_u, v0[s] + (2 * b + 1) * half_v
    u, v = i + blocks.i0 + u_m / BLOCK_M, j + blocks.j0 + v_m / BLOCK_M
    lane = np.where(bv > 0, blocks.street[j, i], blocks.half_v[j, i]).astype(np.float64)
    street = np.where((b == 0) & (lane > 0), bv * BLOCK_M / blocks.n_v[j, i] - v_m, 0.0)
    near = _near(frame, *town.world(u, v, rounds=4))
    keep = np.flatnonzero(near & (blocks.pond[j, i] == 0))
    x, y = town.world(u[keep], v[keep])
    h = hash_of(town.key(30), *(c[keep] for c in (j + blocks.j0, i + blocks.i0, bv * 4 + bu[s], n)))
    ux, uy, vx, vy = town.axes(x, y)
    lot = Lots(
        use[s][keep], h, u[keep], v[keep], half_u[keep], half_v[keep], street[keep], lane[keep],
        x, y, ux, uy, vx, vy,
    )  # fmt: skip
    reach = 1.35 * np.maximum(lot.half_u, lot.half_v)
    return take(lot, town.river_m(x, y) > town.river_half_m + 6.0 + reach)


def _near(frame: Frame, x: F64, y: F64) -> NDArray[np.bool_]:
    """Return True if an object at (x, y), known to some metres, may extend into the frame."""
    (x0, x1), (y0, y1), pad = frame.x[[0, -1]], frame.y[[0, -1]], REACH_M + 12.0
    return np.asarray((x > x0 - pad) & (x < x1 + pad) & (y > y0 - pad) & (y < y1 + pad))


def _place(lot: Lots, du: F64, dv: F64, half_u: F64, half_v: F64, height: F32, kind: Ints, rgb: F32) -> Boxes:
    """Place rectangles at (du, dv) grid metres from the centres of parcels, aligned with the streets."""
    along = np.sqrt(lot.ux * lot.ux + lot.uy * lot.uy)
    ax, ay = lot.ux / along, lot.uy / along
    across = lot.vy * ax - lot.vx * ay  # the grid may be sheared, so only the part at right angles counts
    x, y = lot.x + du * lot.ux + dv * lot.vx, lot.y + du * lot.uy + dv * lot.vy
    return Boxes(x, y, ax, ay, half_u * along, half_v * across, height, kind, rgb)


def _roof_rgb(town: Town, use: Ints, h: U32) -> F32:
    """Return roof colours; each seed favours some of them."""
    lean = 0.25 + 1.5 * draw(hash_of(town.key(40), np.arange(len(_ROOF))), 0)
    share = np.cumsum(_ROOF_SHARE * lean, axis=1)
    share /= share[:, -1:]
    r = draw(h, 10)
    index = (r[:, None] >= share[np.minimum(use, 3)]).sum(axis=1)
    rgb = _ROOF[np.minimum(index, len(_ROOF) - 1)]
    jitter = np.stack([draw(h, n) for n in (11, 12, 13)], axis=1) - 0.5
    shade = 0.84 + 0.26 * draw(h, 14)
    return np.asarray(rgb * shade[:, None] + jitter * 12.0, np.float32)


def buildings(town: Town, lot: Lots) -> Boxes:
    """Return the main parts, then the wings of L-shapes."""
    lot = take(lot, draw(lot.hash, 0) < _LOT[lot.use, 1])
    _, _, low, high, h_low, h_high, ell_share, _ = _LOT[lot.use].T
    h = lot.hash
    hu, hv = lot.half_u * (low + (high - low) * draw(h, 1)), lot.half_v * (low + (high - low) * draw(h, 2))
    du = (lot.half_u - hu) * (draw(h, 3) - 0.5) * 1.2
    dv = (lot.half_v - hv) * (draw(h, 4) - 0.5) * 1.2
    tower = (lot.use == DENSE) & (draw(h, 6) < 0.12)
    rise = draw(h, 5)
    height = h_low + (h_high - h_low) * rise * rise + np.where(tower, 22.0, 0.0)
    height = np.minimum(height, MAX_SHADOW_M / town.sun[2]).astype(np.float32)
    kind, rgb = _roof_kind(lot.use, h), _roof_rgb(town, lot.use, h)
    # An L consists of a full-length bar at one side of the rectangle and a wing at right angles to it.
    ell = draw(h, 7) < ell_share
    bar = np.where(ell, 0.42 + 0.2 * draw(h, 8), 1.0)
    side, flip = np.where(draw(h, 9) < 0.5, -1.0, 1.0), np.where(draw(h, 16) < 0.5, -1.0, 1.0)
    main = _place(lot, du, dv + side * hv * (1 - bar), hu, hv * bar, height, kind, rgb)
    wing_u = hu * (0.38 + 0.2 * draw(h, 15))
    wing = _place(lot, du + flip * (hu - wing_u), dv, wing_u, hv, height, kind, rgb)
    return concat(main, take(wing, ell))


def _roof_kind(use: Ints, h: U32) -> Ints:
    r = draw(h, 20)
    house = np.where(r < 0.45, FLAT, np.where(r < 0.75, HIP, GABLE))
    block, works = np.where(r < 0.88, FLAT, HIP), np.where(r < 0.75, SHED, FLAT)
    return np.where(use == INDUSTRIAL, works, np.where(use == DENSE, block, house))


def patches(lot: Lots) -> Boxes:
    """Return yards, lawns and pools; kind is the material."""
    h, n = lot.hash, len(lot.hash)
    flat, rgb = np.zeros(n, np.float32), np.zeros((n, 3), np.float32)
    yards = np.array([mat.PAVED, mat.CONCRETE, mat.SOIL, mat.SAND, mat.GRAVEL])
    yard_mat = yards[(draw(h, 31) * 5).astype(np.int64)]
    zero = np.zeros(n)
    yard = _place(lot, zero, zero, lot.half_u * 0.97, lot.half_v * 0.97, flat, yard_mat, rgb)
    full, side = draw(h, 32) < 0.4, np.where(draw(h, 34) < 0.5, -1.0, 1.0)
    lawn_mat = np.where(draw(h, 33) < 0.75, mat.GRASS, mat.DRY_GRASS)
    lawn_dv = np.where(full, 0.0, side * 0.5 * lot.half_v)
    lawn_half_v = lot.half_v * np.where(full, 0.9, 0.42)
    lawn = _place(lot, zero, lawn_dv, lot.half_u * 0.9, lawn_half_v, flat, lawn_mat, rgb)
    corner = np.where(draw(h, 36) < 0.5, -0.72, 0.72) * lot.half_u
    long, wide = 3.4 + 2.0 * draw(h, 38).astype(np.float64), 2.0 + 1.5 * draw(h, 37).astype(np.float64)
    pool = _place(lot, corner, side * 0.68 * lot.half_v, wide, long, flat, np.full(n, mat.POOL), rgb)
    return concat(
        take(yard, (draw(h, 30) < 0.6) & (lot.use <= INDUSTRIAL)),
        take(lawn, draw(h, 35) < _LOT[lot.use, 7]),
        take(pool, (lot.use == RESIDENTIAL) & (draw(h, 39) < 0.3)),
    )


def cars(lot: Lots) -> Boxes:
    """Return cars and lorries on the streets, which change only the colour; the label stays road."""
    return concat(_traffic(lot, 50), _traffic(lot, 60))


def _traffic(lot: Lots, first: int) -> Boxes:
    lot = take(lot, (lot.street < 0) & (draw(lot.hash, first) < 0.5))
    h, n = lot.hash, len(lot.hash)
    side = np.where(draw(h, first + 1) < 0.5, -1.0, 1.0)
    du = lot.half_u * (2.0 * draw(h, first + 2) - 1.0)
    dv = lot.street + side * lot.lane * (0.32 + 0.4 * draw(h, first + 3))
    rgb = _PAINT[(draw(h, first + 4) * len(_PAINT)).astype(np.int64)]
    lorry = (lot.use == INDUSTRIAL) & (draw(h, first + 5) < 0.4)
    height, kind = np.where(lorry, 3.0, 1.2).astype(np.float32), np.zeros(n, np.int64)
    return _place(lot, du, dv, np.where(lorry, 4.5, 2.2), np.where(lorry, 1.3, 0.95), height, kind, rgb)
