from __future__ import annotations

import json

import pytest

from rsedge.errors import ModelError
from rsedge.manifest import ClassInfo, Manifest
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
        ({"tile": 0}, "positive"),
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
    with pytest.raises(ModelError, match="upgrade rsedge"):
        Manifest.from_json(json.dumps(facts), "file")
