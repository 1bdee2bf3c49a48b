"""Label rasters read as class indices from indices, a palette or colours."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.errors import InputError
from rsedge.model.manifest import NODATA
from rsedge.raster import RasterReader, bounded_cache
from rsedge.raster.values import is_nodata, stored_nodata
from rsedge.raster.writer import CLASSES_TAG, tag_of
from rsedge.score.labels import LabelColors, describe_colors, look_up, pack
from rsedge.score.palette import (
    choose_palette,
    find_hidden,
    implied_greys,
    is_ramp,
    palette_table,
    read_palette,
)
from rsedge.tiling.window import Window

ALLOW_MISSING = "--allow-missing-classes"
MUCH = 0.05  # share of pixels that is more than the edges of a scene


@dataclass(frozen=True)
class Decoded:
    """Meaning of a window of a label raster, each (h, w)."""

    labels: NDArray[np.uint8]  # class indices, NODATA where unlabelled or unknown
    stored: NDArray[Any]  # packed colours 0xRRGGBB, or the values themselves
    unknown: NDArray[np.bool_]  # colours or values of no class
    hidden: NDArray[np.bool_] | None = None  # transparent or masked out; None if no pixel is


class LabelReader:
    """A label raster read by window; not safe for use by two threads.

    Three bands hold colours. One band holds values of ``colors.values``, else class indices with 255 for unlabelled
    (see ``settle`` for greys); its own nodata value is unlabelled unless a table names it. Pixels made transparent
    by alpha, a mask or a palette are unlabelled. A palette holds colours as three bands do, including the error
    for unknown colours; it is ignored if a table names the values and knows other colours, or if it is a ramp of
    greys or carries no information. Greys of fewer than 8 bits without a palette are colours if they show all classes.

    Raises InputError if the file cannot be opened.
    """

    def __init__(self, path: Path | str, colors: LabelColors, classes: int) -> None:
        self.raster = RasterReader(path)
        self._colors, self._classes = colors, classes
        self._palette = self._palette_colors()
        self._values = self._meaning()

    @property
    def holds_colors(self) -> bool:
        """True if pixels are looked up by colour instead of being class indices."""
        return len(self.raster.dtypes) >= 3 or self._palette is not None

    def __enter__(self) -> LabelReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.raster.__exit__(kind, error, trace)

    def read(
        self,
        window: Window,
        unlabelled: Counter[str] | None = None,
        counted: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.uint8]:
        """Return class indices (h, w), NODATA for unlabelled; ``unlabelled`` collects ``count_unlabelled``.

        Raises InputError if the window holds values or colours of no class.
        """
        decoded = self.decode(window)
        if decoded.unknown.any():
            raise InputError(self._complaint(decoded, window))
        if unlabelled is not None:
            unlabelled.update(self.count_unlabelled(decoded, counted))
        return decoded.labels

    def strips(self) -> tuple[Window, ...]:
        """Return windows that tile the raster, from the top down."""
        grid = self.raster.grid
        return self.raster.row_strips(Window(0, 0, grid.height, grid.width))

    def decode(self, window: Window) -> Decoded:
        """Read a window and interpret it, including unknown values; see ``read``."""
        shown = self.raster.read_mask(window) if self.raster.has_mask else None
        return self.interpret(self.raster.read_raw(window), shown)

    def interpret(self, pixels: NDArray[Any], shown: NDArray[np.bool_] | None = None) -> Decoded:
        """Interpret stored pixels (bands, h, w) of this raster, however they were read.

        ``shown``: where the raster's mask, if any, has data, (h, w). Raises InputError for colours that do not have
        8 bits.
        """
        decoded = self._interpret(pixels)
        hidden = find_hidden(self.raster, pixels, shown)
        if hidden is None:
            return decoded
        decoded.labels[hidden] = NODATA
        return replace(decoded, unknown=decoded.unknown & ~hidden, hidden=hidden)

    def _interpret(self, pixels: NDArray[Any]) -> Decoded:
        if len(pixels) >= 3:
            packed = pack(pixels[:3], self.raster.path)
            labels, unknown = self._colors.lookup(packed)
            return Decoded(labels, packed, unknown)
        values = pixels[0]
        if self._palette is None:
            return Decoded(*self._look_up(values))
        packed = self._palette[values]
        labels, unknown = self._colors.lookup(packed)
        ignored = np.asarray((values == self.raster.nodata) | (values == NODATA) & unknown)
        labels[ignored] = NODATA
        return Decoded(labels, packed, unknown & ~ignored)

    def count_unlabelled(self, decoded: Decoded, counted: NDArray[np.bool_] | None = None) -> dict[str, int]:
        """Count the unlabelled pixels by the printable name of their value or colour, without the unknown ones.

        ``counted``: pixels (h, w) to count; None for all.
        """
        nothing = (decoded.labels == NODATA) & ~decoded.unknown
        nothing = nothing if counted is None else nothing & counted
        found = dict[str, int]()
        if decoded.hidden is not None and (transparent := int(np.count_nonzero(nothing & decoded.hidden))):
            found["transparent"], nothing = transparent, nothing & ~decoded.hidden
        stored = decoded.stored[nothing]
        left = len(stored)
        meaning = self._colors.index if self.holds_colors else self._values
        for value in (v for v, index in meaning.items() if index == NODATA):
            pixels = int(np.count_nonzero(stored == value)) if left else 0
            if pixels:
                found[self.name(value)] = pixels
                left -= pixels
        return found | ({"nodata": left} if left > 0 else {})

    def name(self, stored: float) -> str:
        """Return a printable name of a stored value or colour."""
        return f"#{int(stored):06X}" if self.holds_colors else f"{stored:g}"

    def _look_up(self, values: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.bool_]]:
        labels, unknown = look_up(self._values, values)
        nodata = stored_nodata(self.raster.nodata, values.dtype.name)
        if nodata is not None and values.dtype.kind == "f":  # a rounded nodata tag is not a key of the table
            unknown &= ~is_nodata(values, nodata)
        return labels, values, unknown

    def _meaning(self) -> Mapping[int, int]:
        """Return the meaning of one-band values; a class table overrides the file's own nodata value."""
        values, nodata = self._colors.values_for(self._classes), self.raster.nodata
        if nodata is None or not math.isfinite(nodata) or int(nodata) != nodata:
            return values
        own = {int(nodata): NODATA}
        return own | dict(values) if self._colors.told else dict(values) | own

    def _palette_colors(self) -> NDArray[np.uint32] | None:
        """Return the packed colour of each value, or None if the palette is not used."""
        palette = read_palette(self.raster)
        if palette is None:
            return self._implied_colors()
        if not choose_palette(palette, self._colors.index, NODATA) and (
            self._colors.told or is_ramp(palette) or self.holds_own_classes
        ):
            return None
        return palette_table(palette, self.raster.dtypes[0])

    def _implied_colors(self) -> NDArray[np.uint32] | None:
        """Return the packed colour of each value of 1, 2 or 4 bits if these show all classes; None otherwise."""
        greys = implied_greys(self.raster)
        classes = {color for color, index in self._colors.index.items() if index != NODATA}
        named = self._colors.told and greys.keys() <= (self._colors.values or {}).keys()
        if not greys or named or not classes <= set(greys.values()) or self.holds_own_classes:
            return None
        return palette_table(greys, self.raster.dtypes[0])

    @property
    def holds_own_classes(self) -> bool:
        """Return True if a tag of rsedge says that values are class indices, whatever their colours."""
        return tag_of(Path(self.raster.path), CLASSES_TAG) is not None

    @property
    def remedy(self) -> str:
        """Advice on colours that are no class."""
        named = "name them in a class table (--classes FILE), under [classes] or ignore"
        if self._palette is None:
            return named
        return f"{named}; if the values count and not the palette, give the classes values, as in NAME = 0"

    def _complaint(self, decoded: Decoded, window: Window) -> str:
        origin = (window.row, window.col)
        if self.holds_colors:
            return f"{self.raster.path}: {describe_colors(decoded.stored, decoded.unknown, origin)}; {self.remedy}"
        rows, cols = np.nonzero(decoded.unknown)
        values = ", ".join(f"{v:g}" for v in np.unique(decoded.stored[decoded.unknown])[:5])
        if self._colors.told:
            named = ", ".join(map(str, sorted(self._values)))
            known = f"the class table names {named}; add the others under [classes] or ignore"
        else:
            known = (
                f"the classes are 0 to {len(self._values) - 1 - (NODATA in self._values)}, {NODATA} is unlabelled; "
                "change this in a class table (--classes FILE, with name = INDEX)"
            )
        return (
            f"{self.raster.path} holds label values {values} ({rows.size} px, first at row "
            f"{window.row + rows[0]}, column {window.col + cols[0]}); {known}"
        )


def settle(colors: LabelColors, labels: Sequence[Path], classes: int) -> tuple[LabelColors, tuple[str, ...]]:
    """Return ``colors``, reading values as greys if one-band ``labels`` are pictures in greys, and a note.

    One band holds class indices unless all values of all these labels are greys of the table and more of its
    classes occur when read as greys: 0 and 255 with a table of black and white. Labels that cannot be opened are
    skipped. Labels are read up to the first value that is not a grey.

    Raises InputError if both readings show equally many but different classes, as with masks of nothing but 0 if
    black is not the first class.
    """
    greys, plain = colors.greys, colors.values_for(classes)
    if colors.told or all(i in {NODATA, plain.get(grey)} for grey, i in greys.items()):
        return colors, ()
    seen = set[float]()
    for path in labels:
        for values in _values(path, colors, classes):
            seen |= values
            if not values <= greys.keys():
                return colors, _index_doubt(seen, greys, plain)
    as_greys, as_indices = ({m[int(v)] for v in seen if v in m} - {NODATA} for m in (greys, plain))
    listed = ", ".join(f"{v:g}" for v in sorted(seen))
    readings = [(greys[int(v)], plain.get(int(v), NODATA)) for v in seen]
    is_open = len(as_greys) == len(as_indices) and all(NODATA not in pair for pair in readings)
    if is_open and any(grey != index for grey, index in readings):
        raise InputError(
            f"one-band labels hold only {listed}, which stand for different classes as greys and as indices of the "
            "class table. Give the classes their values in a class table (--classes FILE), as in "
            f"NAME = {min(seen):g}"
        )
    if len(as_greys) <= len(as_indices):
        return colors, _index_doubt(seen, greys, plain)
    return replace(colors, values=greys, told=True), (
        f"one-band labels hold {listed}: they are read as greys of the class table, not as indices",
    )


def _index_doubt(seen: set[float], greys: Mapping[int, int], plain: Mapping[int, int]) -> tuple[str, ...]:
    """Return a note if a value that is read as an index is also the grey of another class, as black is of 0."""
    for value in sorted(seen & greys.keys() & plain.keys()):
        if NODATA not in {greys[int(value)], plain[int(value)]} and greys[int(value)] != plain[int(value)]:
            return (
                f"one-band labels are read as indices of the class table, so {value:g} is class number "
                f"{plain[int(value)]}, counted from 0, although #{int(value) * 0x010101:06X} is the colour of number "
                f"{greys[int(value)]}; if that is wrong, give the classes their values in a class table, as in NAME = "
                f"{value:g}",
            )
    return ()


def _values(path: Path, colors: LabelColors, classes: int) -> Iterator[set[float]]:
    """Yield the values of a one-band label, strip by strip, without its nodata value and NaN."""
    try:
        with LabelReader(path, colors, classes) as reader, bounded_cache(reader.raster.row_of_blocks_bytes):
            for window in () if reader.holds_colors or reader.holds_own_classes else reader.strips():
                decoded = reader.decode(window)
                band = decoded.stored if decoded.hidden is None else decoded.stored[~decoded.hidden]
                if band.dtype == np.uint8:
                    found = set(map(float, np.flatnonzero(np.bincount(band.ravel(), minlength=256))))
                else:
                    found = set(map(float, np.unique(band[~np.isnan(band)])))
                yield found - {reader.raster.nodata}
    except InputError:
        return  # reading the whole label reports the cause


def doubts(
    colors: LabelColors, names: Sequence[str], unlabelled: Mapping[str, int], counts: Sequence[int]
) -> tuple[str, ...]:
    """Return a note if one-band labels may mean something else than assumed.

    That is the case if index masks have NODATA as unlabelled although the class table has a class of that grey, or
    if 0 is unlabelled in many pixels while the highest value never occurs, as in labels that count from 0.

    ``names``: of the classes by index in ``colors``; ``unlabelled``: pixels by value; ``counts``: pixels by class.
    """
    return (*_white_doubt(colors, names, unlabelled), *_shift_doubt(colors, names, unlabelled, counts))


def _shift_doubt(
    colors: LabelColors, names: Sequence[str], unlabelled: Mapping[str, int], counts: Sequence[int]
) -> tuple[str, ...]:
    values = {i: v for v, i in colors.values.items() if i != NODATA} if colors.told and colors.values else {}
    zeros, total = unlabelled.get("0", 0), sum(counts)
    if not values or min(values.values()) != 1 or zeros < MUCH * (zeros + total):
        return ()
    last = max(values, key=values.__getitem__)
    if counts[last] or not total:
        return ()
    return (
        f"0 is unlabelled in {zeros} px of labels and {values[last]}, class {names[last]}, never occurs: if the labels "
        f"count classes from 0, every class is off by one; correct the class table, as in "
        f'"{names[min(values, key=values.__getitem__)]}" = 0',
    )


def _white_doubt(colors: LabelColors, names: Sequence[str], unlabelled: Mapping[str, int]) -> tuple[str, ...]:
    pixels, index = unlabelled.get(str(NODATA), 0), colors.greys.get(NODATA, NODATA)
    if colors.told or not pixels or index == NODATA:
        return ()
    name = names[index]
    return (
        f"{pixels} px of {NODATA} in one-band labels are read as unlabelled, because others hold indices; if they are "
        f'the white of class {name}, give the classes their values in a class table, as in "{name}" = {NODATA}',
    )


def find_missing(
    labels: Sequence[Path], colors: LabelColors, classes: int
) -> tuple[frozenset[int], Counter[str]]:
    """Return the classes that the table names but no label shows, and unlabelled pixels by value.

    Reads strips of labels until all classes were found; the count covers all labels if one is missing. Raises
    InputError for values of no class.
    """
    missing, unlabelled = set(named_classes(colors, classes)), Counter[str]()
    for path in labels:
        with LabelReader(path, colors, classes) as reader, bounded_cache(reader.raster.row_of_blocks_bytes):
            for window in reader.strips():
                missing -= set(np.flatnonzero(np.bincount(reader.read(window, unlabelled).ravel())))
                if not missing:
                    return frozenset(), unlabelled
    return frozenset(missing), unlabelled


def named_classes(colors: LabelColors, classes: int) -> frozenset[int]:
    """Return the indices of a model's classes that the labels can show."""
    return colors.classes if colors.values is not None else frozenset(range(classes))


def describe_missing(names: Sequence[str], unlabelled: Mapping[str, int], unknown: int = 0) -> str:
    """Return the message for classes without label pixels.

    ``unlabelled``: pixels by value or colour read as unlabelled; ``unknown``: pixels that belong to no class.
    """
    which = f"class{'es' * (len(names) > 1)} {', '.join(names)}"
    most = Counter(unlabelled).most_common(5)
    said = (
        [f"taken for unlabelled: {', '.join(f'{value} ({pixels} px)' for value, pixels in most)}"]
        if most
        else []
    )
    said += [f"{unknown} px belong to no class"] if unknown else []
    if said:
        value = most[0][0] if most else "1"
        value = f'"{value}"' if value.startswith("#") else value if value.lstrip("-").isdigit() else "1"
        what = f'If that is wrong, name the values in a class table, such as "{names[0]}" = {value}'
    else:
        what = "Use labels that show them, or correct the class table"
    listed = "; ".join(said) or "no pixel is unlabelled"
    return f"no label pixel of {which}; {listed}. {what}, or continue with {ALLOW_MISSING}"
