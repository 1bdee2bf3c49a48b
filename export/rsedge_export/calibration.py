"""Tiles to calibrate on: imagery like what the model will meet, read one tile at a time and as often as wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rsedge.check_tiles import RasterTiles, spread
from rsedge.errors import InputError
from rsedge.labels import match_pairs
from rsedge.manifest import Manifest
from rsedge.raster import RasterReader, plan_bands
from rsedge.sample import SampleScene
from rsedge.window import Window
from rsedge_train.datasets.layouts import open_dataset
from rsedge_train.run_folder import Run

SAMPLES = "samples"  # in place of a path: procedural sample scenes
FIRST_SEED, SCENE_TILES = (
    2000,
    4,
)  # scenes nobody trained on or compares on; a scene is as many tiles high and wide
LEAST_TILES = 16
HELD_EVERY = 5  # every so many-th tile sets no scale: it judges the layers chosen


@dataclass(frozen=True)
class Imagery:
    """What to calibrate on, of what, and how many tiles of it.

    ``rasters`` are read with ``bands`` (1-based) and ``scale`` as by ``rsedge infer``; ``drawn`` of the
    ``tiles`` are of sample scenes.
    """

    rasters: tuple[Path, ...]
    drawn: int
    tiles: int
    bands: tuple[int, ...] | None = None
    scale: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.tiles < LEAST_TILES:
            raise InputError(f"{self.tiles} calibration tiles are too few; give at least {LEAST_TILES}")

    @property
    def what(self) -> str:
        """For people."""
        parts = [f"{self.tiles - self.drawn} tiles of {len(self.rasters)} rasters"] * bool(self.rasters)
        return " and ".join([*parts, *[f"{self.drawn} of sample scenes"] * bool(self.drawn)])


def imagery_of(
    paths: Sequence[str],
    run: Run | None,
    tiles: int,
    bands: tuple[int, ...] | None = None,
    scale: tuple[float, float] | None = None,
) -> Imagery | None:
    """Imagery of ``paths`` (rasters, folders, or "samples"); without any, what the ``run`` was trained on.

    None where the run's data are no longer there. Raises InputError where a path holds no raster.
    """
    if not paths:
        return _training_imagery(run, tiles) if run else None
    rasters = [raster for path in paths if path != SAMPLES for raster in _rasters(Path(path))]
    drawn = tiles * paths.count(SAMPLES) // len(paths)
    return Imagery(tuple(rasters), drawn, tiles, bands, scale)


class CalibrationTiles:
    """A context manager that gives the tiles (bands, tile, tile) of an ``Imagery``, ``held`` or not.

    Raises InputError where a raster's bands or dtype do not fit the model, or too few tiles hold data.
    """

    def __init__(self, imagery: Imagery, manifest: Manifest) -> None:
        self._manifest, self._parts = manifest, list[RasterTiles]()
        self._seeds = range(FIRST_SEED, FIRST_SEED + imagery.drawn)
        wanted = imagery.tiles - imagery.drawn
        rasters = list(spread(list(imagery.rasters)))[:wanted]
        with ExitStack() as stack:
            for i, path in enumerate(rasters):
                reader = stack.enter_context(RasterReader(path))
                plan = plan_bands(reader, manifest, imagery.bands, imagery.scale)
                share = wanted * (i + 1) // len(rasters) - wanted * i // len(rasters)
                try:
                    self._parts.append(RasterTiles(reader, plan, manifest, share))
                except InputError:  # no valid pixel: others may have some
                    if len(rasters) == 1:
                        raise
            self._stack = stack.pop_all()
        if len(self) < LEAST_TILES:
            self._stack.close()
            raise InputError(
                f"the calibration data hold {len(self)} tiles of {manifest.tile} px with data, needed are at least "
                f"{LEAST_TILES}; give more with --calibration, or leave INT8 out with --precision fp16"
            )

    def __len__(self) -> int:
        return sum(map(len, self._parts)) + len(self._seeds)

    def __enter__(self) -> CalibrationTiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def all(self) -> Iterator[NDArray[Any]]:
        """Every tile."""
        for part in self._parts:
            for tile in part:
                yield tile.pixels
        side, tall = self._manifest.tile, self._manifest.tile * SCENE_TILES
        for i, seed in enumerate(
            self._seeds
        ):  # a small scene has few pixels of some classes: cut from large ones
            row, col = divmod(i * 7 % SCENE_TILES**2, SCENE_TILES)
            yield SampleScene(tall, tall, seed).render(Window(row * side, col * side, side, side))[0]

    def scaling(self) -> Iterator[NDArray[Any]]:
        """Those that set the scales."""
        return (tile for i, tile in enumerate(self.all()) if i % HELD_EVERY)

    def held(self) -> Iterator[NDArray[Any]]:
        """Those that set none."""
        return (tile for i, tile in enumerate(self.all()) if i % HELD_EVERY == 0)


def _training_imagery(run: Run, tiles: int) -> Imagery | None:
    """The training split of the run's data, and sample scenes by the share it was trained with."""
    source = run.data.get("source")
    share = float(run.data.get("sample_share") or 0)
    if source is None:
        is_drawn = run.data.get("name") == SAMPLES
        return Imagery((), tiles, tiles) if is_drawn else None
    if not Path(source["path"]).is_dir():
        return None
    dataset = open_dataset(
        Path(source["path"]),
        val=tuple(source["val"]),
        test=tuple(source["test"]),
        classes=Path(source["classes"]) if source["classes"] else None,
        bands=_tuple(source["bands"]),
        band_names=_tuple(source["band_names"]),
        scale=_tuple(source["scale"]),
        eroded=bool(source["eroded"]),
    )
    images = tuple(files.image for files in dataset.train)
    return Imagery(images, round(tiles * share), tiles, dataset.bands.indexes, dataset.bands.scale)


def _rasters(path: Path) -> Sequence[Path]:
    if not path.is_dir():
        return (path,)
    found = match_pairs(path)
    rasters = (*(image for image, _ in found.pairs), *found.images, *found.loose)
    if not rasters:
        raise InputError(
            f"{path} holds no raster to calibrate on; give GeoTIFFs, or a folder with images/X.*"
        )
    return rasters


def _tuple(values: Any) -> Any:
    return None if values is None else tuple(values)
