"""Cache folders, and files that appear under their names only when complete."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rsedge.backends import ort, speeds
from rsedge.files import (
    is_ours,
    is_ours_here,
    is_trusted,
    open_own,
    private_folder,
    temporary_cache,
    user_cache,
    whole_or_nothing,
    with_crc,
    without_crc,
)
from rsedge.tiling import kernels


def test_the_cache_folder_follows_the_rule_of_the_desktop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for wanted, folder in (
        (str(tmp_path / "elsewhere"), tmp_path / "elsewhere" / "rsedge"),
        ("relative/ones/do/not/count", tmp_path / ".cache" / "rsedge"),
        ("", tmp_path / ".cache" / "rsedge"),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", wanted)
        assert user_cache() == folder
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert user_cache() == tmp_path / ".cache" / "rsedge"


def test_a_user_without_a_home_has_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", staticmethod(homeless))
    assert user_cache() == temporary_cache()


def test_all_that_is_kept_goes_by_it() -> None:
    assert {m.user_cache for m in (kernels, speeds, ort)} == {user_cache}


def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_or_nothing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert partial.stat().st_dev == path.stat().st_dev
    assert path.read_text() == "new"
    with pytest.raises(ZeroDivisionError), whole_or_nothing(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_it_has_the_modes_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with whole_or_nothing(tmp_path / "made") as partial:
        partial.touch()
    assert (tmp_path / "made").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_no_name_can_be_known_beforehand(tmp_path: Path) -> None:
    """A link under the old temporary name, to a file that must survive."""
    victim = tmp_path / "victim.txt"
    victim.write_text("years of work")
    seen = set()
    for _ in range(20):
        (tmp_path / ".a.txt.part").unlink(missing_ok=True)
        (tmp_path / ".a.txt.part").symlink_to(victim)
        with whole_or_nothing(tmp_path / "a.txt") as partial:
            partial.write_text("new")
            seen.add(partial.parent.name)
            assert partial.parent.stat().st_mode & 0o777 == 0o700
    assert len(seen) == 20
    assert victim.read_text() == "years of work"
    assert not (tmp_path / "a.txt").is_symlink()


@pytest.mark.parametrize("name", ["x" * 255, "\N{SNOWMAN}" * 85, "a" * 199 + "\N{SNOWMAN}" * 18])
def test_a_long_name_is_a_name(tmp_path: Path, name: str) -> None:
    with whole_or_nothing(tmp_path / name) as partial:
        partial.touch()
    assert [p.name for p in tmp_path.iterdir()] == [name]


KILLED = """
import os, signal, sys
from pathlib import Path
from rsedge.files import whole_or_nothing
with whole_or_nothing(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="no locks there")
def test_what_a_killed_process_left_goes_away_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    (tmp_path / ".a.txt.mine.part").mkdir()  # no name of ours
    (tmp_path / ".a.txt.12345678.part").symlink_to(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    with private_folder(path) as living, whole_or_nothing(path) as partial:
        partial.write_text("whole")
        assert living.is_dir()
    assert {p.name for p in tmp_path.iterdir()} == {"a.txt", ".a.txt.mine.part", ".a.txt.12345678.part"}
    assert path.read_text() == "whole"


def test_a_line_is_what_was_written_or_none() -> None:
    line = with_crc('{"a": 1}')
    assert without_crc(line) == '{"a": 1}'
    for other in (line[:-1], line.upper(), f" {line}", '{"a": 1}', "", line.replace("1}", "2}"), "\ud800 x"):
        with pytest.raises(ValueError):
            without_crc(other)


needs_owners = pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners there")


@needs_owners
def test_what_others_can_write_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.touch()
    path.chmod(0o644)
    assert is_ours(path.stat())
    assert is_trusted(path)
    path.chmod(0o646)
    assert not is_ours(path.stat())
    assert not is_ours_here(path.stat(), tmp_path)
    assert not is_trusted(path)
    path.chmod(0o664)
    monkeypatch.setattr("rsedge.files._is_own_group", lambda gid: False)
    assert not is_ours(path.stat())
    monkeypatch.setattr("rsedge.files._is_own_group", lambda gid: gid == path.stat().st_gid)
    assert is_ours(path.stat())  # a group of the user's own, as umask 002 leaves it
    assert list(tmp_path.iterdir()) == [path]


@needs_owners
def test_only_a_plain_file_of_ones_own_is_opened(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "link").symlink_to(victim)
    (tmp_path / "dangling").symlink_to(tmp_path / "made")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "hard").hardlink_to(victim)
    (tmp_path / "folder").mkdir()
    for name in ("link", "dangling", "fifo", "hard", "folder"):
        for flags in (os.O_RDONLY, os.O_WRONLY | os.O_CREAT):
            with pytest.raises(OSError):
                os.close(open_own(tmp_path / name, flags))
    assert not (tmp_path / "made").exists()
    os.close(open_own(tmp_path / "new", os.O_WRONLY | os.O_CREAT))
    os.close(open_own(tmp_path / "new", os.O_RDONLY))
