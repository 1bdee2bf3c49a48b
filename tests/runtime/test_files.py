"""Where rsedge keeps things: one rule for kernels, speeds and engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsedge import kernels, speeds
from rsedge.backends import ort
from rsedge.files import temporary_cache, user_cache


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
