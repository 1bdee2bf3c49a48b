from __future__ import annotations

from pathlib import Path

import pytest

from rsedge import InputError
from rsedge_export.bundle import folder
from rsedge_export.bundle.assemble import Plan
from rsedge_export.bundle.folder import check_out, replaced_when_whole


def names(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir())


def test_somebody_elses_folder_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos.rsedge"
    photos.mkdir()
    (photos / "wedding.jpg").touch()
    (tmp_path / "file.rsedge").touch()
    (tmp_path / "link.rsedge").symlink_to(photos)
    for name, message in (
        ("photos.rsedge", "is not a bundle"),
        ("file.rsedge", "is not a folder"),
        ("link.rsedge", "is not a folder"),
        ("none/b.rsedge", "does not exist"),
        ("student.onnx", r"must end with \.rsedge"),
    ):
        with pytest.raises(InputError, match=message):
            Plan(tmp_path / name)
    assert names(photos) == ["wedding.jpg"]
    monkeypatch.setattr(folder.os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(InputError, match="not writable"):
        check_out(tmp_path / "b.rsedge")


def test_a_new_name_an_empty_folder_and_an_earlier_bundle_may_be_written_to(tmp_path: Path) -> None:
    check_out(tmp_path / "new.rsedge")
    (tmp_path / "empty.rsedge").mkdir()
    check_out(tmp_path / "empty.rsedge")
    (tmp_path / "empty.rsedge" / "manifest.json").touch()
    check_out(tmp_path / "empty.rsedge")


def test_the_name_is_taken_at_the_end_and_nothing_of_the_old_stays(tmp_path: Path) -> None:
    out = tmp_path / "b.rsedge"
    out.mkdir()
    (out / "manifest.json").write_text("old")
    (out / "engines").mkdir()
    with replaced_when_whole(out) as partial:
        (partial / "manifest.json").write_text("new")
        assert (out / "manifest.json").read_text() == "old"
    assert (out / "manifest.json").read_text() == "new"
    assert (names(tmp_path), names(out)) == (["b.rsedge"], ["manifest.json"])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_breaks_off_leaves_the_old_one_and_no_part(tmp_path: Path, error: type[BaseException]) -> None:
    out = tmp_path / "b.rsedge"
    out.mkdir()
    (out / "manifest.json").write_text("old")
    with pytest.raises(error), replaced_when_whole(out) as partial:
        (partial / "manifest.json").write_text("new")
        raise error
    assert (out / "manifest.json").read_text() == "old"
    assert names(tmp_path) == ["b.rsedge"]


def test_what_a_crash_left_is_cleared_away(tmp_path: Path) -> None:
    for left in (".b.rsedge.part", ".b.rsedge.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "half").touch()
    (tmp_path / "b.rsedge").mkdir()
    with replaced_when_whole(tmp_path / "b.rsedge") as partial:
        assert not names(partial)
        (partial / "manifest.json").touch()
    assert names(tmp_path) == ["b.rsedge"]
    assert names(tmp_path / "b.rsedge") == ["manifest.json"]


def test_when_the_name_cannot_be_taken_the_old_one_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "b.rsedge"
    out.mkdir()
    (out / "manifest.json").write_text("old")
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name.endswith(".part"):
            raise OSError("no more")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="no more"), replaced_when_whole(out):
        pass
    assert names(tmp_path) == [".b.rsedge.old"]
    assert (tmp_path / ".b.rsedge.old" / "manifest.json").read_text() == "old"
