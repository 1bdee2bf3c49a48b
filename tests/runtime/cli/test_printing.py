"""What the command line prints of names that others chose."""

from __future__ import annotations

import io
import json
import logging
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rsedge.cli import common, training
from rsedge.errors import InputError

Call = Callable[..., tuple[int, str, str]]
Write = Callable[..., Path]
Noise = Callable[..., np.ndarray]
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
FORGED = "new\nline: 9.9 s, done.tif"
COLOURED = "e\x1b[31m\u202ered.tif"


def test_a_name_forges_no_line_of_a_watchers_log(
    call_rsedge: Call, bundle: Path, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for name in (FORGED, COLOURED):
        write_raster(noise(70, 70), "made.tif").rename(tmp_path / "in" / name)
        (tmp_path / "in" / f"broken {name}").write_bytes(b"II*\0")
    arguments = [str(tmp_path / "in"), "--out-dir", str(tmp_path / "out"), "--model", str(bundle)]
    code, out, err = call_rsedge("watch", *arguments, "--settle", "0", "--once")
    assert code == 2
    assert not RAW.search(out + err)
    assert sorted(line.partition(": ")[0] for line in out.splitlines()) == [
        r"e\x1b[31m\u202ered.tif",
        r"new\nline",
    ]
    assert {line.partition(": ")[0] for line in err.splitlines()} <= {"note", "refused", "error"}
    assert len(re.findall("^refused: ", err, re.MULTILINE)) == 2


def test_an_error_is_one_line(call_rsedge: Call, bundle: Path, tmp_path: Path) -> None:
    for name in (FORGED, COLOURED):
        code, out, err = call_rsedge(
            "infer", str(tmp_path / name), "--out", str(tmp_path / "m.tif"), "--model", str(bundle)
        )
        assert (code, out) == (2, "")
        assert not RAW.search(err)
        assert [line[:7] for line in err.splitlines()] == ["error: "]


def test_what_an_error_lists_is_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    error = InputError(f"{FORGED} holds two", below=["a", "error: b\x1b", "c\nd"])
    common.complain_of(error)
    shown = capsys.readouterr().err
    assert shown == "error: new\\nline: 9.9 s, done.tif holds two\n    a\n    error: b\\x1b\n    c\\nd\n"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_one_of_many_that_fails_is_one_line(
    call_rsedge: Call, bundle: Path, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    good = write_raster(noise(70, 70))
    (tmp_path / FORGED).write_bytes(b"II*\0")
    _, _, err = call_rsedge(
        "infer", str(good), str(tmp_path / FORGED), "--out-dir", str(tmp_path / "o"), "--model", str(bundle)
    )
    assert all(line.startswith(("note: ", "error: ")) for line in err.splitlines())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_no_encoding_keeps_a_result_from_being_printed(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    for name, tell in (("stdout", common.say), ("stderr", common.complain)):
        stream = io.TextIOWrapper(io.BytesIO(), encoding)
        monkeypatch.setattr(sys, name, stream)
        tell("Gebäude \N{SNOWMAN} \ud800")
        shown = stream.buffer.getvalue().decode(encoding)
        assert shown.startswith("Geb")
        assert r"\ud800" in shown
        assert (r"\u2603" in shown) == (encoding != "utf-8")


def test_json_is_json_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"a\x7f\x1b\ud800\u202e": ["\n\x7f"]}
    common.say_json(facts)
    out = capsys.readouterr().out
    assert json.loads(out) == facts
    assert out.strip().isascii()
    assert out.strip().isprintable()


def test_a_notes_further_lines_are_indented(capsys: pytest.CaptureFixture[str]) -> None:
    common.note("classes:\nerror: forged\x1b", quiet=False)
    assert capsys.readouterr().err == "note: classes:\n    error: forged\\x1b\n"


def test_a_name_is_no_format_of_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", stream)
    with common.progress_bar("a{task.nothing}[red]\x1b]0;title\x07.tif", quiet=False) as report:
        assert report
        report(1, 2)
    assert "{task.nothing}[red]" in stream.getvalue()
    assert "\x1b]0;title" not in stream.getvalue()


def test_logging_goes_the_same_way() -> None:
    record = logging.LogRecord("rsedge_train", logging.INFO, "", 0, "scene %s", ("a\x1b\nerror: b",), None)
    assert training._Printable().format(record) == "scene a\\x1b\n    error: b"


def test_nothing_else_prints() -> None:
    """One place writes to the terminal; what measures models has a pipe of its own."""
    for package in ("runtime/rsedge", "runtime/rsedge_sample", "train/rsedge_train", "export/rsedge_export"):
        for path in (Path(__file__).parents[3] / package).rglob("*.py"):
            if path.parts[-2:] != ("cli", "common.py"):
                assert not re.search(r"(?<![\w.])print\((?!c\.name)", path.read_text(encoding="utf-8")), path
