from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from rsedge import InputError
from rsedge.documents import (
    MOST_DEPTH,
    MOST_NAME,
    Count,
    from_json,
    odd_name,
    parse_json,
    parse_toml,
    read_bytes,
    to_dict,
)


class TestReadBytes:
    def test_a_file_and_a_link_to_one(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"12345")
        (tmp_path / "b").symlink_to("a")
        (tmp_path / "empty").touch()
        assert (read_bytes(tmp_path / "a", 5), read_bytes(tmp_path / "b")) == (b"12345", b"12345")
        assert read_bytes(tmp_path / "empty") == b""
        with pytest.raises(ValueError, match="5 bytes, but at most 4"):
            read_bytes(tmp_path / "a", 4)

    def test_what_is_no_file_is_neither_read_nor_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "zero").symlink_to("/dev/zero")
        for path in (tmp_path / "pipe", tmp_path / "zero", tmp_path):
            with pytest.raises((ValueError, OSError), match="not a regular file|directory"):
                read_bytes(path)
        with pytest.raises(FileNotFoundError):
            read_bytes(tmp_path / "none")

    def test_a_file_of_the_kernel_that_has_no_size(self) -> None:
        with pytest.raises(ValueError, match="changed during reading"):
            read_bytes(Path("/proc/self/status"))


DEEP = [
    "[" * 100_000,
    "[" * 100_000 + "]" * 100_000,
    '{"a":' * 100_000 + "1" + "}" * 100_000,
    "[" * 101 + "]" * 101,
]


class TestParse:
    def test_what_is_there(self) -> None:
        assert parse_json('{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}
        assert parse_json(b"[1]") == [1]
        assert parse_toml("a = [1, 2]\n[b]\nc = 'x'") == parse_toml(b"a = [1, 2]\n[b]\nc = 'x'")

    def test_depth(self) -> None:
        fits = "[" * MOST_DEPTH + "]" * MOST_DEPTH
        assert parse_json(fits) == json.loads(fits)
        wide = json.dumps([[[1] * 10] * 1000] * 10)
        assert parse_json(wide) == json.loads(wide)

    @pytest.mark.parametrize("text", DEEP, ids=range(len(DEEP)))
    def test_too_deep_is_a_value_error(self, text: str) -> None:
        with pytest.raises(ValueError):
            parse_json(text)

    @pytest.mark.parametrize(
        "text",
        ["a = " + "[" * 100_000, "a = " + "{b = " * 100_000, "a = " + "[" * 150 + "]" * 150, "\xff", "a"],
    )
    def test_toml_too(self, text: str) -> None:
        with pytest.raises(ValueError):
            parse_toml(text)

    @pytest.mark.parametrize("data", [b"\xff\xfe", b"\xe4", b"9" * 5000, b"", b"{", b"[" + b"1" * 11])
    def test_no_json_and_too_much_of_it(self, data: bytes) -> None:
        with pytest.raises(ValueError):
            parse_json(data, 10)

    def test_sizes(self) -> None:
        with pytest.raises(ValueError, match="at most 3"):
            parse_json("[1, 2]", 3)
        with pytest.raises(ValueError, match="at most 3"):
            parse_toml("a = 1", 3)


@pytest.mark.parametrize("name", ["water", "Gewässer", "水", "می‌شود", "👩‍🌾", "a b", "x" * MOST_NAME])
def test_names(name: str) -> None:
    assert odd_name(name) is None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "is empty"),
        (5, "is a int"),
        (None, "is a NoneType"),
        ("x" * (MOST_NAME + 1), "201 characters"),
        ("a\x1b[2J", r"U\+001B"),
        ("a\nerror: b", r"U\+000A"),
        ("a\x85", r"U\+0085"),
        ("\ud800", r"U\+D800"),
        ("a\u202egnp.exe", r"U\+202E"),
        ("a\u2028b", r"U\+2028"),
    ],
)
def test_what_is_no_name(name: object, why: str) -> None:
    import re

    assert re.search(why, str(odd_name(name)))


@dataclass(frozen=True)
class Inner:
    name: str
    sizes: tuple[Count, ...] = ()

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise InputError("bad is no name")


@dataclass(frozen=True)
class Outer:
    class_: str
    share: float
    done: bool
    pair: tuple[float, str]
    inner: Inner
    many: tuple[Inner, ...]
    by_number: Mapping[int, float | None]
    offset: int = -1
    maybe: Inner | None = None
    rest: Mapping[str, Any] = field(default_factory=dict)


def _outer(**changes: Any) -> dict[str, Any]:
    facts = {
        "class": "water", "share": 1, "done": True, "pair": [2, "b"], "inner": {"name": "a", "sizes": [0, 3]},
        "many": [{"name": "x"}, {"name": "y"}], "by_number": {"8": 0.5, "1": None}, "rest": {"any": [None, {}]},
    }  # fmt: skip
    return {**facts, **changes}


def test_a_record_is_read_as_it_was_written() -> None:
    made = from_json(Outer, _outer())
    inner = Inner("a", (0, 3))
    assert made == Outer(
        "water",
        1.0,
        True,
        (2.0, "b"),
        inner,
        (Inner("x"), Inner("y")),
        {8: 0.5, 1: None},
        rest={"any": [None, {}]},
    )
    assert isinstance(made.share, float)
    assert from_json(Outer, parse_json(json.dumps(to_dict(made)))) == made
    assert to_dict(made)["class"] == "water"
    assert from_json(Outer, _outer(offset=None, maybe={"name": "m"}, odd=1)) == replace(
        made, maybe=Inner("m")
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"share": "1"}, 'share: expected a number, not "1"'),
        ({"share": True}, "share: expected a number, not true"),
        ({"share": math.nan}, "share: NaN is beyond"),
        ({"share": math.inf}, "share: Infinity is beyond"),
        ({"share": None}, "share: expected a number, not null"),
        ({"done": 1}, "done: expected true or false, not 1"),
        ({"offset": 2.0}, "offset: expected a whole number, not 2.0"),
        ({"offset": False}, "offset: expected a whole number, not false"),
        ({"offset": 10**400}, "offset: 1000.* is beyond"),
        ({"class": ["a"] * 99}, r'class: expected a text, not \["a", .*\.\.\.$'),
        ({"pair": [1]}, r"pair: expected a list of 2, not \[1\]"),
        ({"pair": [1, 2]}, r"pair\[1\]: expected a text, not 2"),
        ({"pair": {"0": 1}}, "pair: expected a list, not"),
        ({"inner": []}, r"inner: expected an object, not \[\]"),
        ({"inner": {}}, "inner.name: is missing"),
        ({"inner": {"name": "a", "sizes": [0, -1]}}, r"inner.sizes\[1\]: expected a whole number from 0 on, not -1"),
        ({"many": [{"name": "x"}, {"name": "bad"}]}, r"many\[1\]: bad is no name"),
        ({"by_number": {"one": 1.0}}, "by_number.one: expected whole numbers as keys"),
        ({"by_number": {"1": "x"}}, "by_number.1: expected a number"),
        ({"maybe": {"name": 1}}, "maybe.name: expected a text, not 1"),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_named_with_its_place(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        from_json(Outer, _outer(**changes))


def test_bounds_and_keys_that_nobody_knows() -> None:
    with pytest.raises(ValueError, match=r"^inner.size: no such key is known"):
        from_json(Outer, _outer(inner={"name": "a", "size": 1}), exact=True)
    with pytest.raises(ValueError, match=r"^share: 1e-31 is beyond"):
        from_json(Outer, _outer(share=1e-31), least=1e-30)
    with pytest.raises(ValueError, match=r"^by_number.1: 1e\+19 is beyond"):
        from_json(Outer, _outer(by_number={"1": 1e19}), most=1e18)
    assert from_json(Outer, _outer(share=0, by_number={"1": math.nan}), least=1e-30).by_number == {1: None}
    with pytest.raises(ValueError, match=r"^expected an object, not 3"):
        from_json(Outer, 3)
