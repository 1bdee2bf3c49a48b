"""Colour: ground, shadows, cars, canopies and roofs, then the look of the sensor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rsedge_sample import _materials as mat
from rsedge_sample import _objects as objects
from rsedge_sample._ground import Noise, surface
from rsedge_sample._noise import F32, U32, Frame, Ints, draw, hash_of, unit, value_noise
from rsedge_sample._raster import Boxes, cover, footprint, offsets, shadow
from rsedge_sample._town import Town
from rsedge_sample._trees import Trees, grow

U8 = NDArray[np.uint8]

_SHADE = np.array([0.43, 0.47, 0.54], np.float32)  # skylight is blue


def render(town: Town, palette: mat.Palette, frame: Frame) -> tuple[U8, U8]:
    """Render (image (3, h, w), labels (h, w)) of a frame without its outermost pixels, which the blur needs."""
    noise = _noise(town, frame)
    blocks = objects.blocks_near(town, frame)
    lot = objects.lots(town, frame, blocks)
    material, tone = surface(town, frame, blocks, noise)
    flat, box, _, _ = footprint(frame, patches := objects.patches(lot))
    material.ravel()[flat] = patches.kind.astype(np.uint8)[box]
    image = _ground_colour(palette, material, tone, noise, frame)
    cars, built, trees = objects.cars(lot), objects.buildings(town, lot), grow(town, frame, blocks)
    shade = _shadows(town, frame, built, trees)
    _darken(image, shade | _under_cars(town, frame, cars))
    _cars(frame, cars, shade, image)
    _canopies(town, palette, frame, trees, noise, shade, image, material)
    _roofs(town, frame, built, noise, image, material)
    labels = np.take(mat.LABEL, material[1:-1, 1:-1])
    return _sensor(town, frame, image), labels


def _noise(town: Town, frame: Frame) -> Noise:
    # A pixel averages over details smaller than itself.
    fade = min(1.0, 1.4 / frame.gsd)
    grain = value_noise(frame, town.key(93), 1.1)
    grain *= fade
    return Noise(
        value_noise(frame, town.key(90), 85.0),
        value_noise(frame, town.key(91), 14.0),
        value_noise(frame, town.key(92), 3.2),
        grain,
    )


def _ground_colour(palette: mat.Palette, material: U8, tone: F32, noise: Noise, frame: Frame) -> F32:
    texture = noise.mid * 0.45
    texture += noise.fine * 0.5
    texture += noise.grain * 0.6
    texture += tone * 0.35
    texture *= np.take(palette.rough, material)
    slow = noise.slow + noise.mid * 0.4
    image = np.empty((3, frame.height, frame.width), np.float32)
    for channel in range(3):
        plane = np.take(np.ascontiguousarray(palette.slow[:, channel]), material)
        plane *= slow
        plane += texture
        plane += np.take(np.ascontiguousarray(palette.base[:, channel]), material)
        image[channel] = plane
    return image


def _darken(image: F32, shade: NDArray[np.bool_]) -> None:
    dark = np.flatnonzero(shade)
    for channel, light in zip(image, _SHADE, strict=True):
        channel.ravel()[dark] *= light


def _under_cars(town: Town, frame: Frame, cars: Boxes) -> NDArray[np.bool_]:
    sx, sy, length = town.sun
    out = np.zeros(frame.height * frame.width, bool)
    out[shadow(frame, cars, sx * length, sy * length)] = True
    return out


def _cars(frame: Frame, cars: Boxes, shade: NDArray[np.bool_], image: F32) -> None:
    flat, box, _, _ = footprint(frame, cars)
    dim = shade[flat]
    for channel, light in enumerate(_SHADE):
        colour = np.ascontiguousarray(cars.rgb[:, channel])[box]
        image[channel].ravel()[flat] = colour * np.where(dim, light, np.float32(1))


def _shadows(town: Town, frame: Frame, built: Boxes, trees: Trees) -> NDArray[np.bool_]:
    """Return a flat mask of the pixels in the shadow of buildings and trees."""
    sx, sy, length = town.sun
    out = np.zeros(frame.height * frame.width, bool)
    out[shadow(frame, built, sx * length, sy * length)] = True
    x, y = trees.x + trees.height * (sx * length * 0.6), trees.y + trees.height * (sy * length * 0.6)
    r = trees.radius.astype(np.float64)
    box, row, col = cover(frame, x - r, y - r, x + r, y + r)
    dx, dy = offsets(frame, x, y, box, row, col)
    inside = dx * dx + dy * dy < (trees.radius * trees.radius)[box]
    out[(row * frame.width + col)[inside]] = True
    return out


def _canopies(
    town: Town, palette: mat.Palette, frame: Frame, trees: Trees, noise: Noise,
    shade: NDArray[np.bool_], image: F32, material: U8,
) -> None:  # fmt: skip
    r = trees.radius.astype(np.float64) * 1.2
    box, row, col = cover(frame, trees.x - r, trees.y - r, trees.x + r, trees.y + r)
    dx, dy = offsets(frame, trees.x, trees.y, box, row, col)
    flat = row * frame.width + col
    radius = trees.radius[box]
    d2 = (dx * dx + dy * dy) / (radius * radius)
    ragged = 1.0 + 0.38 * noise.fine.ravel()[flat]
    keep = np.flatnonzero(d2 < ragged)
    flat, box, d2 = flat[keep], box[keep], d2[keep]
    sx, sy, _ = town.sun
    lit = (dx[keep] * np.float32(-sx) + dy[keep] * np.float32(-sy)) / radius[keep]
    light = 1.02 + 0.42 * lit - 0.2 * d2 + 0.32 * noise.grain.ravel()[flat]
    light *= (0.72 + 0.6 * trees.tone)[box]
    light *= np.where(shade[flat], np.float32(0.62), np.float32(1))
    hue = draw(hash_of(town.key(95), (trees.tone * 65536).astype(np.int64)), 0)[box] - 0.5
    for channel, lean in enumerate((16.0, 8.0, -4.0)):
        colour = float(palette.base[mat.CANOPY, channel])
        image[channel].ravel()[flat] = light * (colour + lean * hue)
    material.ravel()[flat] = mat.CANOPY


def _roofs(town: Town, frame: Frame, built: Boxes, noise: Noise, image: F32, material: U8) -> None:
    flat, box, p, q = footprint(frame, built)
    # If two parts overlap, the later one is on top: keep each pixel's last entry.
    top = np.full(frame.height * frame.width, -1, np.int32)
    entry = np.arange(len(flat), dtype=np.int32)
    top[flat] = entry
    keep = np.flatnonzero(top[flat] == entry)
    flat, box, p, q = flat[keep], box[keep], p[keep], q[keep]
    light = _roof_light(town, built, box, p, q)
    light += (
        0.035 * noise.fine.ravel()[flat] + 0.05 * noise.grain.ravel()[flat] + 0.04 * noise.mid.ravel()[flat]
    )
    for channel in range(3):
        image[channel].ravel()[flat] = light * np.ascontiguousarray(built.rgb[:, channel])[box]
    material.ravel()[flat] = mat.ROOF


def _roof_light(town: Town, built: Boxes, box: Ints, p: F32, q: F32) -> F32:
    """Return the brightness of roof pixels, about 1: slopes towards and from the sun, edges, plant on the roof."""
    sx, sy, _ = town.sun
    sun_p = (-(sx * built.ax + sy * built.ay)).astype(np.float32)[box]
    sun_q = (-(sy * built.ax - sx * built.ay)).astype(np.float32)[box]
    half_p, half_q = built.half_p.astype(np.float32), built.half_q.astype(np.float32)
    in_p, in_q = half_p[box] - np.abs(p), half_q[box] - np.abs(q)
    edge = np.minimum(in_p, in_q)
    face_p, face_q = np.where(p > 0, sun_p, -sun_p), np.where(q > 0, sun_q, -sun_q)
    kind = built.kind[box]
    along = (half_p > half_q)[box]
    gable = np.where(along, face_q, face_p)
    hip = np.where(in_p < in_q, face_p, face_q)
    light = np.ones_like(p)
    light += np.where(kind == objects.GABLE, 0.24 * gable, 0) + np.where(kind == objects.HIP, 0.24 * hip, 0)
    # Corrugation of sheds across their length, with strips of skylight.
    turn = np.where(along, p, q) * np.float32(0.16)
    ridge = np.abs(turn - np.floor(turn) - 0.5)
    light += np.where(kind == objects.SHED, 0.16 * (ridge - 0.25) + 0.07 * gable, 0).astype(np.float32)
    flat_roof = kind == objects.FLAT
    parapet = flat_roof & (edge < 0.7)
    light += np.where(parapet, 0.10 * np.where(in_p < in_q, -face_p, -face_q) + 0.05, 0).astype(np.float32)
    # Part of a flat roof, a terrace, has another coating.
    cut = (draw(_ident(town, built), 0) * 2 - 1).astype(np.float32) * half_p
    light += np.where(flat_roof & (p > cut[box]), np.float32(0.09), np.float32(-0.03))
    plant, cast = _plant(town, built, box, p, q, sun_p, sun_q)
    on = flat_roof & (edge > 1.5)
    light += np.where(on, plant, 0)
    light *= np.where(on & cast, np.float32(0.62), np.float32(1))
    return light


def _ident(town: Town, built: Boxes) -> U32:
    """Return a hash for each roof, from its position."""
    return hash_of(town.key(96), *(np.floor(c * 8).astype(np.int64) for c in (built.x, built.y)))


def _plant(
    town: Town, built: Boxes, box: Ints, p: F32, q: F32, sun_p: F32, sun_q: F32
) -> tuple[F32, NDArray[np.bool_]]:
    """Return the brightness added by air conditioners, tanks and stair heads, and their shadows."""
    owner = _ident(town, built)[box]

    def cells(a: F32, b: F32) -> F32:
        a, b = a * np.float32(0.3), b * np.float32(0.3)
        ca, cb = np.floor(a), np.floor(b)
        r = unit(hash_of(town.key(97), ca.astype(np.int64), cb.astype(np.int64), owner))
        filled = (r < 0.16) & (np.abs(a - ca - 0.5) < 0.3) & (np.abs(b - cb - 0.5) < 0.36)
        return np.where(filled, (r - 0.06) * np.float32(2.2), np.float32(0))

    plant = cells(p, q)
    cast = (cells(p + 1.3 * sun_p, q + 1.3 * sun_q) != 0) & (plant == 0)
    return plant, cast


def _sensor(town: Town, frame: Frame, image: F32) -> U8:
    """Apply point spread, haze, tint, noise and rounding; removes one pixel on each side."""
    spread = town.number(85, 0.08, 0.2)
    haze, gain = town.number(86, 2, 26), town.number(87, 0.86, 1.04)
    # Contrast about a middle grey, because image products are stretched differently.
    contrast = town.number(83, 0.95, 1.32)
    tint = [gain * town.number(88 + c, 0.97, 1.03) for c in range(3)]
    inner = Frame(frame.row + 1, frame.col + 1, frame.height - 2, frame.width - 2, frame.gsd)
    rows = np.arange(inner.row, inner.row + inner.height)[:, None]
    cols = np.arange(inner.col, inner.col + inner.width)[None, :]
    bits = hash_of(town.key(94), rows, cols)
    level = town.number(84, 4.0, 8.0) / 256.0
    out = np.empty((3, inner.height, inner.width), np.uint8)
    for c in range(3):
        plane = image[c]
        wide = plane[:, :-2] + plane[:, 2:]
        wide *= spread
        wide += plane[:, 1:-1] * (1 - 2 * spread)
        sharp = wide[:-2] + wide[2:]
        sharp *= spread
        sharp += wide[1:-1] * (1 - 2 * spread)
        sharp *= tint[c] * (1 - haze / 400.0) * contrast
        sharp += (haze * (0.85 + 0.15 * c) - 118.0) * contrast + 118.5
        # The sum of two bytes of the hash is triangular noise; one byte is common to the channels.
        grain = (bits & np.uint32(255)) + ((bits >> np.uint32(8 * (c + 1))) & np.uint32(255))
        sharp += (grain.astype(np.float32) - 255.0) * level
        np.clip(sharp, 0, 255, out=sharp)
        out[c] = sharp.astype(np.uint8)
    return out
