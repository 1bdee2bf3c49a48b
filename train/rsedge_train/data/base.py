"""What a labelled data set is, and how one labelled raster is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rsedge.errors import InputError
from rsedge.model.manifest import NODATA, Manifest
from rsedge.raster import Grid, RasterReader, plan_bands
from rsedge.raster.band_plan import AS_TAGGED, Masking
from rsedge.raster.look import look
from rsedge.score.evaluation import check_labels
from rsedge.score.labels import ClassTable, LabelColors
from rsedge.score.truth import LabelReader
from rsedge.tiling.window import Window
from rsedge_train.data.pixels import MEAN

IGNORE = NODATA
UInt8 = NDArray[np.uint8]
SPLITS = ("train", "val", "test")
STRIP_ROWS = 64


@dataclass(frozen=True)
class SceneFiles:
    """One labelled raster. ``scene`` is what a split must not cut: parts of one scene are neighbours."""

    name: str  # unique in the data set, e.g. "tile7/image_part_001"
    scene: str  # e.g. "tile7"
    image: Path
    label: Path
    scoring_label: Path | None = None  # for validation where it differs, e.g. with eroded boundaries
    drawn: bool = False  # a procedural sample scene

    def for_scoring(self) -> SceneFiles:
        """The same with the label that scores are counted on."""
        return replace(self, label=self.scoring_label or self.label)


@dataclass(frozen=True)
class BandChoice:
    """Which three bands feed the network, as in ``rsedge infer``."""

    names: tuple[str, str, str] = ("red", "green", "blue")
    indexes: tuple[int, ...] | None = None  # 1-based; None: by colour interpretation, else the first three
    scale: tuple[float, float] | None = None  # raster values mapped to 0 and 255, where not stored as uint8
    masking: Masking = field(
        default=AS_TAGGED, repr=False
    )  # where the rasters' own nodata or alpha is not right


def masking_of(nodata: Sequence[float] | None, alpha: int | Literal["none"] | None) -> Masking:
    """``Masking`` of what JSON holds of it."""
    return Masking(tuple(nodata) if nodata else None, alpha)


@dataclass(frozen=True)
class Dataset:
    """Labelled rasters split by scene, and what their labels mean.

    Raises InputError when nothing is there to train on or a scene stands on two sides.
    """

    name: str
    table: ClassTable
    train: tuple[SceneFiles, ...]
    val: tuple[SceneFiles, ...] = ()
    test: tuple[SceneFiles, ...] = ()
    bands: BandChoice = BandChoice()
    uncounted: tuple[str, ...] = ()  # classes left out of mean scores, e.g. ISPRS clutter
    gsd_m: tuple[float, float] | None = None  # where the files do not say it themselves
    notes: tuple[str, ...] = ()  # what the user should know: how it was split, what was guessed
    told: bool = False  # a class table says the classes; else they were found in the data or are its makers'

    def __post_init__(self) -> None:
        if not self.train:
            raise InputError(f"data {self.name}: no scene to train on")
        sides = [{files.scene for files in part} for part in (self.train, self.val, self.test)]
        for i, j in ((0, 1), (0, 2), (1, 2)):
            if both := sorted(sides[i] & sides[j]):
                raise InputError(
                    f"data {self.name}: scene {both[0]} is in {SPLITS[i]} and in {SPLITS[j]}; a scene belongs "
                    "to one side only"
                )

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.table.classes)

    def colors_of(self, files: SceneFiles) -> LabelColors:
        """What the label of one of its scenes holds: of a sample scene, always class indices."""
        colors = self.table.colors
        return replace(colors, values=None, told=False) if files.drawn else colors

    def manifest(self, name: str, tile: int) -> Manifest:
        """What a network trained on this expects and answers."""
        return Manifest(
            name=name,
            bands=self.bands.names,
            dtype="uint8",
            tile=tile,
            classes=self.table.classes,
            fill=tuple(round(255 * m) for m in MEAN),
            gsd_m=self.gsd_m,
        )


def strips(grid: Grid) -> Iterator[Window]:
    """A raster in full-width strips of STRIP_ROWS, from the top down."""
    for row in range(0, grid.height, STRIP_ROWS):
        yield Window(row, 0, min(STRIP_ROWS, grid.height - row), grid.width)


class SceneReader:
    """Image and label of one scene, opened for reading by window. Not safe for two threads at once.

    Raises InputError when they cannot be opened or do not fit each other.
    """

    def __init__(self, files: SceneFiles, dataset: Dataset) -> None:
        self.files = files
        self._image = RasterReader(files.image)
        try:
            self._label = LabelReader(files.label, dataset.colors_of(files), dataset.num_classes)
            check_labels(self._image, self._label.raster)
            manifest = dataset.manifest(dataset.name, tile=1)
            self.plan = plan_bands(
                self._image, manifest, dataset.bands.indexes, dataset.bands.scale, dataset.bands.masking
            )
        except BaseException:
            self._image.__exit__(None, None, None)
            if hasattr(self, "_label"):
                self._label.__exit__(None, None, None)
            raise
        self._fill = np.array(manifest.fill, np.uint8)[:, None, None]
        self.grid = self._image.grid

    def __enter__(self) -> SceneReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._image.__exit__(kind, error, trace)
        self._label.__exit__(kind, error, trace)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.grid.height, self.grid.width

    def read(self, window: Window, unlabelled: Counter[str] | None = None) -> tuple[UInt8, UInt8]:
        """Image (3, h, w) and labels (h, w), both uint8; pixels without data are filled and IGNORE.

        ``unlabelled`` as in ``read_labels``.
        """
        pixels, valid = self._image.read(window, self.plan)
        labels = self._label.read(window, unlabelled)
        if not valid.all():
            pixels, labels = np.where(valid, pixels, self._fill), np.where(valid, labels, IGNORE)
        return np.asarray(pixels, np.uint8), np.asarray(labels, np.uint8)

    def look(self) -> tuple[str, ...]:
        """What one look at a sample of the image says; see `rsedge.raster.look`."""
        return (*self.plan.notes, *look(self._image, self.plan))

    def read_labels(self, window: Window, unlabelled: Counter[str] | None = None) -> UInt8:
        """Labels (h, w) alone; adds the pixels of each unlabelled value to ``unlabelled``."""
        return self._label.read(window, unlabelled)

    @property
    def row_of_blocks_bytes(self) -> int:
        """Bytes of one row of stored blocks of image and label."""
        return self._image.row_of_blocks_bytes + self._label.raster.row_of_blocks_bytes
