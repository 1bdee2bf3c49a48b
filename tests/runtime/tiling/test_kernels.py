from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rsedge import files
from rsedge.tiling import kernels

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="compilers are looked for on Unix only")
HAS_CC = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
needs_cc = pytest.mark.skipif(not HAS_CC, reason="no C compiler here")
Compile = Callable[[], object]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make an empty cache folder, and an empty fallback folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(kernels.SWITCH, raising=False)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(kernels.tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(kernels, "FLAGS", ("-O0", "-shared", "-fPIC"))  # sooner done
    kernels._name.cache_clear()
    kernels.compiled.cache_clear()
    yield tmp_path / "cache" / "rsedge"
    kernels.compiled.cache_clear()
    kernels._name.cache_clear()


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Replace every compiler with a shell script; return a file with a line for each call."""

    def make(script: str) -> Path:
        folder, calls = tmp_path / "bin", tmp_path / "calls"
        folder.mkdir()
        (folder / "cc").write_text(f'#!/bin/sh\necho "$@" >> {calls}\nPATH={os.environ["PATH"]}\n{script}\n')
        (folder / "cc").chmod(0o755)
        monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: None)
        monkeypatch.setenv("PATH", str(folder))
        return calls

    return make


def again() -> object:
    """Load the kernels as the next process would."""
    kernels.compiled.cache_clear()
    return kernels.compiled()


def halves(library: object) -> bool:
    """Return True if a library gives correct results."""
    fine = np.array([[1, 2, 3, 3], [2, 2, 4, 5]], np.uint8)
    coarse = np.empty((1, 2), np.uint8)
    library.rsedge_halve(fine.ctypes.data, coarse.ctypes.data, 1, 2)  # type: ignore[attr-defined]
    return bool((coarse == [2, 3]).all())


@needs_cc
def test_it_is_compiled_once_and_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert halves(kernels.compiled())
    assert [p.name for p in cache.iterdir()] == [kernels._name()]
    assert (cache.stat().st_mode & 0o777, (cache / kernels._name()).stat().st_mode & 0o777) == (0o700, 0o700)
    monkeypatch.setattr(kernels, "_compilers", lambda: pytest.fail("compiled again"))
    assert halves(again())


def test_the_switch_keeps_to_numpy(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSEDGE_COMPILED", "0")
    assert kernels.compiled() is None
    assert not cache.exists()


def test_without_a_compiler_there_is_none(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_compilers", lambda: iter(()))
    assert kernels.compiled() is None
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    "script",
    [
        "echo error: no stdint.h >&2; exit 1",
        "exit 0",  # says that it worked, and wrote nothing
        'while [ "$1" != -o ]; do shift; done; head -c 9000 /dev/zero > "$2"',
        'while [ "$1" != -o ]; do shift; done; rm "$2"; exit 1',
        "kill -9 $$",
    ],
    ids=["fails", "writes nothing", "writes garbage", "removes", "is killed"],
)
def test_a_broken_compiler_is_as_none(cache: Path, compiler: Callable[[str], Path], script: str) -> None:
    calls = compiler(script)
    assert kernels.compiled() is None
    assert [p.suffix for p in cache.iterdir()] == [".failed"]
    tried = calls.read_text().splitlines()
    assert "-march=native" in tried[0]
    assert any("native" not in line for line in tried)
    assert again() is None
    assert calls.read_text().splitlines() == tried  # not tried at every start


@needs_cc
def test_without_a_compiler_a_library_that_was_compiled_elsewhere_is_taken(
    cache: Path, compiler: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A precompiled library, as in container images."""
    ready = tmp_path / "ready.so"
    subprocess.run(["cc", *kernels.FLAGS, "-o", ready, kernels.SOURCE], check=True)
    compiler("exit 1")
    assert kernels.compiled() is None
    monkeypatch.setenv(kernels.READY, str(tmp_path / "nowhere.so"))
    assert again() is None
    monkeypatch.setenv(kernels.READY, str(ready))
    assert halves(again())


@needs_cc
def test_a_library_of_something_else_is_not_taken(cache: Path, compiler: Callable[[str], Path]) -> None:
    compiler('while [ "$1" != -o ]; do shift; done; echo "int x;" | cc -shared -fPIC -x c - -o "$2"')
    assert kernels.compiled() is None


def test_a_compiler_that_hangs_is_tried_once(
    cache: Path, compiler: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = compiler("exec sleep 30")
    monkeypatch.setattr(kernels, "COMPILE_LIMIT_S", 0.3)
    assert kernels.compiled() is None
    assert len(calls.read_text().splitlines()) == 1
    assert again() is None
    assert len(calls.read_text().splitlines()) == 1
    monkeypatch.setattr(kernels, "RETRY_S", -1.0)
    assert again() is None
    assert len(calls.read_text().splitlines()) == 2  # a day later: it may have been the disk


@needs_cc
def test_another_compiler_than_the_one_that_failed_is_tried(
    cache: Path, compiler: Callable[[str], Path], tmp_path: Path
) -> None:
    compiler("exit 1")
    assert kernels.compiled() is None
    path = tmp_path / "bin" / "cc"
    path.write_text(f'#!/bin/sh\nPATH={os.environ["PATH"]}:/usr/bin:/bin\nexec gcc "$@"\n')
    assert halves(again())
    assert [p.suffix for p in cache.iterdir()] == [".so"]


@needs_cc
def test_a_compilers_messages_are_not_kept_in_memory(
    cache: Path, compiler: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict] = []
    run = subprocess.run
    monkeypatch.setattr(kernels.subprocess, "run", lambda *a, **k: seen.append(k) or run(*a, **k))
    compiler("exit 1")
    kernels.compiled()
    assert all(k["stdout"] is k["stderr"] is subprocess.DEVNULL for k in seen)
    assert seen


@needs_cc
def test_a_library_of_which_a_bit_has_changed_is_not_loaded(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the check, 17 of 60 flipped bits crashed every start and 3 gave wrong masks; all cut files crashed."""
    assert kernels.compiled() is not None
    path = cache / kernels._name()
    whole = path.read_bytes()

    def put(data: bytes) -> None:
        """Write another file, because this process has the old one in memory."""
        path.unlink()
        path.write_bytes(data)
        path.chmod(0o700)

    monkeypatch.setattr(kernels, "_built", lambda folder: "built anew")
    for at in range(0, len(whole), 97):
        put(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        assert again() == "built anew"
    for size in range(0, len(whole), 499):
        put(whole[:size])
        assert again() == "built anew"
    put(whole)
    assert halves(again())


@needs_cc
@pytest.mark.parametrize(("right", "wrong"), [("c : a;", "c : b;"), ("sum > best[i]", "sum >= best[i]")])
def test_a_library_that_answers_other_numbers_is_not_kept(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str
) -> None:
    source = kernels.SOURCE.read_text()
    assert right in source
    (tmp_path / "wrong.c").write_text(source.replace(right, wrong))
    monkeypatch.setattr(kernels, "SOURCE", tmp_path / "wrong.c")
    kernels._name.cache_clear()
    assert kernels.compiled() is None
    assert not list(cache.glob("*.so"))


@needs_cc
@pytest.mark.parametrize("mode", [0o777, 0o775, "stranger"])
def test_a_cache_below_a_folder_that_others_can_write_is_not_used(
    cache: Path, monkeypatch: pytest.MonkeyPatch, mode: int | str
) -> None:
    """Another user could replace the library between the check and the load."""
    assert kernels.compiled() is not None
    if mode == "stranger":
        real = Path.lstat

        def lstat(self: Path) -> os.stat_result:
            facts = real(self)
            return os.stat_result((*facts[:4], 54321, *facts[5:])) if self == cache.parent else facts

        monkeypatch.setattr(Path, "lstat", lstat)
    else:
        cache.parent.chmod(mode)
        monkeypatch.setattr(files, "_is_own_group", lambda gid: False)
    with pytest.raises(PermissionError):
        files.check_private(cache)
    assert halves(again())
    second = Path(kernels.tempfile.gettempdir()) / f"rsedge-{os.getuid()}"
    assert [p.name for p in second.iterdir()] == [kernels._name()]


@needs_cc
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no descriptors by name here")
def test_what_is_loaded_is_the_file_that_was_looked_at(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loaded file is the checked one, even if the library is replaced meanwhile."""
    assert kernels.compiled() is not None
    path, cdll = cache / kernels._name(), ctypes.CDLL

    def exchanged(name: str) -> ctypes.CDLL:
        other = path.with_name("other")
        other.write_bytes(b"not looked at")
        other.replace(path)
        return cdll(name)

    monkeypatch.setattr(kernels.ctypes, "CDLL", exchanged)
    monkeypatch.setattr(kernels, "_built", lambda folder: pytest.fail("compiled again"))
    assert halves(again())


@needs_cc
def test_a_compiler_that_knows_no_processor_of_its_own_is_asked_without(
    cache: Path, compiler: Callable[[str], Path]
) -> None:
    calls = compiler('case "$*" in *native*) exit 1;; esac; exec cc "$@"')
    assert halves(kernels.compiled())
    assert len(calls.read_text().splitlines()) == 3


@needs_cc
@pytest.mark.parametrize("damage", [b"", b"\x7fELF", bytes(20_000)])
def test_a_broken_file_is_compiled_anew(cache: Path, damage: bytes) -> None:
    cache.mkdir(parents=True, mode=0o700)
    (cache / kernels._name()).write_bytes(damage)
    assert halves(kernels.compiled())
    assert (cache / kernels._name()).read_bytes() != damage


@needs_cc
@pytest.mark.parametrize("mode", [0o775, 0o702])
@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_others_may_write_is_never_loaded(
    cache: Path, monkeypatch: pytest.MonkeyPatch, what: str, mode: int
) -> None:
    assert kernels.compiled() is not None
    (cache if what == "folder" else cache / kernels._name()).chmod(mode)
    loaded: list[str] = []
    cdll = ctypes.CDLL
    monkeypatch.setattr(
        kernels.ctypes, "CDLL", lambda path: loaded.append(os.path.realpath(path)) or cdll(path)
    )
    assert halves(again())
    assert str(cache / kernels._name()) not in loaded
    if what == "folder":
        assert not any(path.startswith(str(cache)) for path in loaded)
        second = Path(kernels.tempfile.gettempdir()) / f"rsedge-{os.getuid()}"
        assert [p.name for p in second.iterdir()] == [kernels._name()]
    else:
        assert (cache / kernels._name()).stat().st_mode & 0o777 == 0o700  # replaced


@needs_cc
def test_what_belongs_to_somebody_else_is_never_loaded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.compiled() is not None
    monkeypatch.setattr(kernels.os, "getuid", lambda: 54321)
    assert again() is None  # neither folder is that user's


@needs_cc
def test_links_are_not_followed(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    cache.parent.mkdir()
    cache.symlink_to(tmp_path / "elsewhere")
    assert halves(kernels.compiled())
    assert list((tmp_path / "elsewhere").iterdir()) == []


@needs_cc
def test_a_cache_folder_that_cannot_be_made(cache: Path, tmp_path: Path) -> None:
    cache.parent.write_text("a file")
    assert halves(kernels.compiled())
    shutil.rmtree(tmp_path / "temporary")
    (tmp_path / "temporary").write_text("a file")
    assert again() is None


@needs_cc
def test_a_user_without_a_home(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", none)
    assert halves(kernels.compiled())


def test_another_processor_has_another_file(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If two boards share a home folder, neither runs the library that the other compiled."""
    names = set()
    for part in ("0xd42", "0xd08"):  # an Orin's and a Pi 4's; neither has a model name
        kernels._name.cache_clear()
        (tmp_path / "cpuinfo").write_text(
            f"processor\t: 0\nBogoMIPS\t: {part}\nCPU part\t: {part}\n\nprocessor\t: 1"
        )
        monkeypatch.setattr(kernels, "CPUINFO", tmp_path / "cpuinfo")
        names.add(kernels._name())
    kernels._name.cache_clear()
    monkeypatch.setattr(kernels, "CPUINFO", tmp_path / "none")
    assert len(names | {kernels._name()}) == 3


def test_what_changes_from_boot_to_boot_does_not_change_the_file(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = set()
    for mhz in (800, 3000):
        kernels._name.cache_clear()
        (tmp_path / "cpuinfo").write_text(
            f"processor\t: 0\nmodel name\t: A\ncpu MHz\t: {mhz}\nflags\t: avx\n"
        )
        monkeypatch.setattr(kernels, "CPUINFO", tmp_path / "cpuinfo")
        names.add(kernels._name())
    assert len(names) == 1


@needs_cc
def test_two_processes_at_once(cache: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from rsedge.tiling.kernels import compiled; print(compiled() is not None)",
    ]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=120)[0] for process in both] == ["True\n", "True\n"]
    assert [p.name[:8] for p in cache.iterdir()] == ["kernels-"]


def test_zig_stands_in_for_a_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ziglang", reason="ziglang is not installed")
    monkeypatch.setattr(kernels.shutil, "which", lambda name: None)
    assert halves(kernels.compiled())


def test_the_wheel_has_the_source(tmp_path: Path) -> None:
    build = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    root = Path(__file__).resolve().parents[3]
    if not (root / "pyproject.toml").is_file():
        pytest.skip("not a checkout")
    wheel = next(build.WheelBuilder(str(root)).build(directory=str(tmp_path), versions=["standard"]))
    assert "rsedge/tiling/kernels.c" in zipfile.ZipFile(wheel).namelist()
