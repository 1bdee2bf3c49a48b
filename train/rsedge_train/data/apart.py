"""Unlabelled imagery must not show scenes that a student is scored on."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from rsedge.errors import InputError
from rsedge.raster import RasterReader, bounded_cache
from rsedge.score.pairs import FOLDERS
from rsedge_train.data.base import Dataset, SceneFiles, SceneReader, strips
from rsedge_train.data.footprint import Footprint, footprint
from rsedge_train.data.leaks import SAME_FILE, groups_of, overlaps
from rsedge_train.data.scan import SceneScan

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shown:
    """A raster: where it lies, and in which split (or that it is unlabelled)."""

    files: SceneFiles
    side: str  # "unlabelled", "val" or "test"
    height: int
    width: int
    footprint: Footprint | None


def check_held_out(dataset: Dataset, unlabelled: Sequence[SceneScan], val: Sequence[SceneScan]) -> None:
    """Raise InputError if unlabelled imagery holds a validation or test scene.

    Looks at names (unless both rasters are placed on the Earth, apart), at the ground, in any CRS, and for equal
    files and equal pixels under other names. Pieces of a scene that are not placed, and copies with lossy
    compression, are found by name only.
    """
    images = [_of_scan(s, "unlabelled") for s in unlabelled]
    held = [*(_of_scan(s, "val") for s in val), *_test_rasters(dataset)]
    for find, how in (
        (_by_name, "has the name of"),
        (_by_ground, "overlaps"),
        (_by_content, "is the same image as"),
    ):
        if pairs := find(images, held, dataset):
            one, other = pairs[0]
            count = len({shown for shown, _ in pairs})
            more = f" (and {count - 1} more images)" if count > 1 else ""
            rename = "; if it is another place, rename it" if find is _by_name else ""
            raise InputError(
                f"unlabelled imagery {one.files.image} {how} {other.files.name} of the {other.side} split{more}, on "
                f"which the student is to be scored. Leave it out of the folder{rename}"
            )


def _of_scan(scan: SceneScan, side: str) -> Shown:
    return Shown(scan.files, side, scan.height, scan.width, scan.footprint)


def _test_rasters(dataset: Dataset) -> list[Shown]:
    found = list[Shown]()
    for files in dataset.test:
        try:
            with RasterReader(files.image) as reader:
                grid = reader.grid
        except InputError as error:
            log.warning("not compared with the unlabelled imagery: %s", error)
            continue
        found.append(Shown(files, "test", grid.height, grid.width, footprint(grid)))
    return found


Pairs = list[tuple[Shown, Shown]]


def _by_name(images: Sequence[Shown], held: Sequence[Shown], _: Dataset) -> Pairs:
    """Pair rasters of which one has the other's scene among its folders and its name, or, of single files, its name."""
    named: dict[tuple[str, ...], list[Shown]] = {}
    for other in held:
        named.setdefault(_parts(other.files.scene), []).append(other)
        if other.files.scene == other.files.name:
            named.setdefault((other.files.image.stem.casefold(),), []).append(other)
    lengths = sorted({len(parts) for parts in named})
    pairs = Pairs()
    for one in images:
        parts = _parts(PurePosixPath(one.files.name).with_suffix("").as_posix())
        for length in lengths:
            for begin in range(len(parts) - length + 1):
                same = named.get(parts[begin : begin + length], ())
                # Rasters placed on the Earth are the business of _by_ground, whatever their names.
                pairs += [(one, other) for other in same if not (one.footprint and other.footprint)]
    return list(dict.fromkeys(pairs))


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.casefold().split("/") if part not in FOLDERS)


def _by_ground(images: Sequence[Shown], held: Sequence[Shown], _: Dataset) -> Pairs:
    return [(one, other) for one in images for other in overlaps(one, held)]


def _by_content(images: Sequence[Shown], held: Sequence[Shown], dataset: Dataset) -> Pairs:
    """Pair equal files, and rasters that feed equal pixels to the network."""
    both = [*images, *held]
    of_pixels: tuple[Callable[[Shown], Hashable], ...] = (
        lambda shown: (shown.height, shown.width),
        lambda shown: _pixels(shown, dataset, sample=True),
        lambda shown: _pixels(shown, dataset, sample=False),
    )
    pairs = Pairs()
    for keys in (tuple(map(_of_image, SAME_FILE)), of_pixels):
        for group in groups_of(both, keys, _mixed):
            ours = [shown for shown in group if shown.side == "unlabelled"]
            theirs = [shown for shown in group if shown.side != "unlabelled"]
            pairs += [(one, theirs[0]) for one in ours]
    return pairs


def _of_image(key: Callable[[Path], Hashable]) -> Callable[[Shown], Hashable]:
    return lambda shown: key(shown.files.image)


def _mixed(group: Sequence[Shown]) -> bool:
    return len({shown.side == "unlabelled" for shown in group}) > 1


def _pixels(shown: Shown, dataset: Dataset, *, sample: bool) -> str:
    """Return a hash of the image as fed to the network: of all its strips, or of the middle one."""
    digest = hashlib.sha256()
    try:
        with SceneReader(replace(shown.files, label=None), dataset) as reader:
            every = list(strips(reader.grid))
            with bounded_cache(reader.row_of_blocks_bytes):
                for window in [every[len(every) // 2]] if sample else every:
                    digest.update(reader.read(window)[0].tobytes())
    except InputError:  # reading reports it where the raster is needed
        return str(Path(shown.files.image))
    return digest.hexdigest()
