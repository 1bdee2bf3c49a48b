from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from rsedge.errors import InputError, OutputError, RsedgeError
from rsedge.watch.ledger import LINES, LOCK, PULSE, Entry, Ledger, State, check_pulse

A = Entry("a.tif", 10, 111, "a.tif", "model", "settings")
B = Entry("b\n.tif", 20, 222, "b\n.tif", "model", "settings", "broken: \N{SNOWMAN}")
NEW_A = Entry("a.tif", 11, 112, "a.tif", "model", "settings", "broken now")


def filled(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    with Ledger(folder) as ledger:
        for entry in (A, B, NEW_A):
            ledger.add(entry)
    return folder / LINES


def test_of_several_lines_of_a_raster_the_last_counts(tmp_path: Path) -> None:
    filled(tmp_path)
    with Ledger(tmp_path) as ledger:
        assert ledger.entries == {"a.tif": NEW_A, "b\n.tif": B}
        assert ledger.accounts_for("a.tif", NEW_A.state, "settings")
        assert not ledger.accounts_for("a.tif", A.state, "settings")
        assert not ledger.accounts_for("a.tif", NEW_A.state, "other settings")
        assert not ledger.accounts_for("c.tif", A.state, "settings")
        assert ledger.owner("A.tif") == "a.tif"  # the mask of its older contents is still there
        assert ledger.owner("b\n.tif") is None


def test_a_line_that_was_torn_anywhere_counts_as_not_written(tmp_path: Path) -> None:
    whole = filled(tmp_path / "whole").read_bytes()
    ends = [i for i, byte in enumerate(whole) if byte == ord("}")]  # of the lines
    for end in range(0, len(whole), 7):
        folder = tmp_path / str(end)
        folder.mkdir()
        (folder / LINES).write_bytes(whole[:end])
        with Ledger(folder) as ledger:
            there = [e for e, last in zip((A, B, NEW_A), ends, strict=True) if last < end]
            assert ledger.entries == {e.source: e for e in there}
            ledger.add(NEW_A)
        with Ledger(folder) as ledger:
            assert ledger.entries["a.tif"] == NEW_A
    with (tmp_path / "whole" / LINES).open("ab") as file:
        file.write(b'\xff\0\n[1]\n{"source": "x"}\n7\n')
    with Ledger(tmp_path / "whole") as ledger:
        assert ledger.entries == {"a.tif": NEW_A, B.source: B}


def test_two_watchers_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        Ledger(tmp_path),
        pytest.raises(InputError, match="in use by another rsedge watch"),
        Ledger(tmp_path),
    ):
        pass
    with Ledger(tmp_path):
        pass


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nowhere cannot be written"), Ledger(tmp_path / "nowhere"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_can_no_longer_be_written_is_no_good_place(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        tmp_path.chmod(0o500)
        with pytest.raises(OutputError, match="is not writable"):
            ledger.beat()
        tmp_path.chmod(0o700)


def test_a_state_is_the_files_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert State.of(path) is None
    path.write_bytes(b"123")
    os.utime(path, ns=(1, 987654321))
    state = State.of(path)
    assert state is not None
    assert state.is_same(State(3, 987654321))
    assert not state.is_same(State(3, 987654322))
    os.utime(path, ns=(1, 987654321))  # as `cp -p` does
    again = State.of(path)
    assert again is not None
    assert not again.is_same(state)


def test_a_watcher_is_well_while_its_pulse_is_young(tmp_path: Path) -> None:
    with pytest.raises(RsedgeError, match="has never had a watcher"):
        check_pulse(tmp_path)
    with Ledger(tmp_path):
        check_pulse(tmp_path)
    for age_s in (310, -3600):  # the clock may have been set back
        then = time.time() - age_s
        os.utime(tmp_path / PULSE, (then, then))
        with pytest.raises(RsedgeError, match="no sign of life for") as caught:
            check_pulse(tmp_path)
        assert caught.value.exit_code == 1


needs_owners = pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners there")


@needs_owners
@pytest.mark.parametrize("name", [LINES, LOCK, PULSE])
@pytest.mark.parametrize("kind", ["link", "dangling", "hard link", "fifo", "everybody's"])
def test_its_files_are_this_users_alone_and_no_links(tmp_path: Path, name: str, kind: str) -> None:
    victim, folder = tmp_path / "victim.txt", tmp_path / "out"
    folder.mkdir()
    path = folder / name
    if kind != "dangling":
        victim.write_text("years of work")
        os.utime(victim, (1, 1))
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "hard link":
        path.hardlink_to(victim)
    elif kind == "everybody's":
        path.touch()
        path.chmod(0o666)
    else:
        path.symlink_to(victim)
    with pytest.raises(OutputError, match="Remove it|No such device"), Ledger(folder):
        pass
    assert victim.exists() == (kind != "dangling")
    if victim.exists():
        assert (victim.read_text(), victim.stat().st_mtime) == ("years of work", 1)


def test_a_line_in_which_a_bit_has_changed_counts_as_not_written(tmp_path: Path) -> None:
    data = filled(tmp_path / "whole").read_bytes()
    folder = tmp_path / "other"
    folder.mkdir()
    for at in range(len(data)):
        (folder / LINES).write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        with Ledger(folder) as ledger:
            assert set(ledger.entries.values()) <= {A, B, NEW_A}


def test_the_lines_of_the_version_before_count(tmp_path: Path) -> None:
    """Else all that lies there would be segmented again."""
    lines = filled(tmp_path).read_text().splitlines()
    (tmp_path / LINES).write_text("\n".join(line.partition(" ")[2] for line in lines))
    with Ledger(tmp_path) as ledger:
        assert ledger.entries == {"a.tif": NEW_A, "b\n.tif": B}
        ledger.add(A)
    with Ledger(tmp_path) as ledger:
        assert ledger.entries == {"a.tif": A, "b\n.tif": B}


@pytest.mark.parametrize(
    "odd",
    [
        '{"begun": "x.tif", "kept_bytes": 1e999}',
        '{"begun": "x.tif", "kept_bytes": NaN}',
        '{"begun": "x.tif", "kept_bytes": 0, "size_bytes": 1, "mtime_ns": []}',
        "{" + '"a": [' * 100_000,
        '{"begun": ' + "[" * 150 + "]" * 150 + "}",
        '{"left": "' + "x" * (1 << 21) + '"}',
        '{"source": 5}',
        "[]",
        '"x"',
    ],
)
def test_a_line_of_no_kind_of_ours_stops_no_watcher(tmp_path: Path, odd: str) -> None:
    lines = filled(tmp_path)
    lines.write_text(f"{odd}\n{lines.read_text()}{odd}\n")
    with Ledger(tmp_path) as ledger:
        assert ledger.entries == {"a.tif": NEW_A, "b\n.tif": B}
