"""Detection of the classes in a folder of masks without a class table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.errors import InputError
from rsedge.model.manifest import NODATA, ClassInfo
from rsedge.raster import RasterReader, bounded_cache
from rsedge.raster.values import stored_nodata
from rsedge.score.labels import ClassTable, distinct_color, pack, pack_color, unpack_color
from rsedge.score.palette import find_hidden, read_palette
from rsedge.tiling.window import Window
from rsedge_sample.files import LANDCOVER
from rsedge_train.data import isprs

MASKS_READ = 30
PIXELS_READ = 4 << 20  # per mask; larger masks are sampled in evenly spaced strips
STRIP_ROWS = 64
MOST_CLASSES = 64
SURELY_KNOWN = 3  # class colours that must occur, because black and white alone do not prove ISPRS
STRAY = 0.1  # largest share of pixels with other colours at which a known table is assumed
RARE = 1e-4  # share of pixels; many colours rarer than this mean smoothed edges
KNOWN = {
    "isprs": isprs.TABLE,
    "dubai": ClassTable.read(Path(__file__).with_name("dubai.toml")),
    "rsedge sample": ClassTable(LANDCOVER),
}


@dataclass
class Seen:
    """Contents of masks: pixel counts by colour (0xRRGGBB) and by plain value, and palette colours."""

    colors: Counter[int] = field(default_factory=Counter)
    values: Counter[int] = field(default_factory=Counter)
    declared: set[int] = field(default_factory=set)
    ignored: int = 0  # pixels equal to NODATA or a nodata value, in one-band masks
    masks: int = 0
    broken: int = 0


def detect_table(labels: Sequence[Path]) -> tuple[ClassTable, tuple[str, ...]]:
    """Return the class table derived from at most 30 evenly chosen masks, and notes on how it was derived.

    Raises InputError if only one class or too many occur, or if colours blend into each other.
    """
    step = max(1, -(-len(labels) // MASKS_READ))
    seen = Seen()
    for path in labels[::step]:
        _look(path, seen)
    source = f"in {seen.masks} of {len(labels)} masks"
    if seen.colors and seen.values:
        raise InputError(
            f"{source}, some hold colours and some class indices. Define the classes with --classes FILE"
        )
    if not seen.colors and not seen.values:
        broken = f" and {seen.broken} cannot be read" if seen.broken else ""
        raise InputError(f"{source}, no pixel is labelled{broken}. Training needs labelled pixels")
    return _by_color(seen, source) if seen.colors else _by_value(seen, source)


def count_runs(values: NDArray[Any]) -> dict[int, int]:
    """Count how often each integer occurs; fast if equal values are adjacent."""
    flat = values.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    lengths = np.diff(starts, append=flat.size)
    found, place = np.unique(flat[starts], return_inverse=True)
    counts = np.bincount(place.ravel(), lengths).astype(np.int64)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _look(path: Path, seen: Seen) -> None:
    try:
        with RasterReader(path) as reader, bounded_cache(reader.row_of_blocks_bytes):
            height, width = reader.grid.height, reader.grid.width
            colors = read_palette(reader) or {}
            step = STRIP_ROWS * max(1, -(-height * width // PIXELS_READ))
            for row in range(0, height, step):
                window = Window(row, 0, min(STRIP_ROWS, height - row), width)
                pixels = reader.read_raw(window)
                hidden = find_hidden(reader, pixels, reader.read_mask(window) if reader.has_mask else None)
                kept = pixels if hidden is None else pixels[:, ~hidden][:, None]
                if not kept.size:
                    continue
                if len(pixels) >= 3:
                    seen.colors.update(count_runs(pack(kept[:3], str(path))))
                else:
                    _count_band(kept[0], reader.nodata, colors, seen)
            seen.declared |= set(colors.values())
            seen.masks += 1
    except InputError:
        seen.broken += 1  # the full reading reports the cause


def _count_band(band: NDArray[Any], nodata: float | None, colors: dict[int, int], seen: Seen) -> None:
    if np.iscomplexobj(band):
        raise InputError("complex numbers are not valid labels")
    tag, known = stored_nodata(nodata, band.dtype.name), band[~np.isnan(band)]
    for value, count in count_runs(known).items() if known.size else ():
        if value == NODATA or (tag is not None and tag[0] <= value <= tag[1]):
            seen.ignored += count * (value == NODATA)
            continue
        if colors:
            seen.colors[colors.get(value, 0)] += count
        else:
            seen.values[value] += count


def _by_color(seen: Seen, source: str) -> tuple[ClassTable, tuple[str, ...]]:
    for name, table in KNOWN.items():
        classes = {pack_color(c.color) for c in table.classes}
        known = len(classes & set(seen.colors)) >= SURELY_KNOWN or classes <= seen.declared
        stray = {c: n for c, n in seen.colors.items() if c not in classes | set(table.ignore)}
        if known and sum(stray.values()) < STRAY * sum(seen.colors.values()):
            said = f"using the classes of {name}, recognised by their colours ({source})"
            listed = ", ".join(f"#{c:06X} ({n} px)" for c, n in sorted(stray.items()))
            more = f"; colours outside the table: {listed}; to use them, write classes.toml" if stray else ""
            return table, (said + more,)
    colors = sorted(seen.colors)
    total = sum(seen.colors.values())
    rare = sum(count < RARE * total for count in seen.colors.values())
    if len(colors) > MOST_CLASSES or (rare >= 8 and rare > len(colors) - rare):
        common = ", ".join(f"#{c:06X} ({n} px)" for c, n in seen.colors.most_common(8))
        raise InputError(
            f"{len(colors)} colours {source}, {rare} of them rare: masks must be stored without lossy compression or "
            f"smoothing (PNG or GeoTIFF, not JPEG); most frequent: {common}. If the colours are intended, name them "
            "with --classes FILE"
        )
    if len(colors) < 2:
        raise InputError(f"only the colour #{colors[0]:06X} occurs {source}. Training needs two classes")
    table = ClassTable(tuple(ClassInfo(f"#{c:06X}", unpack_color(c)) for c in colors))
    return table, (
        f"each of {len(colors)} colours {source} became a class; to name or ignore colours, write "
        f"classes.toml into the folder:\n{table.to_toml()}",
    )


def _by_value(seen: Seen, source: str) -> tuple[ClassTable, tuple[str, ...]]:
    low, high = min(seen.values), max(seen.values)
    whole = all(v == int(v) for v in seen.values) and len(seen.values) + bool(seen.ignored) <= MOST_CLASSES
    if low < 0 or high >= MOST_CLASSES or not whole:
        common = ", ".join(f"{v:g} ({n} px)" for v, n in seen.values.most_common(8))
        raise InputError(
            f"values {low:g} to {high:g} {source} are not class indices 0 to {MOST_CLASSES - 1} ({NODATA} means "
            f"unlabelled); most frequent: {common}"
            + (_hint(seen) if whole else ". Store indices or colours"),
            below=_proposal(seen) if whole else (),
        )
    if len(seen.values) < 2:
        raise InputError(
            f"only the value {low:g} occurs {source}, besides {NODATA}, which means unlabelled. Training needs "
            f"two classes{_hint(seen) if seen.ignored else ''}",
            below=_proposal(seen) if seen.ignored else (),
        )
    table = ClassTable(tuple(ClassInfo(f"class{i}", distinct_color(i)) for i in range(int(high) + 1)))
    return table, (
        f"one-band masks with indices {low:g} to {high:g} {source}; class names are unknown"
        + "\n".join([_hint(seen), *_proposal(seen)]),
    )


def _is_single(seen: Seen) -> bool:
    return len(seen.values) < 2  # NODATA may be the second class


def _hint(seen: Seen) -> str:
    """Return advice, to follow a message and to precede the `_proposal`."""
    if _is_single(seen):
        return f". If {NODATA} is your second class, store the mask as 0 and 1, or write classes.toml into the folder:"
    ignored = [int(min(seen.values)), *_ignored(seen)]
    return (
        f". To name the classes, write classes.toml into the folder. If {ignored[0]} means no data, "
        f"as in LoveDA, ignore it: ignore = {ignored}:"
    )


def _ignored(seen: Seen) -> list[int]:
    return [NODATA] if seen.ignored and not _is_single(seen) else []


def _proposal(seen: Seen) -> tuple[str, ...]:
    """Return the lines of a class table of the values that occur, for the user to correct."""
    values = sorted({int(v) for v in seen.values} | ({NODATA} if _is_single(seen) else set()))
    names = [f"class{v} = {v}" if v >= 0 else f"class_minus{-v} = {v}" for v in values]
    return (f"ignore = {_ignored(seen)}", "", "[classes]", *names)
