from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsedge.errors import InputError, OutputError
from rsedge.files import describe, with_crc, without_crc
from rsedge.infer import journal as module
from rsedge.infer.journal import Journal, Part, folder_of
from rsedge.raster.part_file import PartFile
from rsedge.tiling.window import Window

SETTINGS = {"raster": "a.tif", "bands": (1, 2, 3), "scale": None, "overlap": 0.25}
ROWS = (0, 512, 1024)


def part(journal: Journal, row: int, content: bytes = b"pixels") -> Part:
    """A part whose file is written."""
    area = Window(row, 0, 512, 900)
    path = journal.path(area, "mask")
    path.write_bytes(content + str(row).encode())
    return Part(area, (PartFile("mask", *describe(path)),), (1, 2), (0.1, 0.2))


def unfinished(target: Path, **settings: object) -> dict[Window, Part]:
    """What a run that broke off has left."""
    journal = Journal(target, {**SETTINGS, **settings})
    with pytest.raises(ZeroDivisionError), journal:
        for row in ROWS:
            journal.add(part(journal, row))
        raise ZeroDivisionError
    return journal.parts


def resumed(target: Path) -> dict[Window, Part]:
    with Journal(target, SETTINGS, resume=True) as journal:
        return journal.parts


COUNTS = st.integers(0, 10**9)
AREAS = st.tuples(
    st.integers(0, 9**9), st.integers(0, 9**9), st.integers(10**5, 10**6), st.integers(10**5, 10**6)
)
FILES = st.lists(
    st.tuples(st.text(), st.integers(0), st.integers(0, 2**32 - 1)),
    min_size=1,
    max_size=3,
    unique_by=lambda file: file[0],
)


@given(
    area=AREAS,
    files=FILES,
    classes=st.lists(st.tuples(COUNTS, st.floats(0, 1e300)), max_size=5),
    known=st.booleans(),
)
def test_a_part_survives_its_line(area: tuple, files: list, classes: list, known: bool) -> None:
    area_m2 = tuple(m2 for _, m2 in classes) if known else None
    made = Part(Window(*area), tuple(PartFile(*f) for f in files), tuple(n for n, _ in classes), area_m2)
    line = made.to_json()
    assert "\n" not in line
    assert Part.from_json(line) == made


LINE = Part(Window(512, 0, 512, 900), (PartFile("mask", 7, 99, 5),), (1, 20), (0.25, 5.0)).to_json()


@pytest.mark.parametrize("bit", range(8))
def test_no_bit_of_a_line_can_be_another(bit: int) -> None:
    data = LINE.encode()
    for at in range(len(data)):
        damaged = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
        with pytest.raises(ValueError):
            Part.from_json(damaged.decode("utf-8", "replace"))


FACTS = json.loads(without_crc(LINE))


@pytest.mark.parametrize(
    "change",
    [
        {"files": []},
        {"files": 7},
        {"files": [FACTS["files"][0]] * 2},
        {"files": [{**FACTS["files"][0], "size_bytes": -1}]},
        {"files": [{**FACTS["files"][0], "layer": 5}]},
        {"files": [{**FACTS["files"][0], "crc": 1.5}]},
        {"pixels": [1]},
        {"pixels": [1, -800000]},
        {"pixels": [1, True]},
        {"pixels": [1, 2.5]},
        {"pixels": [1, "2"]},
        {"pixels": [1, 512 * 900]},
        {"pixels": None},
        {"area_m2": [1.0]},
        {"area_m2": [1.0, -1.0]},
        {"area_m2": [1.0, float("nan")]},
        {"area_m2": [1.0, 1e400]},
        {"area_m2": 5},
        {"area": {"row": 0, "col": 0, "height": 2.5, "width": 10**9}},
        {"area": []},
        {"area": {**FACTS["area"], "more": 1}},
    ],
    ids=str,
)
def test_a_line_of_other_kinds_is_none(change: dict) -> None:
    """Whoever made it: its checksum is right."""
    with pytest.raises(ValueError):
        Part.from_json(with_crc(json.dumps({**FACTS, **change})))


def test_json_without_end_is_no_line() -> None:
    with pytest.raises(ValueError):
        Part.from_json(with_crc('{"area": ' + "[" * 100_000))


def test_an_unfinished_run_of_the_version_before_says_why_it_cannot_go_on(tmp_path: Path) -> None:
    target = tmp_path / "mask.tif"
    unfinished(target)
    lines = folder_of(target) / "journal.jsonl"
    old = [line.partition(" ")[2] for line in lines.read_text().splitlines() if line]
    lines.write_text("\n".join(old) + "\n")
    for how in ({}, {"resume": True}):
        with (
            pytest.raises(InputError, match="older rsedge without checksums"),
            Journal(target, SETTINGS, **how),
        ):
            pass
    assert len(list(folder_of(target).iterdir())) == 6  # nothing was lost
    with Journal(target, SETTINGS, overwrite=True) as journal:
        assert journal.parts == {}


needs_owners = pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners there")


@needs_owners
@pytest.mark.parametrize("whose", ["mode", "owner"])
def test_a_folder_that_others_can_write_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    target = tmp_path / "mask.tif"
    unfinished(target)
    folder = folder_of(target)
    if whose == "mode":
        folder.chmod(0o777)
    else:
        pretend_owner(folder, monkeypatch)
    before = sorted(folder.iterdir())
    for how in ({}, {"resume": True}, {"overwrite": True}):
        with (
            pytest.raises(OutputError, match="belongs to another user or is writable by others. Remove it"),
            Journal(target, SETTINGS, **how),
        ):
            pass
    assert module.settings_of(target) == {}
    assert sorted(folder.iterdir()) == before


def pretend_owner(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a file were another user's; only root could make one that is."""
    real = Path.lstat

    def lstat(self: Path) -> os.stat_result:
        facts = real(self)
        return os.stat_result((*facts[:4], 54321, *facts[5:])) if self == path else facts

    monkeypatch.setattr(Path, "lstat", lstat)


@needs_owners
@pytest.mark.parametrize("name", ["journal.jsonl", "lock"])
@pytest.mark.parametrize("kind", ["link", "dangling", "hard link", "fifo"])
def test_links_in_the_folder_are_not_written_through(tmp_path: Path, name: str, kind: str) -> None:
    target, victim = tmp_path / "mask.tif", tmp_path / "victim.txt"
    unfinished(target)
    path = folder_of(target) / name
    path.unlink()
    if kind != "dangling":
        victim.write_text("years of work")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "hard link":
        path.hardlink_to(victim)
    else:
        path.symlink_to(victim)
    with pytest.raises(OutputError), Journal(target, SETTINGS, overwrite=True) as journal:
        journal.add(part(journal, 0))
    assert not victim.exists() if kind == "dangling" else victim.read_text() == "years of work"


@needs_owners
def test_a_file_system_that_knows_neither_owners_nor_modes_has_journals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A USB stick: all is one user's, and everybody may write."""
    lstat, fstat = Path.lstat, os.fstat

    def alike(facts: os.stat_result) -> os.stat_result:
        return os.stat_result((facts[0] | 0o777, *facts[1:4], 54321, *facts[5:]))

    monkeypatch.setattr(Path, "lstat", lambda self: alike(lstat(self)))
    monkeypatch.setattr(os, "fstat", lambda handle: alike(fstat(handle)))
    target = tmp_path / "mask.tif"
    left = unfinished(target)
    assert resumed(target) == left


def test_finished_parts_are_there_again(tmp_path: Path) -> None:
    left = unfinished(tmp_path / "mask.tif")
    assert [area.row for area in left] == list(ROWS)
    assert resumed(tmp_path / "mask.tif") == left


def test_without_resume_finished_parts_are_not_wiped(tmp_path: Path) -> None:
    target = tmp_path / "mask.tif"
    left = unfinished(target)
    with pytest.raises(InputError, match=r"1 Mpx done.*--resume.*--overwrite"), Journal(target, SETTINGS):
        pass
    assert resumed(target) == left
    with Journal(target, SETTINGS, overwrite=True) as journal:
        assert journal.parts == {}
    assert {p.name for p in folder_of(target).iterdir()} == {"settings.json", "journal.jsonl", "lock"}


def test_a_folder_without_parts_is_no_unfinished_run(tmp_path: Path) -> None:
    """Killed before the first part: nothing to go on from, nothing to lose, other settings do not matter."""
    target = tmp_path / "mask.tif"
    for resume in (False, True):
        with Journal(target, {"other": resume}, resume=resume):
            pass  # as if killed: the folder stays
        (folder_of(target) / "0000000-0000000.mask").write_bytes(b"half a part")
        (folder_of(target) / "scratch.mask.whole.vrt").write_bytes(b"")
        with Journal(target, SETTINGS, resume=resume) as journal:
            assert journal.parts == {}
            assert json.loads((journal.folder / "settings.json").read_text())["raster"] == "a.tif"
            assert len(list(journal.folder.iterdir())) == 3
            journal.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [1, 5, 60, 100])
def test_a_torn_line_is_as_if_it_had_not_been_written(tmp_path: Path, cut: int) -> None:
    target = tmp_path / "mask.tif"
    left = unfinished(target)
    lines = folder_of(target) / "journal.jsonl"
    lines.write_bytes(lines.read_bytes()[: -1 - cut])
    with Journal(target, SETTINGS, resume=True) as journal:
        assert [area.row for area in journal.parts] == [0, 512]
        journal.add(part(journal, 1024))  # on a line of its own
    assert resumed(target) == left


@given(st.binary(max_size=200))
def test_garbage_in_the_journal_is_ignored(tmp_path_factory: pytest.TempPathFactory, garbage: bytes) -> None:
    target = tmp_path_factory.mktemp("garbage") / "mask.tif"
    left = unfinished(target)
    lines = folder_of(target) / "journal.jsonl"
    garbage = garbage.replace(module.OLD_LINE.encode(), b"")
    lines.write_bytes(garbage + b'\n{"area": 7}\n[]\n7\nnull\n"area"\n' + lines.read_bytes())
    assert resumed(target) == left


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "zeros", "missing", "grown"])
def test_a_part_whose_file_is_not_what_was_written_is_done_again(tmp_path: Path, damage: str) -> None:
    target = tmp_path / "mask.tif"
    left = unfinished(target)
    path = folder_of(target) / "0000512-0000000.mask"
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {
                "truncated": data[:-1],
                "empty": b"",
                "flipped": data[:-1] + bytes([data[-1] ^ 1]),
                "zeros": bytes(len(data)),
                "grown": data + b"\0",
            }[damage]
        )
    with Journal(target, SETTINGS, resume=True) as journal:
        assert [area.row for area in journal.parts] == [0, 1024]
        assert not path.exists()  # nothing that is not accounted for stays
        journal.add(part(journal, 512))
    assert resumed(target) == left


def test_the_settings_that_differ_are_named(tmp_path: Path) -> None:
    target = tmp_path / "mask.tif"
    left = unfinished(target)
    now = {**SETTINGS, "overlap": 0.5, "bands": (3, 2, 1), "new": "x" * 200}
    with pytest.raises(InputError) as caught, Journal(target, now, resume=True):
        pass
    message = str(caught.value)
    assert "bands was [1, 2, 3], is now [3, 2, 1]; new was null, is now" in message
    assert "overlap was 0.25, is now 0.5" in message
    assert "raster" not in message.partition("other settings:")[2]
    assert len(message) < 600
    assert resumed(target) == left


def test_resume_and_overwrite_go_on_where_that_can_be(tmp_path: Path) -> None:
    target = tmp_path / "mask.tif"
    left = unfinished(target)
    with Journal(target, SETTINGS, resume=True, overwrite=True) as journal:
        assert journal.parts == left
    with Journal(target, {**SETTINGS, "overlap": 0.5}, resume=True, overwrite=True) as journal:
        assert journal.parts == {}
        assert not (journal.folder / "0000000-0000000.mask").exists()
    assert resumed(target) == {}


@pytest.mark.parametrize("content", [None, b"", b"{", b"\0\0\0\0"])
def test_parts_whose_settings_are_lost_are_not_trusted(tmp_path: Path, content: bytes | None) -> None:
    target = tmp_path / "mask.tif"
    unfinished(target)
    path = folder_of(target) / "settings.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"settings.json cannot be read. Start over with --overwrite"):
        resumed(target)
    with Journal(target, SETTINGS, overwrite=True) as journal:
        assert journal.parts == {}


def test_an_error_before_the_first_part_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Journal(tmp_path / "mask.tif", SETTINGS):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


HOLD = """
import sys, time
from pathlib import Path
from rsedge.infer.journal import Journal
with Journal(Path(sys.argv[1]), {}, overwrite=True):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="no locks there")
def test_one_process_at_a_time(tmp_path: Path) -> None:
    target = tmp_path / "mask.tif"
    unfinished(target)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(target)], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"held\n"
            before = sorted(folder_of(target).iterdir())
            for how in ({}, {"resume": True}, {"overwrite": True}):
                with (
                    pytest.raises(InputError, match="being written by another rsedge"),
                    Journal(target, {}, **how),
                ):
                    pass
                assert sorted(folder_of(target).iterdir()) == before
            with Journal(tmp_path / "another.tif", {}):
                pass  # each target has its own
        finally:
            other.send_signal(signal.SIGKILL)
    with Journal(target, {}, resume=True):
        pass  # the lock ended with its holder


RACE = """
import sys, time
from pathlib import Path
from rsedge.errors import InputError
from rsedge.infer.journal import Journal
target, held = Path(sys.argv[1]), 0
end = time.monotonic() + 2
while time.monotonic() < end:
    try:
        with Journal(target, {}, overwrite=True) as journal:
            (journal.folder / "mine").touch(exist_ok=False)
            time.sleep(0.0005)
            assert {p.name for p in journal.folder.iterdir()} == {"lock", "settings.json", "journal.jsonl", "mine"}
            held += 1
            journal.remove()
    except InputError:
        pass
print(held)
"""


@pytest.mark.skipif(os.name == "nt", reason="no locks there")
def test_processes_that_come_and_go_never_share_a_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACE, str(tmp_path / "mask.tif")]
    others = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    ends = [other.communicate(timeout=60) for other in others]
    assert [error for _, error in ends] == [""] * 3
    assert sum(int(out) for out, _ in ends) > 3


def test_a_linked_target_has_its_journal_where_it_points(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mask.tif").write_bytes(b"old")
    (tmp_path / "mask.tif").symlink_to(tmp_path / "there" / "mask.tif")
    target = Path(os.path.realpath(tmp_path / "mask.tif"))
    assert folder_of(target) == tmp_path / "there" / ".mask.tif.rsedge"


def test_a_link_in_place_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    """Whoever may write there could have another folder of the user's emptied."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    folder_of(tmp_path / "mask.tif").symlink_to(precious)
    with (
        pytest.raises(InputError, match="is a link or a file"),
        Journal(tmp_path / "mask.tif", {}, overwrite=True),
    ):
        pass
    assert [p.name for p in precious.iterdir()] == ["thesis.txt"]


def test_a_folder_that_cannot_be_made_is_our_error(tmp_path: Path) -> None:
    folder_of(tmp_path / "mask.tif").write_text("a file")
    with pytest.raises(InputError, match="is a link or a file"), Journal(tmp_path / "mask.tif", {}):
        pass
    with pytest.raises(OutputError, match="cannot be written"), Journal(tmp_path / "no" / "mask.tif", {}):
        pass


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_our_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="Permission denied"), Journal(tmp_path / "mask.tif", {}):
            pass
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_that_vanishes_is_an_error_at_the_next_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SYNC_S", -1.0)
    journal = Journal(tmp_path / "mask.tif", {})
    with pytest.raises(OutputError, match="No such file"), journal:
        made = part(journal, 0)
        for path in journal.folder.iterdir():
            path.unlink()
        journal.folder.rmdir()
        journal.add(made)
    with Journal(tmp_path / "mask.tif", {}):
        pass  # and the lock was let go


def test_a_full_disk_is_our_error_and_the_journal_stays_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, write = tmp_path / "mask.tif", os.write

    def half(handle: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return write(handle, data[: len(data) // 2])

    with pytest.raises(OutputError, match="No space left"), Journal(target, SETTINGS) as journal:
        journal.add(part(journal, 0))
        monkeypatch.setattr(module.os, "write", half)
        journal.add(part(journal, 512))
    monkeypatch.undo()
    with Journal(target, SETTINGS, resume=True) as journal:
        assert [area.row for area in journal.parts] == [0]
        journal.add(part(journal, 512))
    assert [area.row for area in resumed(target)] == [0, 512]


def test_what_a_power_cut_may_cost_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are put on the disk every few seconds, files before their lines."""
    synced: list[str] = []
    fsync = os.fsync

    def watch(handle: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no way to see what is synced here")
    with Journal(tmp_path / "mask.tif", {}) as journal:
        monkeypatch.setattr(module.os, "fsync", watch)
        journal.add(part(journal, 0))
        assert synced == []
        now = time.monotonic()
        monkeypatch.setattr(module.time, "monotonic", lambda: now + module.SYNC_S + 1)
        journal.add(part(journal, 512))
    assert synced == ["settings.json", "0000000-0000000.mask", "0000512-0000000.mask", "journal.jsonl"]


def test_a_removal_that_is_cut_short_leaves_nothing_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the folder is removed, when the result has its name: it is no reason to refuse the next run."""
    target, unlink, gone = tmp_path / "mask.tif", Path.unlink, []
    unfinished(target)

    def killed(self: Path, missing_ok: bool = False) -> None:
        if len(gone) == 2:
            raise KeyboardInterrupt
        gone.append(self.name)
        unlink(self, missing_ok)

    with pytest.raises(KeyboardInterrupt), Journal(target, SETTINGS, resume=True) as journal:
        monkeypatch.setattr(Path, "unlink", killed)
        journal.remove()
    monkeypatch.undo()
    assert len(gone) == 2
    with Journal(target, {"other": 1}) as journal:
        assert journal.parts == {}


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' + "[" * 150 + "]" * 150 + "}", "NaN", "[]", "\xff"])
def test_settings_of_no_kind_of_ours_are_none(tmp_path: Path, text: str) -> None:
    target = tmp_path / "mask.tif"
    unfinished(target, raster="a.tif")
    (folder_of(target) / module.SETTINGS).write_text(text)
    assert module.settings_of(target) == {}


def test_a_line_without_end_is_none(tmp_path: Path) -> None:
    target = tmp_path / "mask.tif"
    unfinished(target, raster="a.tif")
    with (folder_of(target) / module.LINES).open("a") as lines:
        lines.write(with_crc('{"area": "' + "x" * (1 << 21) + '"}') + "\n" + with_crc("[" * 100_000) + "\n")
    assert len(module.Journal(target, {})._found()) == 3
