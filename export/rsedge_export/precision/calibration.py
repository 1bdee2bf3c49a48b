"""Calibration tiles: imagery similar to the model's, read one tile at a time and as often as needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rsedge.errors import InputError
from rsedge.model.manifest import Manifest
from rsedge.raster import RasterReader, bounded_cache, plan_bands
from rsedge.raster.band_plan import AS_TAGGED, Masking
from rsedge.score.pairs import match_pairs
from rsedge.tiling.window import Window
from rsedge.verify.tiles import RasterTiles, spread
from rsedge_sample import SampleScene
from rsedge_train.data.base import masking_of
from rsedge_train.data.layouts import open_dataset
from rsedge_train.run.folder import Run

SAMPLES = "samples"  # instead of a path: procedural sample scenes
FIRST_SEED, SCENE_TILES = (
    2000,
    4,
)  # scenes used neither for training nor for comparison; a scene is this many tiles high and wide
LEAST_TILES = 16
HELD_EVERY = 5  # every 5th tile sets no scale; these alternately choose the layers and judge the files


@dataclass(frozen=True)
class Imagery:
    """Calibration imagery and the number of tiles.

    ``rasters`` are read with ``bands`` (1-based), ``scale`` and ``masking`` as by ``rsedge infer``; ``drawn`` of the
    ``tiles`` come from sample scenes.
    """

    rasters: tuple[Path, ...]
    drawn: int
    tiles: int
    bands: tuple[int, ...] | None = None
    scale: tuple[float, float] | None = None
    masking: Masking = AS_TAGGED

    def __post_init__(self) -> None:
        if self.tiles < LEAST_TILES:
            raise InputError(f"{self.tiles} calibration tiles: too few. Give at least {LEAST_TILES}")


def imagery_of(
    paths: Sequence[str],
    run: Run | None,
    tiles: int,
    bands: tuple[int, ...] | None = None,
    scale: tuple[float, float] | None = None,
    masking: Masking = AS_TAGGED,
) -> Imagery | None:
    """Return imagery of ``paths`` (rasters, folders, or "samples"), or of the ``run``'s training data if empty.

    Returns None if the run's data was not found. Raises InputError if a path holds no raster.
    """
    if not paths:
        return _training_imagery(run, tiles) if run else None
    rasters = [raster for path in paths if path != SAMPLES for raster in _rasters(Path(path))]
    drawn = tiles * paths.count(SAMPLES) // len(paths)
    return Imagery(tuple(rasters), drawn, tiles, bands, scale, masking)


class TooFewTilesError(InputError):
    """The imagery has too few tiles to calibrate on."""


class CalibrationTiles:
    """Context manager that yields the tiles (bands, tile, tile) of an ``Imagery``.

    Raises InputError if a raster's bands or dtype do not match the model, or if too few tiles hold data.
    """

    def __init__(self, imagery: Imagery, manifest: Manifest) -> None:
        if imagery.drawn and not manifest.takes_rgb8:
            raise InputError(
                "the sample scenes are 8-bit RGB, but the model is not. Give matching imagery with --calibration"
            )
        self.imagery, self._manifest, self._parts = imagery, manifest, list[RasterTiles]()
        self._seeds = range(FIRST_SEED, FIRST_SEED + imagery.drawn)
        wanted = imagery.tiles - imagery.drawn
        rasters = list(spread(list(imagery.rasters)))[:wanted]
        blocks_bytes = 0
        with ExitStack() as stack:
            for i, path in enumerate(rasters):
                reader = stack.enter_context(RasterReader(path))
                blocks_bytes = max(blocks_bytes, reader.row_of_blocks_bytes)
                plan = plan_bands(reader, manifest, imagery.bands, imagery.scale, imagery.masking)
                share = wanted * (i + 1) // len(rasters) - wanted * i // len(rasters)
                try:
                    self._parts.append(RasterTiles(reader, plan, manifest, share))
                except InputError:  # no valid pixel in this raster, but others may have some
                    if len(rasters) == 1:
                        raise
            stack.enter_context(bounded_cache(blocks_bytes))
            self._stack = stack.pop_all()
        if len(self) < LEAST_TILES:
            self._stack.close()
            raise TooFewTilesError(
                f"the calibration data hold only {len(self)} tiles of {manifest.tile} px with data, of {LEAST_TILES} "
                "required. Give more with --calibration, or skip reduced precisions with --precision fp32"
            )

    def __len__(self) -> int:
        return sum(map(len, self._parts)) + len(self._seeds)

    @property
    def what(self) -> str:
        """Return a description of the tiles."""
        found, drawn = sum(map(len, self._parts)), len(self._seeds)
        parts = [f"{found} tiles of {len(self._parts)} rasters"] * bool(found)
        return " and ".join([*parts, *[f"{drawn} of sample scenes"] * bool(drawn)])

    def __enter__(self) -> CalibrationTiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def all(self) -> Iterator[NDArray[Any]]:
        """Yield every tile."""
        for part in self._parts:
            for tile in part:
                yield tile.pixels
        side, tall = self._manifest.tile, self._manifest.tile * SCENE_TILES
        for i, seed in enumerate(
            self._seeds
        ):  # a small scene has few pixels of some classes, so cut tiles from large scenes
            row, col = divmod(i * 7 % SCENE_TILES**2, SCENE_TILES)
            yield SampleScene(tall, tall, seed).render(Window(row * side, col * side, side, side))[0]

    def scaling(self) -> Iterator[NDArray[Any]]:
        """Yield the tiles that set the scales."""
        return (tile for i, tile in enumerate(self.all()) if i % HELD_EVERY)

    def choosing(self) -> Iterator[NDArray[Any]]:
        """Yield half of the held tiles, which decide the layers left float."""
        return (tile for i, tile in enumerate(self.all()) if i % (2 * HELD_EVERY) == 0)

    def judging(self) -> Iterator[NDArray[Any]]:
        """Yield the other half of the held tiles, which had no influence on scales or layers."""
        return (tile for i, tile in enumerate(self.all()) if i % (2 * HELD_EVERY) == HELD_EVERY)

    def some(self, count: int) -> list[NDArray[Any]]:
        """Return at most ``count`` of the tiles that set the scales, from the first raster to the last."""
        step = max(1, len(self) * (HELD_EVERY - 1) // HELD_EVERY // count)
        return list(islice(self.scaling(), step // 2, None, step))[:count]


def _training_imagery(run: Run, tiles: int) -> Imagery | None:
    """Return the training split of the run's data, with sample scenes in the share used for training."""
    source = run.data.get("source")
    share = float(run.data.get("sample_share") or 0)
    if source is None or source["path"] is None:  # a run without --data records this, and drew its scenes
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
        masking=masking_of(source.get("nodata"), source.get("alpha")),
        eroded=bool(source["eroded"]),
    )
    images = tuple(files.image for files in dataset.train)
    return Imagery(
        images, round(tiles * share), tiles, dataset.bands.indexes, dataset.bands.scale, dataset.bands.masking
    )


def _rasters(path: Path) -> Sequence[Path]:
    if not path.is_dir():
        return (path,)
    found = match_pairs(path)
    rasters = (*(image for image, _ in found.pairs), *found.images, *found.loose)
    if not rasters:
        raise InputError(
            f"{path} holds no raster to calibrate on. Give GeoTIFFs, or a folder with images/X.*"
        )
    return rasters


def _tuple(values: Any) -> Any:
    return None if values is None else tuple(values)
