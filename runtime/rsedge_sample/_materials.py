"""Surfaces: their classes, and their colours for a seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rsedge_sample._noise import F32
from rsedge_sample._town import Town

BUILDING, LAND, ROAD, VEGETATION, WATER = range(5)

(
    SAND, SOIL, GRAVEL, PAVED, CONCRETE, BEACH, TRACK, WALK,
    ASPHALT, STREET, MARKING,
    GRASS, DRY_GRASS, CROP, FALLOW,
    RIVER, LAKE_A, LAKE_B, LAKE_C, POOL,
    ROOF, CANOPY,
) = range(22)  # fmt: skip

LABEL: NDArray[np.uint8] = np.array(
    [LAND] * 8 + [ROAD] * 3 + [VEGETATION] * 4 + [WATER] * 5 + [BUILDING, VEGETATION], np.uint8
)

# (red, green, blue) at the mean; amplitude of the slow variation per channel; amplitude of the texture.
_LANDS = np.array(
    [
        [[204, 197, 187], [174, 164, 152], [162, 160, 157]],
        [[200, 178, 145], [166, 139, 108], [160, 151, 138]],
        [[188, 149, 115], [156, 116, 88], [152, 138, 124]],
        [[172, 157, 132], [134, 117, 95], [144, 140, 132]],
    ],
    np.float32,
)
_WATERS = np.array(
    [[42, 76, 104], [58, 88, 74], [70, 134, 138], [28, 36, 42], [66, 92, 104], [84, 98, 78]], np.float32
)
_ASPHALTS = np.array([[96, 95, 97], [84, 82, 84], [112, 108, 104], [104, 98, 92]], np.float32)
_FIXED = {
    MARKING: (168, 166, 158),
    GRASS: (88, 114, 64),
    DRY_GRASS: (128, 126, 84),
    CROP: (80, 108, 56),
    FALLOW: (118, 118, 70),
    POOL: (96, 182, 196),
    ROOF: (0, 0, 0),
    CANOPY: (56, 78, 46),
}


class Palette:
    """Look-up tables by material for one seed: ``base`` and ``slow`` (22, 3), ``rough`` (22,), 0..255."""

    def __init__(self, town: Town) -> None:
        rgb = np.zeros((len(LABEL), 3), np.float32)
        # The land's colours are interpolated between two palettes.
        t = town.number(70, 0.0, 2.999)
        land = _LANDS[int(t)] * (1 - t % 1) + _LANDS[int(t) + 1] * (t % 1)
        rgb[[SAND, SOIL, GRAVEL]] = land
        rgb[PAVED] = land[2] * 0.5 + 82
        rgb[CONCRETE] = land[2] * 0.3 + 128
        rgb[BEACH] = land[0] * 0.6 + 88
        rgb[TRACK] = land[0] * 0.55 + land[1] * 0.35
        rgb[WALK] = land[2] * 0.5 + 92
        asphalt = _ASPHALTS[int(town.number(71, 0, 3.999))]
        rgb[ASPHALT], rgb[STREET] = asphalt, asphalt * 0.8 + land[1] * 0.22
        order = np.argsort([town.number(72 + n) for n in range(len(_WATERS))])
        rgb[[RIVER, LAKE_A, LAKE_B, LAKE_C]] = _WATERS[order[:4]]
        for material, fixed in _FIXED.items():
            rgb[material] = fixed
        green = np.array([town.number(80, -10, 14), town.number(81, -6, 6), town.number(82, -8, 8)])
        rgb[[GRASS, DRY_GRASS, CROP, FALLOW, CANOPY]] += green.astype(np.float32)
        self.base: F32 = rgb
        self.slow: F32 = rgb * 0.10 + 2
        self.slow[:8] = rgb[:8] * np.array([0.10, 0.115, 0.135], np.float32)
        self.slow[GRASS : FALLOW + 1] = [17, 9, 9]
        self.slow[RIVER : LAKE_C + 1] = [6, 11, 10]
        self.rough: F32 = np.full(len(LABEL), 16, np.float32)
        self.rough[[PAVED, CONCRETE, WALK, BEACH]] = 11
        self.rough[[ASPHALT, STREET, MARKING]] = 9
        self.rough[GRASS : FALLOW + 1] = [15, 18, 13, 18]
        self.rough[RIVER : POOL + 1] = 5
