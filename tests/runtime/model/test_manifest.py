from __future__ import annotations

import json
import math

import pytest

from rsedge.errors import ModelError
from rsedge.model.manifest import ClassInfo, Manifest
from toys import CLASSES, pointwise_manifest


def test_json_and_back() -> None:
    manifest = pointwise_manifest(
        gsd_m=(0.25, 1.0), unlabelled=((1, 2, 3),), provenance={"seed": 3}, complexity={"params": 9}
    )
    assert Manifest.from_json(manifest.to_json(), "here") == manifest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fill": (1.0,)}, "1 fill values for 3 bands"),
        ({"dtype": "int64"}, "not one of uint8"),
        ({"tile": 0}, "from 1 to 8192"),
        ({"classes": CLASSES[:1]}, "2 to 255"),
        ({"classes": (CLASSES[0], CLASSES[0])}, "repeat"),
        ({"gsd_m": (2.0, 1.0)}, "finest, coarsest"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        pointwise_manifest(**changes)


@pytest.mark.parametrize("color", [(1, 2), (1, 2, 256), (1, 2, 0.5)])
def test_colours_are_three_bytes(color: tuple[object, ...]) -> None:
    with pytest.raises(ModelError, match="0..255"):
        ClassInfo("red", color)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rsedge_schema": 1}', "null", "\x00"])
def test_foreign_json_is_refused_by_name(text: str) -> None:
    with pytest.raises(ModelError, match="some/file: not an rsedge manifest"):
        Manifest.from_json(text, "some/file")


def test_a_later_schema_asks_for_an_upgrade() -> None:
    facts = {**json.loads(pointwise_manifest().to_json()), "rsedge_schema": 2}
    with pytest.raises(ModelError, match="Upgrade rsedge"):
        Manifest.from_json(json.dumps(facts), "file")


def told(**changes: object) -> str:
    return json.dumps({**json.loads(pointwise_manifest().to_json()), **changes})


BLACK = [0, 0, 0]
LONG = "x" * 201


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 5}, "name: expected a text, not 5"),
        ({"name": ""}, "its name is empty"),
        ({"name": "a\x1b[2J"}, r"its name contains the character U\+001B"),
        ({"name": LONG}, "201 characters"),
        ({"bands": "rgb"}, 'bands: expected a list, not "rgb"'),
        ({"bands": ["red", "green", True]}, r"bands\[2\]: expected a text, not true"),
        ({"dtype": ["uint8"]}, "dtype: expected a text"),
        ({"dtype": "int8"}, "input dtype 'int8'"),
        ({"tile": 1e18}, "tile: expected a whole number, not 1e.18"),
        ({"tile": float("inf")}, "tile: expected a whole number, not Infinity"),
        ({"tile": 64.0}, "tile: expected a whole number, not 64.0"),
        ({"tile": True}, "tile: expected a whole number, not true"),
        ({"tile": 8193}, "from 1 to 8192"),
        ({"tile": "64"}, 'tile: expected a whole number, not "64"'),
        ({"fill": 1}, "fill: expected a list, not 1"),
        *(({"fill": [v, 1, 1]}, "is not a value of uint8") for v in (1e300, -1, 999)),
        *(({"fill": [v, 1, 1]}, r"fill\[0\]: ") for v in (math.nan, math.inf, 10**400, "1", True, None)),
        ({"dtype": "uint16", "fill": [65536, 1, 1]}, "is not a value of uint16"),
        ({"dtype": "float32", "fill": [1e39, 1, 1]}, "is not a value of float32"),
        ({"classes": {}}, "classes: expected a list, not {}"),
        *(({"classes": [{"name": v, "color": BLACK}] * 2}, r"name: expected a text") for v in (1, 1.5, True, None, [])),
        ({"classes": [{"name": "a", "color": 5}] * 2}, r"classes\[0\].color: expected a list, not 5"),
        ({"classes": [{"name": "a", "color": [0, 0, True]}] * 2}, r"color\[2\]: expected a whole number, not true"),
        ({"classes": [{"name": "a", "color": [0, 0, 256]}] * 2}, "0..255"),
        ({"classes": [{"name": "\ud800", "color": BLACK}] * 2}, r"U\+D800"),
        ({"classes": [{"name": "a\u202eb", "color": BLACK}] * 2}, r"U\+202E"),
        ({"classes": [5, 6]}, r"classes\[0\]: expected an object, not 5"),
        ({"gsd_m": [1]}, "gsd_m: expected a list of 2"),
        ({"gsd_m": [1, 2, 3]}, "gsd_m: expected a list of 2"),
        ({"gsd_m": [2, 1]}, "finest, coarsest"),
        ({"gsd_m": [1, float("inf")]}, r"gsd_m\[1\]: Infinity is beyond"),
        ({"gsd_m": ["1", "2"]}, r"gsd_m\[0\]: expected a number"),
        ({"gsd_m": 5}, "gsd_m: expected a list, not 5"),
        ({"unlabelled": [[1, 2]]}, "unlabelled"),
        ({"unlabelled": [[1, 2, 256]]}, "unlabelled"),
        ({"unlabelled": [5]}, r"unlabelled\[0\]: expected a list, not 5"),
        ({"provenance": []}, r"provenance: expected an object, not \[\]"),
        ({"complexity": 5}, "complexity: expected an object, not 5"),
        ({"rsedge_schema": [2]}, "manifest schema"),
    ],
)  # fmt: skip
def test_each_field_is_of_its_kind_and_range(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        Manifest.from_json(told(**changes), "some/file")
    assert str(caught.value).startswith("some/file: ")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, told(provenance=json.loads("[" * 200 + "]" * 200))]
)
def test_a_manifest_that_is_too_deep(text: str) -> None:
    with pytest.raises(ModelError, match="some/file: "):
        Manifest.from_json(text, "some/file")
