"""One pass over all labels, counting the pixels of each class and recording their places.

Of unlabelled imagery, the places of pixels with data are recorded.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsedge.errors import InputError
from rsedge.raster import bounded_cache
from rsedge.raster.band_plan import AS_TAGGED
from rsedge_train.data.base import STRIP_ROWS, TAUGHT, Dataset, SceneFiles, SceneReader, strips
from rsedge_train.data.footprint import Footprint, footprint

BLOCK = STRIP_ROWS  # pixels; resolution at which the places of classes are recorded
HASHED_BYTES = 1 << 16  # hashed at a file's head and at its tail


@dataclass(frozen=True)
class SceneScan:
    """Label statistics of one scene. An unlabelled raster has one class: data."""

    files: SceneFiles
    height: int
    width: int
    counts: NDArray[np.int64] = field(repr=False)  # (classes,) labelled pixels
    present: NDArray[np.bool_] = field(repr=False)  # (classes, rows, columns) of BLOCK x BLOCK pixels
    footprint: Footprint | None = None
    notes: tuple[str, ...] = ()  # on the image
    unlabelled: Mapping[str, int] = field(default_factory=dict, repr=False)  # value or colour -> pixels

    def blocks_of(self, class_index: int) -> NDArray[np.int64]:
        """Return flat indices of the blocks that contain a class."""
        return np.flatnonzero(self.present[class_index])


@dataclass(frozen=True)
class Scan:
    """Usable scenes, and (name, reason) of the skipped ones."""

    scenes: tuple[SceneScan, ...]
    skipped: tuple[tuple[str, str], ...]
    sha256: str  # of names, sizes, heads and tails of all files; identifies the data set

    @property
    def notes(self) -> tuple[str, ...]:
        """Return each note on the images once, with its first raster and the number of rasters."""
        found: dict[str, list[str]] = {}
        for scene in self.scenes:
            for note in scene.notes:
                found.setdefault(note, []).append(scene.files.name)
        return tuple(f"{names[0]} ({len(names)} rasters): {note}" for note, names in found.items())

    @property
    def counts(self) -> NDArray[np.int64]:
        """Return the labelled pixels of each class in all scenes."""
        return np.asarray(np.sum([s.counts for s in self.scenes], axis=0))


def missing_classes(names: Sequence[str], counts: NDArray[np.int64], *, told: bool) -> list[str]:
    """Return the classes that wrongly lack label pixels: of a table (``told``) any, else all but the only one."""
    missing = [name for name, count in zip(names, counts, strict=True) if not count]
    return missing if told or len(names) - len(missing) < 2 else []


def scan(
    dataset: Dataset,
    files: tuple[SceneFiles, ...],
    *,
    skip_damaged: bool = False,
    images: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Scan:
    """Read all labels of ``files`` strip by strip, and all images if ``images`` is set, to prove them readable.

    Of unlabelled imagery, only rasters that may have nodata are read.

    With ``skip_damaged``, unreadable scenes are skipped and reported; else InputError names the first.
    """
    scenes, skipped = [], []
    digest = hashlib.sha256(repr((dataset.table, dataset.bands)).encode())
    if dataset.bands.masking != AS_TAGGED:
        digest.update(repr(dataset.bands.masking).encode())
    if dataset.table.values is not None:
        digest.update(repr(dataset.table.values).encode())
    for done, entry in enumerate(files, 1):
        try:
            scenes.append(_scan_scene(dataset, entry, images))
        except InputError as error:
            if not skip_damaged:
                raise
            skipped.append((entry.name, str(error)))
        else:
            _hash_scene(digest, entry)
        if progress:
            progress(done, len(files))
    if not scenes:
        raise InputError(
            f"data {dataset.name}: no scene can be read. First error: {skipped[0][0]}: {skipped[0][1]}"
        )
    return Scan(tuple(scenes), tuple(skipped), digest.hexdigest())


def _scan_scene(dataset: Dataset, files: SceneFiles, images: bool) -> SceneScan:
    sought = range(dataset.num_classes) if files.label else range(TAUGHT, TAUGHT + 1)
    with SceneReader(files, dataset) as reader:
        height, width = reader.shape
        images |= not files.label and reader.may_have_nodata
        counts = np.zeros(len(sought), np.int64)
        unlabelled = Counter[str]()
        rows, cols = -(-height // BLOCK), -(-width // BLOCK)
        present = np.zeros((len(sought), rows, cols), np.bool_)
        with bounded_cache(reader.row_of_blocks_bytes):
            for block_row, window in enumerate(strips(reader.grid)):
                read = (
                    reader.read(window, unlabelled)[1] if images else reader.read_labels(window, unlabelled)
                )
                for col in range(cols):
                    found = np.bincount(read[:, col * BLOCK : (col + 1) * BLOCK].ravel(), minlength=256)
                    counts += found[sought.start : sought.stop]
                    present[:, block_row, col] = found[sought.start : sought.stop] > 0
        return SceneScan(
            files, height, width, counts, present, footprint(reader.grid), reader.look(), unlabelled
        )


def _hash_scene(digest: hashlib._Hash, files: SceneFiles) -> None:
    digest.update(files.name.encode())
    if files.bands is not None:
        digest.update(repr((files.bands, files.bands.masking)).encode())
    for path in (files.image, files.label):
        if path is not None:
            _hash_ends(digest, path)


def _hash_ends(digest: hashlib._Hash, path: Path) -> None:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        digest.update(f"{path.name} {size}".encode())
        for start in (0, max(0, size - HASHED_BYTES)):
            file.seek(start)
            digest.update(file.read(HASHED_BYTES))
