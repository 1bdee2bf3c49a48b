from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rsedge.documents import MOST_DEPTH, MOST_NAME, odd_name, parse_json, parse_toml, read_bytes


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
