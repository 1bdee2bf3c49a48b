"""Procedural sample scenes as a data set, or added to one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rsedge.errors import InputError
from rsedge.raster import RasterReader
from rsedge.score.labels import ClassTable
from rsedge.score.pairs import LABEL_SUFFIX
from rsedge_sample.files import LANDCOVER, write_sample
from rsedge_train.data.base import BandChoice, Dataset, SceneFiles

FOLDER = Path("samples")
COUNT, SIDE = 12, 1024
VAL_COUNT = 2
TRAIN_SEED, VAL_SEED = 1000, 9000
# 0.25 to 1 m a pixel in equal ratios, ordered so that any few of them are spread out.
GSDS_M = tuple(round(0.25 * 4 ** (i * 5 % COUNT / (COUNT - 1)), 3) for i in range(COUNT))
Progress = Callable[[int, int], None]


def sample_dataset(
    folder: Path = FOLDER, count: int = COUNT, side: int = SIDE, progress: Progress | None = None
) -> Dataset:
    """Return a data set in ``folder`` of ``count`` sample scenes of ``side`` pixels and two for validation.

    Skips scenes drawn earlier. ``progress`` is called with (scenes done, scenes
    in all). Raises InputError for impossible sizes, OutputError if a file cannot be written.
    """
    seeds = [*_seeds(TRAIN_SEED, count), *_seeds(VAL_SEED, VAL_COUNT)]
    scenes = _write(folder, seeds, side, progress)
    return Dataset(
        "samples",
        ClassTable(LANDCOVER),
        scenes[:count],
        scenes[count:],
        gsd_m=(min(GSDS_M), max(GSDS_M)),
        notes=(f"no data given: training on {count} procedural sample scenes in {folder}/",),
    )


def with_samples(
    dataset: Dataset,
    folder: Path = FOLDER,
    count: int = COUNT,
    side: int = SIDE,
    progress: Progress | None = None,
) -> Dataset:
    """Return the data set with ``count`` sample scenes added to its training scenes.

    Raises InputError unless the data is 8-bit RGB with the sample scenes' classes in the same order.
    """
    own, wanted = dataset.table.names, tuple(c.name for c in LANDCOVER)
    if own != wanted:
        what = "the same classes in another order" if sorted(own) == sorted(wanted) else "other classes"
        raise InputError(
            f"sample scenes have the classes {', '.join(wanted)}; data {dataset.name} has {what}: "
            f"{', '.join(own)}. Leave the samples out, or use the samples' order in classes.toml"
        )
    bands = dataset.bands
    if bands.names != BandChoice().names or bands.indexes not in {None, (1, 2, 3)} or bands.scale is not None:
        raise InputError(
            f"sample scenes are 8-bit red, green, blue; data {dataset.name} reads {', '.join(bands.names)} "
            f"(bands {bands.indexes or 'by colour'}, scale {bands.scale or 'none'}). Leave the samples out"
        )
    seeds = _seeds(TRAIN_SEED, count)
    there = {f.scene for f in (*dataset.train, *dataset.val, *dataset.test)}
    if twice := sorted(there & {f"sample{seed}" for seed, _ in seeds}):
        raise InputError(f"data {dataset.name} already holds samples, e.g. {twice[0]}. Leave the samples out")
    scenes = _write(folder, seeds, side, progress)
    own_gsd = dataset.gsd_m or GSDS_M  # the known range
    gsd = (min(*own_gsd, *GSDS_M), max(*own_gsd, *GSDS_M))
    note = f"{count} procedural sample scenes from {folder}/ are used for training too"
    return replace(dataset, train=(*dataset.train, *scenes), gsd_m=gsd, notes=(*dataset.notes, note))


def _seeds(first: int, count: int) -> list[tuple[int, float]]:
    """Return seeds with the metres per pixel of their scenes."""
    if count < 1:
        raise InputError(f"{count} sample scenes: too few. Ask for at least one")
    return [(first + i, GSDS_M[i % COUNT]) for i in range(count)]


def _write(
    folder: Path, seeds: list[tuple[int, float]], side: int, progress: Progress | None
) -> tuple[SceneFiles, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    scenes = list[SceneFiles]()
    for seed, gsd_m in seeds:
        image = folder / f"sample{seed}_{side}px.tif"
        label = image.with_name(f"{image.stem}{LABEL_SUFFIX}.tif")
        if not (_is_whole(image, side, gsd_m) and _is_whole(label, side, gsd_m)):
            write_sample(image, side, side, gsd_m, seed)
        scenes.append(SceneFiles(image.stem, f"sample{seed}", image, label, drawn=True))
        if progress:
            progress(len(scenes), len(seeds))
    return tuple(scenes)


def _is_whole(path: Path, side: int, gsd_m: float) -> bool:
    """Return True if ``path`` is a readable raster of this size; rsedge writes rasters atomically."""
    try:
        with RasterReader(path) as reader:
            grid = reader.grid
    except InputError:
        return False
    return (grid.height, grid.width) == (side, side) and abs(grid.transform.a - gsd_m) < 1e-9
