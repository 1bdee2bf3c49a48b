"""Ground truth: the meaning of the colours and values in labels."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.documents import parse_toml, read_bytes
from rsedge.errors import InputError
from rsedge.model.manifest import NODATA, ClassInfo, Manifest

CLASSES_FILE = "classes.toml"
TO_8_BITS = (
    "convert it to 8 bits per band with `gdal_translate -ot Byte` (from 16 bits: `-scale 0 65535 0 255`)"
)
Entry = int | str | tuple[int, int, int]  # of a class table: an index, a class name, a colour


@dataclass(frozen=True)
class LabelColors:
    """Meaning of label pixels: a class index, or NODATA for unlabelled.

    ``index``: by colour, packed RGB (0xRRGGBB). ``values``: by value in one-band labels; None if they hold class
    indices, with NODATA for unlabelled. ``told``: True if a table names the values, so that they are not greys.
    """

    index: Mapping[int, int]
    values: Mapping[int, int] | None = None
    told: bool = False

    @classmethod
    def of_classes(
        cls, classes: tuple[ClassInfo, ...], unlabelled: tuple[tuple[int, int, int], ...] = ()
    ) -> LabelColors:
        """Return the colours that a model paints with; black is unlabelled too unless a class has it."""
        own = {pack_color(c.color): i for i, c in enumerate(classes)}
        return cls({0: NODATA, **dict.fromkeys(map(pack_color, unlabelled), NODATA), **own})

    @classmethod
    def read(cls, path: Path, class_names: tuple[str, ...]) -> LabelColors:
        """Read a ``classes.toml`` (see ``ClassTable``) for a model that knows ``class_names``.

        Raises InputError if the file cannot be read or its classes are not the model's.
        """
        return ClassTable.read(path).colors_for(class_names, str(path))

    @property
    def classes(self) -> frozenset[int]:
        """Indices of the named classes."""
        return frozenset({*self.index.values(), *(self.values or {}).values()} - {NODATA})

    @property
    def greys(self) -> dict[int, int]:
        """Class indices of the grey colours, by grey value."""
        return {c & 255: i for c, i in self.index.items() if c == (c & 255) * 0x010101}

    def values_for(self, classes: int) -> Mapping[int, int]:
        """Return the meaning of values in one-band labels for a model of so many ``classes``."""
        return plain_values(classes) if self.values is None else self.values

    def encode(
        self, rgb: NDArray[np.uint8], source: str, origin: tuple[int, int] = (0, 0)
    ) -> NDArray[np.uint8]:
        """Return class indices (h, w) of a label image (3, h, w), NODATA for unlabelled.

        ``origin``: row and column of its first pixel. Raises InputError with counts and first positions if the
        image holds an unknown colour.
        """
        packed = pack(rgb, source)
        indices, unknown = self.lookup(packed)
        if unknown.any():
            raise InputError(
                f"{source}: {describe_colors(packed, unknown, origin)}. Name them in a class table "
                "(--classes FILE), under [classes] or ignore."
            )
        return indices

    def lookup(self, packed: NDArray[np.uint32]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return class indices of packed colours (NODATA if unknown), and a mask of the unknown ones."""
        return look_up(self.index, packed)


def plain_values(classes: int) -> dict[int, int]:
    """Return the class indices and NODATA, each mapped to itself."""
    return {NODATA: NODATA, **{i: i for i in range(classes)}}


def look_up(meaning: Mapping[int, int], stored: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the class index of each value (NODATA if unknown), and a mask of the unknown; NaN is known NODATA."""
    if stored.dtype == np.uint8:
        table, strange = np.full(256, NODATA, np.uint8), np.ones(256, np.bool_)
        for value, index in meaning.items():
            if 0 <= value <= 255:
                table[value], strange[value] = index, False
        return table[stored], strange[stored]
    fit = meaning
    if stored.dtype.kind in "iu":
        limits = np.iinfo(stored.dtype)
        fit = {v: i for v, i in meaning.items() if limits.min <= v <= limits.max}
    known = np.array(sorted(fit) or [0], stored.dtype)
    place = np.searchsorted(known, stored).clip(max=len(known) - 1)
    unknown = known[place] != stored if fit else np.ones(stored.shape, np.bool_)
    indices = np.array([fit.get(v, NODATA) for v in sorted(fit) or [0]], np.uint8)[place]
    indices[unknown] = NODATA
    if stored.dtype.kind == "f":
        unknown &= ~np.isnan(stored)
    return indices, unknown


@dataclass(frozen=True)
class ClassTable:
    """Classes of a data set with their label colours, in index order.

    ``ignore`` holds packed colours of unlabelled pixels. ``values`` holds pairs of a value in one-band labels and
    its class index (NODATA: unlabelled); None if such labels hold the class indices themselves.
    """

    classes: tuple[ClassInfo, ...]
    ignore: tuple[int, ...] = ()
    values: tuple[tuple[int, int], ...] | None = field(default=None, repr=False)

    @classmethod
    def read(cls, path: Path) -> ClassTable:
        """Read ``classes.toml``: a table ``[classes]`` of name = "#RRGGBB" or name = INDEX, and a list ``ignore``.

        Indices are the values in one-band labels; a table ``[colors]`` may give their classes colours. ``ignore``
        holds colours, indices, or names of classes. Raises InputError if the file cannot be read.
        """
        try:
            table = parse_toml(read_bytes(path))
            given = {str(name): _entry(value) for name, value in table["classes"].items()}
            ignored = [v if v in given else _entry(v) for v in table.get("ignore", [])]
            colors = {str(name): _rgb(str(value)) for name, value in table.get("colors", {}).items()}
            return _numbered(given, ignored, colors) if _all_numbers(given) else _colored(given, ignored)
        except OSError as error:
            raise InputError(f"{path} cannot be read as a class table: {error.strerror}") from error
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise InputError(
                f'{path} is not a class table ({error}). It needs [classes] with name = "#RRGGBB" or name = INDEX.'
            ) from error

    def to_toml(self) -> str:
        """Return the table as text for ``read``."""
        meaning = dict(self.values or ())
        lines = [f'"{c.name}" = "#{pack_color(c.color):06X}"' for c in self.classes]
        if self.values is None:
            ignored = ", ".join(f'"#{c:06X}"' for c in self.ignore)
            return "\n".join([f"ignore = [{ignored}]", "", "[classes]", *lines]) + "\n"
        ignored = ", ".join([*(str(v) for v, i in meaning.items() if i == NODATA),
                             *(f'"#{c:06X}"' for c in self.ignore)])  # fmt: skip
        numbers = [f'"{self.classes[i].name}" = {v}' for v, i in meaning.items() if i != NODATA]
        return "\n".join([f"ignore = [{ignored}]", "", "[classes]", *numbers, "", "[colors]", *lines]) + "\n"

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in index order."""
        return tuple(c.name for c in self.classes)

    @property
    def colors(self) -> LabelColors:
        """Meaning of each colour and value."""
        return self.colors_for(self.names, "the class table")

    def colors_for(self, class_names: tuple[str, ...], source: str) -> LabelColors:
        """Return the label colours for a model of ``class_names``; ``source`` names the table in errors.

        Raises InputError if the model lacks a class of the table.
        """
        if unknown := sorted(set(self.names) - set(class_names)):
            raise InputError(
                f"{source} has classes {', '.join(unknown)}, which are not among {', '.join(class_names)}. Use the "
                "model's names in a class table (--classes FILE)."
            )
        places = {i: class_names.index(name) for i, name in enumerate(self.names)} | {NODATA: NODATA}
        own = {pack_color(c.color): places[i] for i, c in enumerate(self.classes)}
        values = plain_values(len(self.classes)) if self.values is None else dict(self.values)
        return LabelColors(
            {**dict.fromkeys(self.ignore, NODATA), **own},
            {value: places[index] for value, index in values.items()},
            told=self.values is not None,
        )


LOVEDA = ClassTable(
    (
        ClassInfo("background", (255, 255, 255)),
        ClassInfo("building", (255, 0, 0)),
        ClassInfo("road", (255, 255, 0)),
        ClassInfo("water", (0, 0, 255)),
        ClassInfo("barren", (159, 129, 183)),
        ClassInfo("forest", (0, 255, 0)),
        ClassInfo("agriculture", (255, 195, 128)),
    ),
    (0,),
    ((0, NODATA), *((i + 1, i) for i in range(7))),
)


def is_loveda(labels: Iterable[Path]) -> bool:
    """Return True if masks lie as in LoveDA's download: in ``Urban/masks_png`` and ``Rural/masks_png``."""
    folders = {tuple(path.absolute().parts[-3:-1]) for path in labels}
    return bool(folders) and all(
        len(f) == 2 and f[0].lower() in {"urban", "rural"} and f[1] == "masks_png" for f in folders
    )


def choose_colors(
    manifest: Manifest, labels: Sequence[Path], folder: Path | None = None, classes: Path | None = None
) -> tuple[LabelColors, str | None]:
    """Return the meaning of labels for a model, and a note on its source.

    The source is the class table ``classes``, else ``classes.toml`` in ``folder``, else LoveDA's table if the labels
    lie as in LoveDA, else the model's own colours. Raises InputError if a table cannot be read or does not fit.
    """
    names = tuple(c.name for c in manifest.classes)
    own = folder / CLASSES_FILE if folder else None
    if classes is not None:
        return LabelColors.read(classes, names), None
    if own is not None and own.is_file():
        return LabelColors.read(own, names), f"classes as in {own}"
    if is_loveda(labels):
        return LOVEDA.colors_for(names, "LoveDA"), "labels of LoveDA: 1 to 7 are its classes, 0 is unlabelled"
    return LabelColors.of_classes(manifest.classes, manifest.unlabelled), None


def pack(rgb: NDArray[Any], source: str) -> NDArray[np.uint32]:
    """Pack 8-bit colours (3, h, w) as 0xRRGGBB, (h, w). Raises InputError for others, naming ``source``."""
    if rgb.dtype != np.uint8:
        if rgb.dtype.kind not in "iu":
            raise InputError(f"{source} holds colours as {rgb.dtype} instead of integers; {TO_8_BITS}")
        if rgb.size and not 0 <= rgb.min() <= rgb.max() <= 255:
            raise InputError(
                f"{source} holds colours with values {rgb.min()} to {rgb.max()}, not 0 to 255; {TO_8_BITS}"
            )
    packed: NDArray[np.uint32] = rgb[0].astype(np.uint32) << 16 | rgb[1].astype(np.uint32) << 8 | rgb[2]
    return packed


def pack_color(color: tuple[int, int, int]) -> int:
    """Pack one colour as 0xRRGGBB."""
    return color[0] << 16 | color[1] << 8 | color[2]


def unpack_color(packed: int) -> tuple[int, int, int]:
    """Unpack 0xRRGGBB into red, green, blue."""
    return packed >> 16, packed >> 8 & 255, packed & 255


def describe_colors(
    packed: NDArray[np.uint32], wrong: NDArray[np.bool_], origin: tuple[int, int] = (0, 0)
) -> str:
    """List the colours under ``wrong``, most frequent first, with pixel counts and first positions."""
    colors, first, counts = np.unique(packed[wrong], return_index=True, return_counts=True)
    rows, cols = np.nonzero(wrong)
    worst = np.argsort(-counts, kind="stable")[:5]
    listed = ", ".join(
        f"#{colors[i]:06X} ({counts[i]} px, first at row {origin[0] + rows[first[i]]}, "
        f"column {origin[1] + cols[first[i]]})"
        for i in worst
    )
    return f"{len(colors)} colours belong to no class: {listed}"


def distinct_color(index: int) -> tuple[int, int, int]:
    """Return a colour far from its neighbours' by stepping the hue with the golden ratio."""
    hue, value = index * 0.618034 % 1, (0.95, 0.7, 0.5)[index // 8 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _colored(given: Mapping[str, Entry], ignored: list[Entry]) -> ClassTable:
    """Make a table of colours; indices count all classes in order, including ignored ones."""
    numbers = [v for v in ignored if isinstance(v, int)]
    names = {v for v in ignored if isinstance(v, str)}
    kept = [name for name in given if name not in names]
    if clash := [n for n in numbers if 0 <= n < len(given)]:
        raise ValueError(
            f"ignore has the index {clash[0]}, which is class {list(given)[clash[0]]}; give the classes "
            f"indices too, as in {kept[0] if kept else 'name'} = 1"
        )
    colors = {name: color for name, color in given.items() if isinstance(color, tuple)}
    dropped = [pack_color(colors[name]) for name in given if name in names]
    classes = tuple(ClassInfo(name, colors[name]) for name in kept)
    packed = (*(pack_color(v) for v in ignored if isinstance(v, tuple)), *dropped)
    if not numbers and not names:
        return ClassTable(classes, packed)
    places = {i: kept.index(name) if name in kept else NODATA for i, name in enumerate(given)}
    return ClassTable(
        classes, packed, tuple({**places, NODATA: NODATA, **dict.fromkeys(numbers, NODATA)}.items())
    )


def _numbered(
    given: Mapping[str, Entry], ignored: list[Entry], colors: Mapping[str, tuple[int, int, int]]
) -> ClassTable:
    """Make a table of indices, in their order."""
    if stray := sorted(set(colors) - set(given)):
        raise ValueError(f"[colors] names {stray[0]}, which is not in [classes]")
    numbers = {v: name for name, v in given.items() if isinstance(v, int)}
    if len(numbers) < len(given):
        raise ValueError("two classes have the same index")
    unlabelled = {given[v] if isinstance(v, str) else v for v in ignored}
    if clash := sorted(v for v in ignored if isinstance(v, int) and v in numbers):
        raise ValueError(f"the index {clash[0]} is class {numbers[clash[0]]} and in ignore")
    kept = [v for v in sorted(numbers) if v not in unlabelled]
    names = [numbers[v] for v in kept]
    classes = tuple(ClassInfo(n, colors.get(n, distinct_color(i))) for i, n in enumerate(names))
    packed = tuple(pack_color(v) for v in unlabelled if isinstance(v, tuple))
    nothing = sorted(v for v in unlabelled if isinstance(v, int))
    return ClassTable(
        classes, packed, (*zip(kept, range(len(kept)), strict=True), *((v, NODATA) for v in nothing))
    )


def _all_numbers(given: Mapping[str, Entry]) -> bool:
    numbers = sum(isinstance(v, int) for v in given.values())
    if numbers not in {0, len(given)}:
        raise ValueError("some classes have a colour and some an index; use one kind for all")
    return numbers > 0


def _entry(value: object) -> Entry:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError(f"{value!r} is neither #RRGGBB nor an index")
    return value if isinstance(value, int) else _rgb(value)


def _rgb(color: str) -> tuple[int, int, int]:
    if not re.fullmatch("#?[0-9A-Fa-f]{6}", color):
        raise ValueError(f"colour {color!r} is not #RRGGBB")
    return unpack_color(int(color.removeprefix("#"), 16))
