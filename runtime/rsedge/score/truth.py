"""Label rasters read as class indices, whatever they store: indices, a palette or colours."""

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
from rsedge.score.palette import choose_palette, find_hidden, is_ramp, palette_table, read_palette
from rsedge.tiling.window import Window

ALLOW_MISSING = "--allow-missing-classes"
MUCH = 0.05  # a share of pixels that is more than the edges of a scene


@dataclass(frozen=True)
class Decoded:
    """What a window of a label raster says, each (h, w)."""

    labels: NDArray[np.uint8]  # class indices, NODATA where unlabelled or unknown
    stored: NDArray[Any]  # packed colours 0xRRGGBB, or the values themselves
    unknown: NDArray[np.bool_]  # colours or values that are no class
    hidden: NDArray[np.bool_] | None = None  # transparent or masked out; None: no pixel is


class LabelReader:
    """A label raster opened for reading by window; not safe for two threads at once.

    Three bands hold colours. One band holds what ``colors.values`` says, else class indices, with 255 where
    unlabelled (see ``settle`` for greys); its own nodata value is unlabelled unless a table names it.
    What alpha, a mask or a palette makes transparent is unlabelled. A palette holds
    colours as three bands do, and those that stand for nothing are an error as there; it is passed over where a table
    says the values and knows other colours, and where it is a ramp of greys or says nothing.

    Raises InputError when it cannot be opened.
    """

    def __init__(self, path: Path | str, colors: LabelColors, classes: int) -> None:
        self.raster = RasterReader(path)
        self._colors, self._classes = colors, classes
        self._palette = self._palette_colors()
        self._values = self._meaning()

    @property
    def holds_colors(self) -> bool:
        """Whether pixels are looked up by colour; else they are class indices."""
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
        """Class indices (h, w), NODATA where unlabelled; see ``count_unlabelled`` for the others.

        Raises InputError when the window holds values or colours that are no class.
        """
        decoded = self.decode(window)
        if decoded.unknown.any():
            raise InputError(self._complaint(decoded, window))
        if unlabelled is not None:
            unlabelled.update(self.count_unlabelled(decoded, counted))
        return decoded.labels

    def strips(self) -> tuple[Window, ...]:
        """Windows that tile the raster, top down."""
        grid = self.raster.grid
        return self.raster.row_strips(Window(0, 0, grid.height, grid.width))

    def decode(self, window: Window) -> Decoded:
        """What the window says, unknown values included; see ``read``."""
        shown = self.raster.read_mask(window) if self.raster.has_mask else None
        return self.interpret(self.raster.read_raw(window), shown)

    def interpret(self, pixels: NDArray[Any], shown: NDArray[np.bool_] | None = None) -> Decoded:
        """What stored pixels of this raster say, (bands, h, w), however they were read.

        ``shown``: where the raster's mask, if it has one, has data, (h, w). Raises InputError for colours that are
        not of 8 bits.
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
        """Pixels of each value or colour that is unlabelled, by its name for people; the unknown left out.

        ``counted``: where (h, w) pixels count; None: everywhere.
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
        """A stored value or colour for people."""
        return f"#{int(stored):06X}" if self.holds_colors else f"{stored:g}"

    def _look_up(self, values: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.bool_]]:
        labels, unknown = look_up(self._values, values)
        nodata = stored_nodata(self.raster.nodata, values.dtype.name)
        if nodata is not None and values.dtype.kind == "f":  # a rounded tag is no key of a table
            unknown &= ~is_nodata(values, nodata)
        return labels, values, unknown

    def _meaning(self) -> Mapping[int, int]:
        """What values of one band stand for; the class table is asked before the file's own nodata value."""
        values, nodata = self._colors.values_for(self._classes), self.raster.nodata
        if nodata is None or not math.isfinite(nodata) or int(nodata) != nodata:
            return values
        own = {int(nodata): NODATA}
        return own | dict(values) if self._colors.told else dict(values) | own

    def _palette_colors(self) -> NDArray[np.uint32] | None:
        """Packed colour of each value; None where values mean what they mean without a palette."""
        palette = read_palette(self.raster)
        if palette is None:
            return None
        if not choose_palette(palette, self._colors.index, NODATA) and (
            self._colors.told or is_ramp(palette) or self._holds_own_classes()
        ):
            return None
        return palette_table(palette, self.raster.dtypes[0])

    def _holds_own_classes(self) -> bool:
        """Whether rsedge wrote the raster: its tag says that values are class indices, whatever colours show them."""
        return tag_of(Path(self.raster.path), CLASSES_TAG) is not None

    @property
    def remedy(self) -> str:
        """What to do about colours that are no class."""
        named = "name them in a class table (--classes FILE), under [classes] or ignore"
        if self._palette is None:
            return named
        return f"{named}; if values are meant whatever the palette shows, give the classes theirs there, as in NAME = 0"

    def _complaint(self, decoded: Decoded, window: Window) -> str:
        origin = (window.row, window.col)
        if self.holds_colors:
            return f"{self.raster.path}: {describe_colors(decoded.stored, decoded.unknown, origin)}; {self.remedy}"
        rows, cols = np.nonzero(decoded.unknown)
        values = ", ".join(f"{v:g}" for v in np.unique(decoded.stored[decoded.unknown])[:5])
        if self._colors.told:
            named = ", ".join(map(str, sorted(self._values)))
            known = f"the class table names {named}; add them there under [classes] or ignore"
        else:
            known = (
                f"the classes are 0 to {len(self._values) - 1 - (NODATA in self._values)}, {NODATA} is unlabelled; say "
                "otherwise in a class table (--classes FILE, with name = INDEX)"
            )
        return (
            f"{self.raster.path} holds label values {values} ({rows.size} px, first at row "
            f"{window.row + rows[0]}, column {window.col + cols[0]}); {known}"
        )


def settle(colors: LabelColors, labels: Sequence[Path], classes: int) -> tuple[LabelColors, tuple[str, ...]]:
    """The same ``colors``, with greys for values where one-band ``labels`` are pictures in them; and a note.

    One band holds class indices unless all values of all these labels are greys of the table, and more of its
    classes occur if they are read so: 0 and 255 under a table of black and white. Labels that cannot be opened are
    passed over. Labels are read up to the first value that is no grey.

    Raises InputError where as many classes occur either way, and they are others: masks of nothing but 0, where
    black is another class than the first.
    """
    greys, plain = colors.greys, colors.values_for(classes)
    if colors.told or all(i in {NODATA, plain.get(grey)} for grey, i in greys.items()):
        return colors, ()
    seen = set[float]()
    for path in labels:
        for values in _values(path, colors, classes):
            seen |= values
            if not values <= greys.keys():
                return colors, ()
    as_greys, as_indices = ({m[int(v)] for v in seen if v in m} - {NODATA} for m in (greys, plain))
    listed = ", ".join(f"{v:g}" for v in sorted(seen))
    readings = [(greys[int(v)], plain.get(int(v), NODATA)) for v in seen]
    is_open = len(as_greys) == len(as_indices) and all(NODATA not in pair for pair in readings)
    if is_open and any(grey != index for grey, index in readings):
        raise InputError(
            f"one-band labels hold nothing but {listed}, which may be greys of the class table or indices, and are "
            "other classes then; give the classes their values in a class table (--classes FILE), as in "
            f"NAME = {min(seen):g}"
        )
    if len(as_greys) <= len(as_indices):
        return colors, ()
    return replace(colors, values=greys, told=True), (
        f"one-band labels hold {listed}: they are read as the greys of the class table, not as indices",
    )


def _values(path: Path, colors: LabelColors, classes: int) -> Iterator[set[float]]:
    """Which values occur in a one-band label, strip by strip; the file's own nodata value and NaN left out."""
    try:
        with LabelReader(path, colors, classes) as reader, bounded_cache(reader.raster.row_of_blocks_bytes):
            for window in reader.strips() if not reader.holds_colors else ():
                decoded = reader.decode(window)
                band = decoded.stored if decoded.hidden is None else decoded.stored[~decoded.hidden]
                if band.dtype == np.uint8:
                    found = set(map(float, np.flatnonzero(np.bincount(band.ravel(), minlength=256))))
                else:
                    found = set(map(float, np.unique(band[~np.isnan(band)])))
                yield found - {reader.raster.nodata}
    except InputError:
        return  # whoever reads it whole says why


def doubts(
    colors: LabelColors, names: Sequence[str], unlabelled: Mapping[str, int], counts: Sequence[int]
) -> tuple[str, ...]:
    """A note where one-band labels may mean something else than they are taken for.

    That is where NODATA is unlabelled in index masks though the class table has a class of that grey; and where 0
    is unlabelled in much of them while the highest value never occurs, as when they count from 0.

    ``names``: of the classes that ``colors`` has the indices of; ``unlabelled``: pixels by value; ``counts``: pixels
    by class.
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
        f"0 is unlabelled in {zeros} px of labels and {values[last]}, class {names[last]}, never occurs: if they count "
        f"the classes from 0, every class is off by one; then say so in a class table, as in "
        f'"{names[min(values, key=values.__getitem__)]}" = 0',
    )


def _white_doubt(colors: LabelColors, names: Sequence[str], unlabelled: Mapping[str, int]) -> tuple[str, ...]:
    pixels, index = unlabelled.get(str(NODATA), 0), colors.greys.get(NODATA, NODATA)
    if colors.told or not pixels or index == NODATA:
        return ()
    name = names[index]
    return (
        f"{pixels} px of {NODATA} in one-band labels are taken for unlabelled, since others hold indices; if they are "
        f'the white of class {name}, give the classes their values in a class table, as in "{name}" = {NODATA}',
    )


def find_missing(
    labels: Sequence[Path], colors: LabelColors, classes: int
) -> tuple[frozenset[int], Counter[str]]:
    """Classes that the table names and no label shows, and what is unlabelled instead: pixels by value.

    Reads strips of labels until all classes were met; the count is of all labels where one is missing. Raises
    InputError for values that are no class.
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
    """Indices of the classes that labels can show, of those a model knows."""
    return colors.classes if colors.values is not None else frozenset(range(classes))


def describe_missing(names: Sequence[str], unlabelled: Mapping[str, int], unknown: int = 0) -> str:
    """What to say where classes of these names have no label pixel.

    ``unlabelled``: pixels of each value or colour taken for that; ``unknown``: pixels that belong to no class.
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
        what = "Take labels that show them, or correct the class table"
    listed = "; ".join(said) or "no pixel is unlabelled"
    return f"no label pixel of {which}; {listed}. {what}; {ALLOW_MISSING} goes on without"
