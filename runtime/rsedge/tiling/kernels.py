"""The few loops that numpy is too slow for, in C, where this machine has a compiler.

``kernels.c`` is compiled once a machine, by its own C compiler or by that of the ``ziglang`` package
(``rsedge[fast]``), and kept in the user's cache folder, its SHA-256 behind it. Whoever calls a kernel has a numpy
`twins` beside it that gives the same numbers to the last bit, so a machine without a compiler is only slower.

What is loaded is the very file that was looked at: nobody else can write it or a folder above it, its bytes are those
that were compiled, and when it was compiled it answered what numpy does.

Not numba: loading a function it had cached took 160 MB of memory and half a second, here 0.1 MB and 1 ms.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from rsedge.files import NO_LINK, is_ours, temporary_cache, user_cache
from rsedge.own_python import module_command

SWITCH = "RSEDGE_COMPILED"  # "0" keeps to numpy
READY = "RSEDGE_KERNELS"  # a library compiled beforehand, for images without a compiler
SOURCE = Path(__file__).with_name("kernels.c")
# No fused multiply-add, no fast-math: the numpy paths have neither. The last two do not change results.
FLAGS = ("-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
NATIVE = ("-march=native", "-mcpu=native", "")  # what compilers call it, by processor
COMPILE_LIMIT_S = 60.0
RETRY_S = 86_400.0  # after which compilers that failed are tried again: the disk may have been full
DIGEST_BYTES = 32
OTHERS = stat.S_IWGRP | stat.S_IWOTH
POINTER, INTEGER = ctypes.c_void_p, ctypes.c_int64
CPUINFO = Path("/proc/cpuinfo")


@cache
def compiled() -> Any | None:
    """The kernels as a ctypes library, which lets other threads run meanwhile; None where there is no compiler."""
    if os.environ.get(SWITCH) == "0":
        return None
    folders = [_real(folder) for folder in dict.fromkeys((user_cache(), temporary_cache()))]
    for folder in folders:
        if library := _kept(folder):
            return library
    for folder in folders:
        try:
            return _built(folder)
        except (subprocess.TimeoutExpired, _FailedBeforeError):
            break  # a compiler that hangs would do so again
        except (OSError, subprocess.SubprocessError):
            continue  # a folder that is not ours to write, or no compiler
    with suppress(KeyError, OSError, AttributeError):
        return _tested(_typed(ctypes.CDLL(os.environ[READY])))
    return None


class _FailedBeforeError(Exception):
    """These very compilers have failed here not long ago."""


def _kept(folder: Path) -> Any | None:
    """What an earlier run compiled for this machine; None where it must be compiled."""
    with suppress(OSError, AttributeError):  # not there, or broken
        _check_private(folder)
        return _checked(folder / _name())
    return None


def _built(folder: Path) -> Any:
    """The kernels, newly compiled, and kept for the next run. Raises OSError or SubprocessError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _check_private(folder)
    failed, facts = folder / f"{_name()}.failed", _compiler_facts()
    if _is_remembered(failed, facts):
        raise _FailedBeforeError
    handle, partial = tempfile.mkstemp(suffix=".so", dir=folder)
    os.close(handle)
    try:
        for compiler in _compilers():
            for native in NATIVE:
                command = [*compiler, *FLAGS, *filter(None, [native]), "-o", partial, os.fspath(SOURCE)]
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,  # of any size, and nobody reads them
                    stderr=subprocess.DEVNULL,
                    timeout=COMPILE_LIMIT_S,
                    check=False,
                )
                with suppress(OSError, AttributeError):  # it says that it worked, and did not
                    if done.returncode == 0:
                        _seal(Path(partial))
                        library = _tested(_checked(Path(partial)))
                        os.replace(partial, folder / _name())  # two processes at once: either file will do
                        failed.unlink(missing_ok=True)
                        return library
        _remember(failed, facts)
    except subprocess.TimeoutExpired:
        _remember(failed, facts)
        raise
    finally:
        Path(partial).unlink(missing_ok=True)
    raise FileNotFoundError("no C compiler")


def _seal(path: Path) -> None:
    """Append a library's SHA-256, and put it on the disk."""
    path.chmod(0o700)
    with path.open("rb+") as file:
        file.write(hashlib.sha256(file.read()).digest())
        file.flush()
        os.fsync(file.fileno())  # a power cut must not leave half a library


def _checked(path: Path) -> Any:
    """Load a library that `_seal` has sealed. Raises OSError where it is not what was compiled or not ours."""
    handle = os.open(path, os.O_RDONLY | NO_LINK)
    loaded = False
    try:
        _check_owner(os.fstat(handle), path)
        with open(handle, "rb", closefd=False) as file:
            data = file.read()
        if hashlib.sha256(data[:-DIGEST_BYTES]).digest() != data[-DIGEST_BYTES:]:
            raise OSError(f"{path} is not what was compiled")
        by_handle = Path(f"/proc/self/fd/{handle}")
        library = ctypes.CDLL(os.fspath(by_handle if by_handle.exists() else path))
        loaded = True  # the loader knows it by that name: no other file may get the number
        return _typed(library)
    finally:
        if not loaded:
            os.close(handle)


def _tested(library: Any) -> Any:
    """The library. Raises OSError where it does not answer what numpy does."""
    from rsedge.tiling.twins import answers_the_same  # noqa: PLC0415 - numpy, which not all who ask have loaded

    if not answers_the_same(library):
        raise OSError("the library answers other numbers than numpy")
    return library


def _typed(library: Any) -> Any:
    """The library, its functions declared. Raises AttributeError where it is another."""
    library.rsedge_add_tile.argtypes = [POINTER] * 6 + [INTEGER] * 13
    library.rsedge_add_tile.restype = ctypes.c_int
    library.rsedge_halve.argtypes = [POINTER] * 2 + [INTEGER] * 2
    library.rsedge_halve.restype = None
    return library


def _real(folder: Path) -> Path:
    """The folder by a path without links but its own name, which must be none."""
    return Path(os.path.realpath(folder.parent)) / folder.name


def _check_private(folder: Path) -> None:
    """Raise PermissionError where somebody else could put something there: it is code that will be run.

    Folders above may be root's, too; one that all may write must keep them from renaming what is others' (/tmp).
    """
    _check_owner(folder.lstat(), folder)
    for parent in folder.parents:
        facts = parent.lstat()
        held = (facts.st_uid == 0 and not facts.st_mode & OTHERS) or is_ours(facts)
        if not held and not (facts.st_uid in {0, folder.lstat().st_uid} and facts.st_mode & stat.S_ISVTX):
            raise PermissionError(f"{parent} can be written by others")


def _check_owner(facts: os.stat_result, path: Path) -> None:
    if not is_ours(facts) or facts.st_mode & OTHERS or stat.S_ISLNK(facts.st_mode):
        raise PermissionError(f"{path} can be written by others")


def _compiler_facts() -> str:
    """What tells these compilers from others: where they are, their sizes and times."""
    facts = []
    for command in _compilers():
        state = os.stat(command[0])
        facts.append(f"{command[0]} {os.path.realpath(command[0])} {state.st_size} {state.st_mtime_ns}")
    return "\n".join(facts)


def _remember(path: Path, facts: str) -> None:
    """Note that these compilers fail or hang: at every start that would take a minute."""
    with suppress(OSError):
        if facts:
            path.unlink(missing_ok=True)
            path.write_text(facts, encoding="utf-8")


def _is_remembered(path: Path, facts: str) -> bool:
    with suppress(OSError, ValueError):
        lately = abs(time.time() - path.lstat().st_mtime) < RETRY_S
        return lately and path.read_text(encoding="utf-8") == facts
    return False


@cache
def _name() -> str:
    """The library's file name: another for other sources, flags or processors."""
    facts = (SOURCE.read_bytes(), _machine().encode(), *map(str.encode, FLAGS))
    return f"kernels-{hashlib.sha256(bytes(1).join(facts)).hexdigest()[:16]}.so"


def _machine() -> str:
    """What the code is compiled for: a home folder may be shared by machines of several kinds."""
    facts = [platform.machine(), sys.platform, platform.processor()]
    with suppress(OSError):
        first = CPUINFO.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        names = ("model name", "flags", "Features", "CPU implementer", "CPU variant", "CPU part", "isa")
        facts += [line for line in first.splitlines() if line.partition(":")[0].strip() in names]
    return "\n".join(facts)


def _compilers() -> Iterator[list[str]]:
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            yield [path]
    if importlib.util.find_spec("ziglang"):
        yield [*module_command("ziglang"), "cc"]
