"""The surface under every pixel: land use, streets and water, drawn per pixel from the plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsedge_sample import _materials as mat
from rsedge_sample._noise import F32, F64, Frame, Ints, draw, interpolate, lattice
from rsedge_sample._town import (
    BLOCK_M,
    FIELD,
    NODE_M,
    WALK_M,
    Blocks,
    Town,
)

Mask = NDArray[np.bool_]

# Four possible ground surfaces by use of a sub-block.
_GROUND = np.array(
    [
        [mat.PAVED, mat.CONCRETE, mat.GRAVEL, mat.SAND],
        [mat.SAND, mat.SOIL, mat.PAVED, mat.SAND],
        [mat.CONCRETE, mat.GRAVEL, mat.GRAVEL, mat.SAND],
        [mat.GRASS, mat.GRASS, mat.GRASS, mat.DRY_GRASS],
        [mat.GRASS, mat.SAND, mat.DRY_GRASS, mat.SAND],
        [mat.SAND, mat.SAND, mat.SOIL, mat.SAND],
        [mat.CROP, mat.FALLOW, mat.GRASS, mat.CROP],
        [mat.SAND, mat.SOIL, mat.GRAVEL, mat.SAND],
    ],
    np.uint8,
)


@dataclass(frozen=True)
class Noise:
    """Shared noise planes (height, width), each in [-1, 1): features of ~90, 14, 3 and 1 metres."""

    slow: F32
    mid: F32
    fine: F32
    grain: F32


@dataclass(frozen=True)
class Axis:
    """Position of each pixel along one grid direction."""

    cell: NDArray[np.int32]  # superblock relative to the tables
    frac: F32  # 0..1 across it
    high: Mask  # nearer to the far arterial than to the near one
    arterial_m: F32  # metres to the nearest arterial's axis


def surface(town: Town, frame: Frame, blocks: Blocks, noise: Noise) -> tuple[NDArray[np.uint8], F32]:
    """Return (material, tone) of each pixel; tone is the brightness of its sub-block, about -1..1."""
    u, v, river = _axes(town, frame, blocks)
    cell = v.cell * np.int32(blocks.ni) + u.cell
    half_u = np.take(blocks.half_u, v.cell * np.int32(blocks.ni + 1) + u.cell + u.high)
    half_v = np.take(blocks.half_v, cell + v.high * np.int32(blocks.ni))
    bu, local_u = _local(u, np.take(blocks.n_u.astype(np.float32), cell))
    bv, local_v = _local(v, np.take(blocks.n_v.astype(np.float32), cell))
    street = np.take(blocks.street, cell)
    sub = cell * np.int32(16) + bv * np.int32(4) + bu
    ground = _GROUND[blocks.sub_use, (draw(blocks.sub_hash, 1) * 4).astype(np.int64)]
    out, tone = np.take(ground, sub), np.take(draw(blocks.sub_hash, 2) * 2 - 1, sub)
    _country(out, noise)
    _rows(tone, out, blocks, v.frac)
    _lake(out, tone, blocks, cell, u, v, noise)
    river += noise.mid * 3.0
    bank = town.river_half_m + 9.0
    np.copyto(out, np.uint8(mat.GRASS), where=river < bank + 6.0 * noise.slow)
    np.copyto(out, np.uint8(mat.BEACH), where=river < town.river_half_m + 1.2 + 4.0 * noise.slow)
    kerb = np.minimum(local_u, local_v)
    kerb -= street
    kerb[street == 0] = BLOCK_M
    np.copyto(out, np.uint8(mat.WALK), where=(kerb < WALK_M) & (river > bank))
    np.copyto(out, np.uint8(mat.STREET), where=(kerb < 0) & (river > bank - 4.0))
    wet = river < town.river_half_m
    np.copyto(out, np.uint8(mat.RIVER), where=wet)
    np.copyto(tone, _shallows(river / np.float32(town.river_half_m)), where=wet)
    _arterials(out, u, v, half_u, half_v)
    return out, tone


def _axes(town: Town, frame: Frame, blocks: Blocks) -> tuple[Axis, Axis, F32]:
    cols, rows, ix, fx, iy, fy = lattice(frame, NODE_M)
    xs, ys = cols[None, :] * NODE_M, rows[:, None] * NODE_M
    wu, wv = (w.astype(np.float32) for w in town.warp(xs, ys))
    river = interpolate(town.river_m(xs, ys).astype(np.float32), ix, fx, iy, fy)
    cos, sin = town.turn
    u = _axis(interpolate(wu, ix, fx, iy, fy), frame.x * cos, frame.y * sin, blocks.i0)
    v = _axis(interpolate(wv, ix, fx, iy, fy), frame.x * -sin, frame.y * cos, blocks.j0)
    return u, v, river


def _axis(warp_m: F32, along_x: F64, along_y: F64, first: int) -> Axis:
    # Whole superblocks are counted in integers, which leaves to float32 a small number that does not depend
    # on the window.
    whole_x, part_x = _split(along_x / BLOCK_M)
    whole_y, part_y = _split(along_y / BLOCK_M)
    warp_m *= 1.0 / BLOCK_M
    warp_m += part_x
    warp_m += part_y[:, None]
    whole = np.floor(warp_m)
    frac = warp_m
    frac -= whole
    cell = whole.astype(np.int32)
    cell += whole_x - np.int32(first)
    cell += whole_y[:, None]
    high = frac >= 0.5
    return Axis(cell, frac, high, np.minimum(frac, 1.0 - frac) * np.float32(BLOCK_M))


def _split(t: F64) -> tuple[NDArray[np.int32], F32]:
    whole = np.floor(t)
    return whole.astype(np.int32), (t - whole).astype(np.float32)


def _local(axis: Axis, n: F32) -> tuple[NDArray[np.int32], F32]:
    """Return the sub-block number, and the metres to the axis of the nearest local street (large if none)."""
    sub = axis.frac * n
    index = np.minimum(sub.astype(np.int32), 3)
    line = np.floor(sub + 0.5)
    off = np.abs(sub - line) * (BLOCK_M / n)
    off[(line == 0) | (line == n)] = BLOCK_M  # the arterials
    return index, off


def _country(out: NDArray[np.uint8], noise: Noise) -> None:
    """Draw paths and bare patches into grass, and gravel and tracks into sand."""
    near_level = np.abs(noise.slow - 0.1)
    lawn = (out == mat.GRASS) | (out == mat.DRY_GRASS)
    sand = out == mat.SAND
    np.copyto(out, np.uint8(mat.DRY_GRASS), where=lawn & (noise.slow > 0.42))
    np.copyto(out, np.uint8(mat.SOIL), where=lawn & (noise.mid < -0.68))
    np.copyto(out, np.uint8(mat.WALK), where=lawn & (near_level < 0.02))
    patch = noise.slow * 0.8 + noise.mid * 0.35 + noise.fine * 0.14 + noise.grain * 0.1
    np.copyto(out, np.uint8(mat.GRAVEL), where=sand & (patch > 0.48))
    np.copyto(out, np.uint8(mat.SOIL), where=sand & (patch < -0.46))
    np.copyto(out, np.uint8(mat.TRACK), where=sand & (near_level < 0.024))


def _rows(tone: F32, out: NDArray[np.uint8], blocks: Blocks, fv: F32) -> None:
    """Draw rows of crops, about three metres apart, along the parcels."""
    if not (blocks.use == FIELD).any():
        return
    crop = np.flatnonzero((out == mat.CROP) | (out == mat.FALLOW))
    turn = fv.ravel()[crop] * np.float32(BLOCK_M / 3.2)
    tone.ravel()[crop] += 5.0 * np.abs(turn - np.floor(turn) - 0.5) - 1.25


def _shallows(t: F32) -> F32:
    """Return the brightness of water: dark in the middle (t = 0), bright at the shore (t = 1)."""
    t = t * t
    return 7.0 * t * t - 2.0


def _lake(
    out: NDArray[np.uint8], tone: F32, blocks: Blocks, cell: Ints, u: Axis, v: Axis, noise: Noise
) -> None:
    if not blocks.pond.any():
        return
    size = np.take(blocks.pond, cell)
    if not size.any():
        return
    a, b = 2.0 * u.frac - 1.0, 2.0 * v.frac - 1.0
    a *= a
    b *= b
    r2 = a
    r2 += b
    edge = size * (1.0 + 0.6 * noise.slow + 0.12 * noise.mid)
    np.copyto(out, np.uint8(mat.BEACH), where=r2 < edge * 1.12)
    kinds = np.array([mat.LAKE_A, mat.LAKE_B, mat.LAKE_C], np.uint8)
    kind = kinds[(draw(blocks.sub_hash[:, :, 0, 0], 5) * 3).astype(np.int64)]
    wet = np.flatnonzero(r2 < edge)
    out.ravel()[wet] = np.take(kind, cell.ravel()[wet])
    tone.ravel()[wet] = _shallows(r2.ravel()[wet] / edge.ravel()[wet])


def _arterials(out: NDArray[np.uint8], u: Axis, v: Axis, half_u: F32, half_v: F32) -> None:
    """Draw sidewalk, carriageway and median, which become bridges over water."""
    inside_u, inside_v = half_u - u.arterial_m, half_v - v.arterial_m
    inside = np.maximum(np.where(half_u > 0, inside_u, -BLOCK_M), np.where(half_v > 0, inside_v, -BLOCK_M))
    np.copyto(out, np.uint8(mat.WALK), where=inside > -WALK_M)
    np.copyto(out, np.uint8(mat.ASPHALT), where=inside > 0)
    # The median stops at crossings.
    wide_u = (half_u > 12) & (u.arterial_m < 2.2) & (inside_v < -4.0)
    wide_v = (half_v > 12) & (v.arterial_m < 2.2) & (inside_u < -4.0)
    np.copyto(out, np.uint8(mat.DRY_GRASS), where=wide_u | wide_v)
    lane_u = (half_u < 12) & (u.arterial_m < 0.28) & (inside_v < -4.0) & (half_u > 0)
    lane_v = (half_v < 12) & (v.arterial_m < 0.28) & (inside_u < -4.0) & (half_v > 0)
    np.copyto(out, np.uint8(mat.MARKING), where=lane_u | lane_v)
