"""The input that a model expects and the meaning of its output, also stored in every ONNX's metadata."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rsedge.documents import OtherSchemaError, from_json, odd_name, parse_json, without_schema
from rsedge.errors import ModelError

SCHEMA = 1
NODATA = 255  # mask value of pixels without data; never a class, so at most 255 classes
DTYPES = ("uint8", "uint16", "float32")
LARGEST = {"uint8": 255.0, "uint16": 65535.0, "float32": 3.4028234e38}  # largest value of each dtype
MOST_TILE = 8192  # pixels
MOST_BYTES = 16 << 20  # of the JSON


@dataclass(frozen=True)
class ClassInfo:
    """One land-cover class; its mask value is its index in ``Manifest.classes``."""

    name: str
    color: tuple[int, int, int]  # RGB, 0..255

    def __post_init__(self) -> None:
        _check_name("the name of a class", self.name)
        _check_color(f"class {self.name!r}: color", self.color)


@dataclass(frozen=True)
class Manifest:
    """A model's contract. Preprocessing is part of the graph, which takes bands as stored.

    Raises ModelError if the facts contradict each other.
    """

    name: str
    bands: tuple[str, ...]  # in the order of the graph's input, e.g. ("red", "green", "blue")
    dtype: str  # of the input as stored: one of DTYPES
    tile: int  # pixels, height = width of the graph's input
    classes: tuple[ClassInfo, ...]
    fill: tuple[float, ...]  # value per band that replaces nodata pixels: the training mean
    gsd_m: tuple[float, float] | None = None  # ground sampling distances seen in training, finest first
    unlabelled: tuple[tuple[int, int, int], ...] = ()  # colours of label pixels without a class
    provenance: Mapping[str, Any] = field(default_factory=dict)  # data, seeds, scores, licence
    complexity: Mapping[str, Any] = field(default_factory=dict)  # params, MACs of student and teacher

    def __post_init__(self) -> None:
        _check_name("its name", self.name)
        for band in self.bands:
            _check_name("the name of a band", band)
        if not self.bands or len(self.fill) != len(self.bands):
            raise ModelError(f"{len(self.fill)} fill values for {len(self.bands)} bands. Give one per band")
        if self.dtype not in DTYPES:
            raise ModelError(f"input dtype {self.dtype!r:.60} is not one of {', '.join(DTYPES)}")
        if not 1 <= self.tile <= MOST_TILE:
            raise ModelError(f"tile {self.tile!r:.60} is not a number of pixels from 1 to {MOST_TILE}")
        if not 2 <= len(self.classes) <= NODATA:
            raise ModelError(f"{len(self.classes)} classes are impossible: a mask holds 2 to {NODATA}")
        names = [c.name for c in self.classes]
        if len(set(names)) != len(names):
            raise ModelError(f"class names repeat: {', '.join(names)}")
        self._check_numbers()

    def _check_numbers(self) -> None:
        lowest = -LARGEST["float32"] if self.dtype == "float32" else 0
        for value in self.fill:
            if not lowest <= value <= LARGEST[self.dtype]:
                raise ModelError(
                    f"fill {value!r:.60} is not a value of {self.dtype}. Give a valid one for each band"
                )
        if self.gsd_m is not None and not 0 < self.gsd_m[0] <= self.gsd_m[1] < math.inf:
            raise ModelError(f"gsd_m {self.gsd_m!r:.60} is not (finest, coarsest) in metres")
        for color in self.unlabelled:
            _check_color("unlabelled", color)

    @property
    def takes_rgb8(self) -> bool:
        """Return True if the model reads three bands of 8 bits, like the sample scenes."""
        return self.dtype == "uint8" and len(self.bands) == 3

    def to_json(self) -> str:
        """Return the manifest as one JSON object, keys in the order of the fields."""
        return json.dumps({"rsedge_schema": SCHEMA, **asdict(self)})

    @classmethod
    def from_json(cls, text: str | bytes, source: str) -> Manifest:
        """Parse ``to_json``'s output; errors name ``source``.

        Raises ModelError if the text is not JSON, has another schema, or lacks a field.
        """
        try:
            return from_json(cls, without_schema(parse_json(text, MOST_BYTES), "rsedge_schema", SCHEMA))
        except OtherSchemaError as error:
            raise ModelError(f"{source}: manifest {error}") from error
        except ValueError as error:
            raise ModelError(f"{source}: not an rsedge manifest ({error}). Export the model again") from error


def _check_name(what: str, value: object) -> None:
    """Raise ModelError if ``value`` is not a printable name, because names are printed and written to files."""
    if (wrong := odd_name(value)) is not None:
        raise ModelError(f"{what} {wrong}")


def _check_color(what: str, color: object) -> None:
    if not (
        isinstance(color, tuple) and len(color) == 3 and all(type(v) is int and 0 <= v <= 255 for v in color)
    ):
        raise ModelError(f"{what} {color!r:.60} is not three integers 0..255")
