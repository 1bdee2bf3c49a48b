"""Deterministic training crops: batch n depends only on the seed and n.

Results therefore do not depend on the number of worker processes, on where a run was interrupted, or
on how many processes share a batch.
"""

from __future__ import annotations

import logging
import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from rsedge.errors import InputError
from rsedge.raster import bounded_cache
from rsedge.tiling.window import Window
from rsedge_train.data import Dataset, SceneReader, SceneScan
from rsedge_train.data.appearance import LOOKS
from rsedge_train.data.base import IGNORE, UInt8, strips
from rsedge_train.data.scan import BLOCK

log = logging.getLogger(__name__)

Augment = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Batch = tuple[Tensor, Tensor, Tensor]
"""Images (B, 3, S, S) and labels (B, S, S), uint8; places (B, 4) int64: scene, row, column, side.

Labels are class indices, TAUGHT in unlabelled imagery, or IGNORE.
"""

OPEN_AT_ONCE = 16  # files per worker
TRIES = 100  # consecutive windows that are damaged or without data before giving up


class SceneStore:
    """Reader of windows of all training scenes, cached in memory if all fit into ``ram_bytes``.

    Each process opens its own readers. Raises InputError if a scene cannot be read.
    """

    def __init__(self, dataset: Dataset, scans: Sequence[SceneScan], ram_bytes: int) -> None:
        self._dataset, self.scans = dataset, list(scans)
        self._arrays: dict[int, tuple[UInt8, UInt8]] = {}
        self._readers: dict[int, SceneReader] = {}
        self._stack: ExitStack | None = None
        self._owner = os.getpid()
        self.in_memory = 4 * sum(s.height * s.width for s in scans) <= ram_bytes

    def load(self, skip_damaged: bool) -> list[tuple[str, str]]:
        """Load all scenes into memory if they fit, and return (name, reason) of each damaged scene dropped."""
        dropped = []
        for index, scan in enumerate(self.scans if self.in_memory else ()):
            try:
                with SceneReader(scan.files, self._dataset) as reader:
                    self._arrays[index] = _read_whole(reader)
            except InputError as error:
                if not skip_damaged:
                    raise
                dropped.append((index, scan.files.name, str(error)))
        gone = {index for index, _, _ in dropped}
        kept = [i for i in range(len(self.scans)) if i not in gone]
        if not kept:
            raise InputError(f"data {self._dataset.name}: no scene can be read. First error: {dropped[0][2]}")
        if self.in_memory:
            self._arrays = {new: self._arrays[old] for new, old in enumerate(kept)}
            self.scans = [self.scans[i] for i in kept]
        return [(name, why) for _, name, why in dropped]

    def read(self, index: int, window: Window) -> tuple[UInt8, UInt8]:
        """Read the image (3, h, w) and labels (h, w)."""
        if index not in self._arrays:
            return self._reader(index).read(window)
        image, labels = self._arrays[index]
        area = (slice(window.row, window.row_end), slice(window.col, window.col_end))
        return np.ascontiguousarray(image[(slice(None), *area)]), np.ascontiguousarray(labels[area])

    def _reader(self, index: int) -> SceneReader:
        if self._owner != os.getpid():  # after a fork, GDAL's handles belong to the parent
            self._readers, self._stack, self._owner = {}, None, os.getpid()
        if index not in self._readers:
            if len(self._readers) >= OPEN_AT_ONCE:
                self._readers.pop(next(iter(self._readers))).__exit__(None, None, None)
            self._readers[index] = SceneReader(self.scans[index].files, self._dataset)
            if self._stack is None:
                self._stack = ExitStack()
                self._stack.enter_context(bounded_cache(self._readers[index].row_of_blocks_bytes))
        return self._readers[index]


def _read_whole(reader: SceneReader) -> tuple[UInt8, UInt8]:
    """Read a whole scene strip by strip, because decoding needs many times the memory of the pixels."""
    height, width = reader.shape
    image, labels = np.empty((3, height, width), np.uint8), np.empty((height, width), np.uint8)
    with bounded_cache(reader.row_of_blocks_bytes):
        for window in strips(reader.grid):
            area = slice(window.row, window.row_end)
            image[:, area], labels[area] = reader.read(window)
    return image, labels


@dataclass(frozen=True)
class CropConfig:
    """Settings for drawing crops."""

    size: int = 512  # pixels, side of a crop
    batch: int = 8  # crops per step, over all processes
    seed: int = 42
    scale: tuple[float, float] = (0.5, 2.0)  # log-uniform; above 1 objects appear larger
    centred: float = 0.4  # share of crops centred on a pixel of a uniformly drawn class, for rare classes
    mosaic: float = 0.0  # share of crops composed of four windows
    look: str = "broad"  # strength of appearance changes; a name in ``LOOKS``

    def __post_init__(self) -> None:
        if self.size % 32 or self.size < 32:
            raise InputError(f"crop {self.size}: not a positive multiple of 32 pixels. Choose e.g. 512")
        if self.batch < 1:
            raise InputError(f"batch {self.batch}: too small. Use at least one crop")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise InputError(f"scale {self.scale}: not (low, high) with 0 < low <= high")
        if self.look not in LOOKS:
            raise InputError(f"augmentation {self.look!r}: unknown. Choose {', '.join(LOOKS)}")


class Crops(TorchDataset[Batch | InputError]):
    """Batches by number: item n is this process's share of batch n, or the InputError (see ``batches``).

    Draws a scene by ``weights`` (None: the square root of its area, so that one large scene does not
    dominate), then a window with a side of ``size`` over a random scale, which ``augment`` resizes to
    ``size``. With ``skip_damaged``, a window that cannot be read is replaced by another draw. So is, within its
    raster, a window of unlabelled imagery without data.
    """

    def __init__(
        self,
        store: SceneStore,
        config: CropConfig,
        augment: Augment,
        *,
        weights: Sequence[float] | None = None,
        rank: int = 0,
        world: int = 1,
        skip_damaged: bool = False,
    ) -> None:
        if config.batch % world:
            raise InputError(f"batch {config.batch} cannot be split over {world} processes. Use a multiple")
        self.store, self.config, self.augment = store, config, augment
        self.skip_damaged = skip_damaged
        share = config.batch // world
        self._samples = range(rank * share, (rank + 1) * share)
        roots = [math.sqrt(s.height * s.width) for s in store.scans]
        self._weights = torch.tensor(roots if weights is None else weights, dtype=torch.float64)
        self._blocks = [_blocks_by_class(s) for s in store.scans]
        self._reported: set[int] = set()

    def __getitem__(self, step: int) -> Batch | InputError:
        try:
            with torch.random.fork_rng(devices=[]):
                drawn = [self._sample(step, i) for i in self._samples]
        except InputError as error:
            # Return the error, because a worker would send a traceback and GDAL's cause cannot be pickled.
            return InputError(str(error))
        images, labels, places = zip(*drawn, strict=True)
        return torch.stack(images), torch.stack(labels), torch.tensor(places)

    def name(self, places: Tensor) -> str:
        """Return scenes and windows of a batch's crops, for messages."""
        return "; ".join(
            f"{self.store.scans[scene].files.name} {Window(row, col, side, side)}"
            for scene, row, col, side in places.tolist()
        )

    def _sample(self, step: int, index: int) -> tuple[Tensor, Tensor, tuple[int, int, int, int]]:
        entropy = np.random.SeedSequence([self.config.seed, step, index])
        # Augmentation also draws from torch's default generator.
        torch.default_generator.manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1)))
        if _uniform(0, 1) >= self.config.mosaic:
            return self._crop()
        size = self.config.size
        row, col = (round(size * _uniform(0.25, 0.75)) for _ in range(2))
        pieces = [self._crop() for _ in range(4)]
        image, labels = pieces[0][0].clone(), pieces[0][1].clone()
        areas = [
            (slice(row), slice(col, None)),
            (slice(row, None), slice(col)),
            (slice(row, None), slice(col, None)),
        ]
        for (piece, piece_labels, _), (rows, cols) in zip(pieces[1:], areas, strict=True):
            image[:, rows, cols], labels[rows, cols] = piece[:, rows, cols], piece_labels[rows, cols]
        return image, labels, pieces[0][2]

    def _crop(self) -> tuple[Tensor, Tensor, tuple[int, int, int, int]]:
        again: int | None = None
        for _ in range(TRIES):
            scene, window = self.draw(again)
            try:
                image, labels = self.store.read(scene, window)
            except InputError as error:
                if not self.skip_damaged:
                    raise
                if scene not in self._reported:
                    self._reported.add(scene)
                    log.warning("skipped: %s", error)
                again = None
                continue
            if self.store.scans[scene].files.label is None and (labels == IGNORE).all():
                again = scene
                continue
            crop, mask = self.augment(torch.from_numpy(image), torch.from_numpy(labels))
            return crop, mask, (scene, window.row, window.col, window.height)
        raise InputError(
            f"{TRIES} consecutive windows are damaged or without data. Check the data with `rsedge data check`"
        )

    def draw(self, scene: int | None = None) -> tuple[int, Window]:
        """Draw a random scene, unless ``scene`` is given, and a square window inside the scene."""
        index = int(torch.multinomial(self._weights, 1)) if scene is None else scene
        scan = self.store.scans[index]
        shape = (scan.height, scan.width)
        low, high = (math.log(s) for s in self.config.scale)
        side = max(1, min(round(self.config.size / math.exp(_uniform(low, high))), *shape))
        corner = [int(torch.randint(0, edge - side + 1, ())) for edge in shape]
        present = self._blocks[index]
        if present and _uniform(0, 1) < self.config.centred:
            blocks = present[int(torch.randint(len(present), ()))]
            block = divmod(int(blocks[int(torch.randint(len(blocks), ()))]), scan.present.shape[2])
            for axis, edge in enumerate(shape):
                point = min(block[axis] * BLOCK + int(torch.randint(BLOCK, ())), edge - 1)
                corner[axis] = min(max(point - int(torch.randint(side, ())), 0), edge - side)
        return index, Window(corner[0], corner[1], side, side)


def batches(crops: Crops, first: int, last: int, workers: int, pin: bool = False) -> Iterator[Batch]:
    """Yield batches ``first`` to ``last - 1`` in order, prepared by worker processes.

    Raises InputError if a window cannot be read.
    """
    loader: DataLoader[Batch | InputError] = DataLoader(
        crops,
        batch_size=None,
        sampler=range(first, last),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=pin,
        worker_init_fn=_begin_worker,
    )
    for item in loader:
        if isinstance(item, InputError):
            raise item
        yield item


class CropSource:
    """Source of one run's batches, in the form that ``fit`` expects."""

    def __init__(self, crops: Crops, workers: int, pin: bool) -> None:
        self.crops, self.workers, self.pin = crops, workers, pin

    def between(self, first: int, last: int) -> Iterator[Batch]:
        """Return batches ``first`` to ``last - 1``."""
        return batches(self.crops, first, last, self.workers, self.pin)

    def name(self, places: Tensor) -> str:
        """Return scenes and windows of a batch's crops."""
        return self.crops.name(places)


def _begin_worker(_: int) -> None:
    torch.set_num_threads(1)
    # Ctrl-C also reaches the workers, but the training loop stops them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _blocks_by_class(scan: SceneScan) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Return, for each class, the indices of blocks that contain the class."""
    blocks = [scan.blocks_of(k) for k in range(len(scan.counts))]
    return [b for b in blocks if len(b)]


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))
