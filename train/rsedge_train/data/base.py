"""Data sets of labelled and unlabelled rasters, and reading one raster by window."""

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
TAUGHT = (
    NODATA - 1
)  # label of a pixel of unlabelled imagery that holds data; only a teacher's answer is its target
UInt8 = NDArray[np.uint8]
SPLITS = ("train", "val", "test")
STRIP_ROWS = 64


@dataclass(frozen=True)
class SceneFiles:
    """Files of one raster. A split keeps the rasters of one ``scene``, being neighbours, together."""

    name: str  # unique in the data set, e.g. "tile7/image_part_001"
    scene: str  # e.g. "tile7"
    image: Path
    label: Path | None  # None: unlabelled imagery
    scoring_label: Path | None = None  # used for validation if it differs, e.g. with eroded boundaries
    drawn: bool = False  # a procedural sample scene
    bands: BandChoice | None = None  # None: as the data set's

    def for_scoring(self) -> SceneFiles:
        """Return a copy whose label is the one used for scoring."""
        return replace(self, label=self.scoring_label or self.label)


@dataclass(frozen=True)
class BandChoice:
    """The three bands that feed the network, as in ``rsedge infer``."""

    names: tuple[str, str, str] = ("red", "green", "blue")
    indexes: tuple[int, ...] | None = None  # 1-based; None: choose by colour, else the first three
    scale: tuple[float, float] | None = None  # raster values mapped to 0 and 255, if the raster is not uint8
    masking: Masking = field(
        default=AS_TAGGED, repr=False
    )  # overrides the rasters' own nodata value or alpha band


def masking_of(nodata: Sequence[float] | None, alpha: int | Literal["none"] | None) -> Masking:
    """Return the ``Masking`` stored as these JSON values."""
    return Masking(tuple(nodata) if nodata else None, alpha)


@dataclass(frozen=True)
class Dataset:
    """Labelled rasters split by scene, with the meaning of their labels, and unlabelled rasters to train on.

    Raises InputError if no scene is left to train on, or if a scene is in two splits.
    """

    name: str
    table: ClassTable
    train: tuple[SceneFiles, ...]
    val: tuple[SceneFiles, ...] = ()
    test: tuple[SceneFiles, ...] = ()
    bands: BandChoice = BandChoice()
    uncounted: tuple[str, ...] = ()  # classes left out of mean scores, e.g. ISPRS clutter
    gsd_m: tuple[float, float] | None = None  # overrides the resolution stored in the files
    notes: tuple[str, ...] = ()  # for the user, e.g. how the data was split and what was guessed
    told: bool = False  # True if a class table defines the classes, False if derived from the data
    unlabelled: tuple[SceneFiles, ...] = ()  # in no split; a teacher answers for them in distillation

    def __post_init__(self) -> None:
        if not self.train:
            raise InputError(f"data {self.name}: no training scene. Add one, or assign fewer to val and test")
        sides = [{files.scene for files in part} for part in (self.train, self.val, self.test)]
        for i, j in ((0, 1), (0, 2), (1, 2)):
            if both := sorted(sides[i] & sides[j]):
                raise InputError(
                    f"data {self.name}: scene {both[0]} is in both {SPLITS[i]} and {SPLITS[j]}. "
                    "Assign each scene to one split"
                )

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""
        return len(self.table.classes)

    def colors_of(self, files: SceneFiles) -> LabelColors:
        """Return the label encoding of one scene; sample scenes always store class indices."""
        colors = self.table.colors
        return replace(colors, values=None, told=False) if files.drawn else colors

    def bands_of(self, files: SceneFiles) -> BandChoice:
        """Return the bands of one raster that feed the network."""
        return files.bands or self.bands

    def manifest(self, name: str, tile: int) -> Manifest:
        """Return the manifest of a network trained on this data set."""
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
    """Yield full-width windows of STRIP_ROWS rows covering the raster from top to bottom."""
    for row in range(0, grid.height, STRIP_ROWS):
        yield Window(row, 0, min(STRIP_ROWS, grid.height - row), grid.width)


class SceneReader:
    """Reader of one scene's image and label, if it has one, by window. Not thread-safe.

    Raises InputError if a file cannot be opened or if image and label do not fit each other.
    """

    def __init__(self, files: SceneFiles, dataset: Dataset) -> None:
        self.files = files
        self._image = RasterReader(files.image)
        self._label: LabelReader | None = None
        try:
            if files.label is not None:
                self._label = LabelReader(files.label, dataset.colors_of(files), dataset.num_classes)
                check_labels(self._image, self._label.raster)
            manifest, bands = dataset.manifest(dataset.name, tile=1), dataset.bands_of(files)
            self.plan = plan_bands(self._image, manifest, bands.indexes, bands.scale, bands.masking)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self._fill = np.array(manifest.fill, np.uint8)[:, None, None]
        self.grid = self._image.grid

    def __enter__(self) -> SceneReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._image.__exit__(kind, error, trace)
        if self._label is not None:
            self._label.__exit__(kind, error, trace)

    @property
    def shape(self) -> tuple[int, int]:
        """Return height and width in pixels."""
        return self.grid.height, self.grid.width

    def read(self, window: Window, unlabelled: Counter[str] | None = None) -> tuple[UInt8, UInt8]:
        """Read the image (3, h, w) and labels (h, w), both uint8; pixels without data are filled and IGNORE.

        The labels of unlabelled imagery are TAUGHT. For ``unlabelled``, see ``read_labels``.
        """
        pixels, valid = self._image.read(window, self.plan)
        labels = self.read_labels(window, unlabelled)
        if not valid.all():
            pixels, labels = np.where(valid, pixels, self._fill), np.where(valid, labels, IGNORE)
        return np.asarray(pixels, np.uint8), np.asarray(labels, np.uint8)

    def look(self) -> tuple[str, ...]:
        """Return notes on a sample of the image; see `rsedge.raster.look`."""
        return (*self.plan.notes, *look(self._image, self.plan))

    def read_labels(self, window: Window, unlabelled: Counter[str] | None = None) -> UInt8:
        """Read only the labels (h, w), adding the pixel count of each unlabelled value to ``unlabelled``."""
        if self._label is None:
            return np.full((window.height, window.width), TAUGHT, np.uint8)
        return self._label.read(window, unlabelled)

    @property
    def may_have_nodata(self) -> bool:
        """Return True if a pixel of the image can be without data."""
        return self._image.may_have_nodata(self.plan)

    @property
    def row_of_blocks_bytes(self) -> int:
        """Return the bytes taken by one row of stored blocks of image and label."""
        label_bytes = 0 if self._label is None else self._label.raster.row_of_blocks_bytes
        return self._image.row_of_blocks_bytes + label_bytes
