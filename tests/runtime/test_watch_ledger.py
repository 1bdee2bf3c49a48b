from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from rsedge.errors import InputError, OutputError, RsedgeError
from rsedge.watch_ledger import LINES, PULSE, Entry, Ledger, State, check_pulse

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
        pytest.raises(InputError, match="another rsedge watch writes to"),
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
    with pytest.raises(RsedgeError, match="has had no watcher"):
        check_pulse(tmp_path)
    with Ledger(tmp_path):
        check_pulse(tmp_path)
    for age_s in (310, -3600):  # the clock may have been set back
        then = time.time() - age_s
        os.utime(tmp_path / PULSE, (then, then))
        with pytest.raises(RsedgeError, match="not been heard of for") as caught:
            check_pulse(tmp_path)
        assert caught.value.exit_code == 1
