"""What a model expects and what its numbers mean. The same facts stand in every ONNX's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rsedge.errors import ModelError

SCHEMA = 1
NODATA = 255  # mask value of pixels without data; never a class, so at most 255 classes
DTYPES = ("uint8", "uint16", "float32")


@dataclass(frozen=True)
class ClassInfo:
    """One land-cover class; its mask value is its place in ``Manifest.classes``."""

    name: str
    color: tuple[int, int, int]  # RGB, 0..255

    def __post_init__(self) -> None:
        if not self.name:
            raise ModelError("a class has no name")
        if len(self.color) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in self.color):
            raise ModelError(f"class {self.name!r}: color {self.color} is not three integers 0..255")


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
        if not self.bands or len(self.fill) != len(self.bands):
            raise ModelError(f"{len(self.fill)} fill values for {len(self.bands)} bands; give one a band")
        if self.dtype not in DTYPES:
            raise ModelError(f"input dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        if self.tile < 1:
            raise ModelError(f"tile {self.tile} is not a positive number of pixels")
        if not 2 <= len(self.classes) <= NODATA:
            raise ModelError(f"{len(self.classes)} classes; a mask holds 2 to {NODATA}")
        names = [c.name for c in self.classes]
        if len(set(names)) != len(names):
            raise ModelError(f"class names repeat: {', '.join(names)}")
        if self.gsd_m is not None and not 0 < self.gsd_m[0] <= self.gsd_m[1]:
            raise ModelError(f"gsd_m {self.gsd_m} is not (finest, coarsest) in metres")

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
            facts = json.loads(text)
            schema = facts.pop("rsedge_schema")
            if schema != SCHEMA:
                raise ModelError(
                    f"{source}: manifest schema {schema}, this rsedge reads {SCHEMA}; upgrade rsedge"
                )
            classes = tuple(ClassInfo(c["name"], tuple(c["color"])) for c in facts.pop("classes"))
            gsd_m = facts.pop("gsd_m", None)
            return cls(
                name=str(facts["name"]),
                bands=tuple(map(str, facts["bands"])),
                dtype=str(facts["dtype"]),
                tile=int(facts["tile"]),
                classes=classes,
                fill=tuple(map(float, facts["fill"])),
                unlabelled=tuple((int(r), int(g), int(b)) for r, g, b in facts.get("unlabelled", ())),
                gsd_m=(float(gsd_m[0]), float(gsd_m[1])) if gsd_m else None,
                provenance=dict(facts.get("provenance", {})),
                complexity=dict(facts.get("complexity", {})),
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(
                f"{source}: not an rsedge manifest ({type(error).__name__}: {error}); export the model again"
            ) from error
