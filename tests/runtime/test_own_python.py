"""The current folder may belong to another user, so no child process imports modules from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rsedge.bench.contender import Contender
from rsedge.bench.crew import Worker
from rsedge.errors import RsedgeError
from rsedge.own_python import module_command
from rsedge.tiling import kernels

SPY = "from pathlib import Path\nPath({mark!r}).touch()\n"


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that exists once a module of the current folder has run."""
    mark, folder = tmp_path / "mark", tmp_path / "theirs"
    for package in ("rsedge", "ziglang", "runpy", "numpy", "json"):
        (folder / package).mkdir(parents=True)
        for name in ("__init__.py", "__main__.py"):
            (folder / package / name).write_text(SPY.format(mark=str(mark)), encoding="utf-8")
    monkeypatch.chdir(folder)
    return mark


def test_a_module_gets_its_arguments_and_this_processs_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_module.py").write_text(
        "import sys\nprint(__name__, sys.argv[1:], sys.path[0])\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    command = [*module_command("own_module"), "a", "-b"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == f"__main__ ['a', '-b'] {tmp_path}\n"


def test_bench_imports_nothing_of_the_current_folder(mark: Path, bundle: Path) -> None:
    try:
        Worker(Contender(str(bundle), "cpu", "fp32", 1)).close()
    except RsedgeError:
        pytest.fail("the worker did not start")
    assert not mark.exists()


def test_the_compiler_package_is_not_taken_from_the_current_folder(
    mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "installed" / "ziglang"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    (installed / "__main__.py").write_text("raise SystemExit(1)", encoding="utf-8")
    monkeypatch.syspath_prepend(str(installed.parent))
    monkeypatch.delitem(sys.modules, "ziglang", raising=False)
    monkeypatch.setattr(kernels.shutil, "which", lambda _: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match="no C compiler"):
        kernels._built(tmp_path / "cache")
    assert not mark.exists()
