"""What a model expects and what its numbers mean. The same facts stand in every ONNX's metadata."""

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
LARGEST = {"uint8": 255.0, "uint16": 65535.0, "float32": 3.4028234e38}  # value of each
MOST_TILE = 8192  # pixels
MOST_BYTES = 16 << 20  # of the JSON


@dataclass(frozen=True)
class ClassInfo:
    """One land-cover class; its mask value is its place in ``Manifest.classes``."""

    name: str
    color: tuple[int, int, int]  # RGB, 0..255

    def __post_init__(self) -> None:
        _check_name("the name of a class", self.name)
        _check_color(f"class {self.name!r}: color", self.color)


@dataclass(frozen=True)
class Manifest:
    """A model's contract. Preprocessing is inside the graph: bands go in as they are stored.

    Raises ModelError when the facts contradict each other.
    """

    name: str
    bands: tuple[str, ...]  # in the order of the graph's input, e.g. ("red", "green", "blue")
    dtype: str  # of the input as stored: one of DTYPES
    tile: int  # pixels, height = width of the graph's input
    classes: tuple[ClassInfo, ...]
    fill: tuple[float, ...]  # per band, what stands in for nodata pixels: the training mean
    gsd_m: tuple[float, float] | None = None  # ground sampling distances seen in training, finest first
    unlabelled: tuple[tuple[int, int, int], ...] = ()  # colours of label pixels without a class
    provenance: Mapping[str, Any] = field(default_factory=dict)  # data, seeds, scores, licence
    complexity: Mapping[str, Any] = field(default_factory=dict)  # params, MACs of student and teacher

    def __post_init__(self) -> None:
        _check_name("its name", self.name)
        for band in self.bands:
            _check_name("the name of a band", band)
        if not self.bands or len(self.fill) != len(self.bands):
            raise ModelError(f"{len(self.fill)} fill values for {len(self.bands)} bands; give one a band")
        if self.dtype not in DTYPES:
            raise ModelError(f"input dtype {self.dtype!r:.60} is not one of {', '.join(DTYPES)}")
        if not 1 <= self.tile <= MOST_TILE:
            raise ModelError(f"tile {self.tile!r:.60} is not a positive number of pixels up to {MOST_TILE}")
        if not 2 <= len(self.classes) <= NODATA:
            raise ModelError(f"{len(self.classes)} classes; a mask holds 2 to {NODATA}")
        names = [c.name for c in self.classes]
        if len(set(names)) != len(names):
            raise ModelError(f"class names repeat: {', '.join(names)}")
        self._check_numbers()

    def _check_numbers(self) -> None:
        lowest = -LARGEST["float32"] if self.dtype == "float32" else 0
        for value in self.fill:
            if not lowest <= value <= LARGEST[self.dtype]:
                raise ModelError(
                    f"fill {value!r:.60} is no value of {self.dtype}; give each band one of its own"
                )
        if self.gsd_m is not None and not 0 < self.gsd_m[0] <= self.gsd_m[1] < math.inf:
            raise ModelError(f"gsd_m {self.gsd_m!r:.60} is not (finest, coarsest) in metres")
        for color in self.unlabelled:
            _check_color("unlabelled", color)

    @property
    def takes_rgb8(self) -> bool:
        """Whether the model reads what sample scenes are: three bands of 8 bits."""
        return self.dtype == "uint8" and len(self.bands) == 3

    def to_json(self) -> str:
        """The manifest as one JSON object, keys in the order of the fields."""
        return json.dumps({"rsedge_schema": SCHEMA, **asdict(self)})

    @classmethod
    def from_json(cls, text: str | bytes, source: str) -> Manifest:
        """Parse ``to_json``'s output; ``source`` is named in the error.

        Raises ModelError when it is not JSON, of another schema, or lacks a field.
        """
        try:
            return from_json(cls, without_schema(parse_json(text, MOST_BYTES), "rsedge_schema", SCHEMA))
        except OtherSchemaError as error:
            raise ModelError(f"{source}: manifest {error}") from error
        except ValueError as error:
            raise ModelError(f"{source}: not an rsedge manifest ({error}); export the model again") from error


def _check_name(what: str, value: object) -> None:
    """Raise ModelError where it is none: it is printed, and stands in files that others read."""
    if (wrong := odd_name(value)) is not None:
        raise ModelError(f"{what} {wrong}")


def _check_color(what: str, color: object) -> None:
    if not (
        isinstance(color, tuple) and len(color) == 3 and all(type(v) is int and 0 <= v <= 255 for v in color)
    ):
        raise ModelError(f"{what} {color!r:.60} is not three integers 0..255")
