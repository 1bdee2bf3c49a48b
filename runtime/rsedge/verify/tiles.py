"""Tiles to compare models on, read one at a time from a raster or sample scenes, as often as needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Protocol, TypeVar
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from rsedge.engine.sliding_window import reflect
from rsedge.errors import InputError, ModelError
from rsedge.model.bundle import Bundle
from rsedge.model.manifest import Manifest
from rsedge.raster import BandPlan, RasterReader
from rsedge.tiling.axes import Tiling
from rsedge.tiling.window import Window
from rsedge_sample import SampleScene

REFERENCE_NAME = "reference.npz"
T = TypeVar("T")
COARSE = 8  # step in pixels between the scores of the reference answer
MOST_ARRAY_BYTES = 1 << 30  # of one unpacked array of the reference answer
HEADERS: Mapping[tuple[int, int], Callable[[Any], tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
SEED = 900  # of the first scene; none of these scenes was used for training or calibration


@dataclass(frozen=True)
class Tile:
    """Pixels for a model, (bands, tile, tile), and a mask of those with data, (tile, tile)."""

    pixels: NDArray[Any]
    valid: NDArray[np.bool_]


class Tiles(Protocol):
    """An iterable that yields the same tiles each time."""

    what: str  # description for printing

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Tile]: ...


@dataclass(frozen=True)
class ReferenceAnswer:
    """Fp32 answer of the exporting machine: ``reference.npz`` of a bundle."""

    pixels: NDArray[Any]  # (n, bands, tile, tile), as stored
    classes: NDArray[np.uint8]  # (n, tile, tile)
    scores: NDArray[np.float32]  # (n, classes, tile / COARSE, tile / COARSE): every COARSE-th row and column

    @classmethod
    def of(cls, bundle: Bundle) -> ReferenceAnswer | None:
        """Read the answer of ``bundle``; None if it has none. Raises ModelError if the file is damaged."""
        if REFERENCE_NAME not in bundle.artifacts or bundle.path == bundle.artifact:
            return None
        path, m, data = bundle.path / REFERENCE_NAME, bundle.manifest, bundle.read(REFERENCE_NAME)
        coarse = -(-m.tile // COARSE)
        shapes = {
            "pixels": (len(m.bands), m.tile, m.tile),
            "classes": (m.tile, m.tile),
            "scores": (len(m.classes), coarse, coarse),
        }
        kinds = {"pixels": (m.dtype,), "classes": ("uint8",), "scores": ("float16", "float32")}
        try:
            with ZipFile(BytesIO(data)) as archive:
                count, *others = (_tiles_of(archive, name, shapes[name], kinds[name]) for name in shapes)
                if others != [count, count]:
                    raise ValueError(f"it holds {count}, {others[0]} and {others[1]} tiles")  # noqa: TRY301
                arrays = {name: _array(archive, name) for name in shapes}
        except Exception as error:  # numpy and zipfile raise a dozen unrelated types
            raise ModelError(f"{path} cannot be read ({error}); export the bundle again") from error
        return cls(arrays["pixels"], arrays["classes"], arrays["scores"].astype(np.float32))


def _tiles_of(archive: ZipFile, name: str, shape: tuple[int, ...], kinds: tuple[str, ...]) -> int:
    """Return the number of tiles in an array's header, without unpacking it.

    Raises ValueError if the array does not match, is empty or too large.
    """
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version not in HEADERS:
            raise ValueError(f"{name} has version {version}")
        found, _, dtype = HEADERS[version](file)
    if found[1:] != shape or not found or dtype.name not in kinds:
        raise ValueError(f"{name} is {dtype.name} {found}, but its manifest says {kinds[0]} (n, *{shape})")
    if not 1 <= found[0] * math.prod(shape) * dtype.itemsize <= MOST_ARRAY_BYTES:
        raise ValueError(f"{name} has {found[0]} tiles")
    return int(found[0])


def _array(archive: ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        return array


class SampleTiles:
    """``count`` tiles, one per sample scene, then the tiles of the reference answer."""

    def __init__(self, manifest: Manifest, count: int, answer: ReferenceAnswer | None) -> None:
        self._tile, self._count = manifest.tile, count if manifest.takes_rgb8 else 0
        self._pixels: NDArray[Any] = answer.pixels if answer else np.empty(0)
        if not len(self):
            raise InputError(
                "the model does not take 8-bit RGB, which sample scenes are, and its bundle holds no tiles. Give a "
                "raster to compare on with --raster."
            )
        parts = [f"{self._count} of sample scenes"] * bool(self._count)
        parts += [f"{len(self._pixels)} of {REFERENCE_NAME}"] * bool(len(self._pixels))
        self.what = " and ".join(parts)

    def __len__(self) -> int:
        return self._count + len(self._pixels)

    def __iter__(self) -> Iterator[Tile]:
        side = self._tile
        for seed in range(SEED, SEED + self._count):
            pixels, _ = SampleScene(side, side, seed).render(Window(0, 0, side, side))
            yield Tile(pixels, np.ones((side, side), np.bool_))
        for stored in self._pixels:
            yield Tile(stored, np.ones((side, side), np.bool_))


class RasterTiles:
    """At most ``count`` windows with data, spread over a raster and read when needed.

    Raises InputError if the raster has no valid pixel.
    """

    def __init__(self, reader: RasterReader, plan: BandPlan, manifest: Manifest, count: int) -> None:
        self._reader, self._plan, self._manifest = reader, plan, manifest
        self._windows: list[Window] = []
        grid = reader.grid
        for window in spread(list(Tiling.of(grid.height, grid.width, manifest.tile, 0.0, "crop"))):
            if reader.read(window, plan)[1].any():
                self._windows.append(window)
            if len(self._windows) == count:
                break
        if not self._windows:
            raise InputError(f"{reader.path} has no valid pixel, so nothing can be compared on it")
        self.what = f"{len(self)} of {reader.path}"

    def __len__(self) -> int:
        return len(self._windows)

    def __iter__(self) -> Iterator[Tile]:
        side = self._manifest.tile
        fill = np.array(self._manifest.fill, self._manifest.dtype)[:, None, None]
        for window in self._windows:
            pixels, known = self._reader.read(window, self._plan)
            valid = np.zeros((side, side), np.bool_)  # pixels mirrored to fill the tile are not compared
            valid[: known.shape[0], : known.shape[1]] = known
            yield Tile(reflect(np.where(known, pixels, fill), side), valid)


def spread(items: list[T]) -> Iterator[T]:
    """Yield all items in an order whose first n, for every n, spread evenly over the list."""
    count = len(items)
    # Steps of the golden ratio fall into the widest gaps; a step coprime to the count meets each item once.
    step = max(1, round(count * 0.618))
    while math.gcd(step, count) != 1:
        step += 1
    for i in range(count):
        yield items[(i * step + count // 2) % count]  # the middle first, because corners are often empty
