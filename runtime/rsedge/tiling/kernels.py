"""Loops in C for which numpy is too slow, if this machine has a compiler.

``kernels.c`` is compiled once per machine, with its own C compiler or that of the ``ziglang`` package
(``rsedge[fast]``), and cached in the user's folder with its SHA-256 appended. Every kernel has a numpy function in
`twins` that returns the same bits, so a machine without a compiler is only slower.

A library is loaded only if no other user can write it or a folder above it, its bytes are those that were compiled,
and it returned the same numbers as numpy after compilation. The checked file itself is loaded.

Numba is not used, because loading a cached function took 160 MB and half a second instead of 0.1 MB and 1 ms.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from rsedge.files import NO_LINK, check_owner, check_private, real_folder, temporary_cache, user_cache
from rsedge.own_python import module_command

SWITCH = "RSEDGE_COMPILED"  # "0" selects numpy
READY = "RSEDGE_KERNELS"  # path of a precompiled library, for images without a compiler
SOURCE = Path(__file__).with_name("kernels.c")
# No fused multiply-add and no fast-math, because numpy uses neither. The -fno- flags do not change results.
FLAGS = ("-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
NATIVE = ("-march=native", "-mcpu=native", "")  # the option's name depends on the processor
COMPILE_LIMIT_S = 60.0
RETRY_S = 86_400.0  # failed compilers are retried after this time, because the disk may have been full
DIGEST_BYTES = 32
POINTER, INTEGER = ctypes.c_void_p, ctypes.c_int64
CPUINFO = Path("/proc/cpuinfo")


@cache
def compiled() -> Any | None:
    """Return the kernels as a ctypes library, which releases the GIL in calls; None if there is no compiler."""
    if os.environ.get(SWITCH) == "0":
        return None
    folders = [real_folder(folder) for folder in dict.fromkeys((user_cache(), temporary_cache()))]
    for folder in folders:
        if library := _kept(folder):
            return library
    for folder in folders:
        try:
            return _built(folder)
        except (subprocess.TimeoutExpired, _FailedBeforeError):
            break  # a compiler that hangs would hang again
        except (OSError, subprocess.SubprocessError):
            continue  # the folder is not writable, or there is no compiler
    with suppress(KeyError, OSError, AttributeError):
        return _tested(_typed(ctypes.CDLL(os.environ[READY])))
    return None


class _FailedBeforeError(Exception):
    """The same compilers have failed on this machine recently."""


def _kept(folder: Path) -> Any | None:
    """Return the library that an earlier run compiled for this machine; None if it must be compiled."""
    with suppress(OSError, AttributeError):  # the library is missing or broken
        check_private(folder)
        return _checked(folder / _name())
    return None


def _built(folder: Path) -> Any:
    """Compile the kernels, cache and return them. Raises OSError or SubprocessError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    check_private(folder)
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
                    stdout=subprocess.DEVNULL,  # unbounded, and not read
                    stderr=subprocess.DEVNULL,
                    timeout=COMPILE_LIMIT_S,
                    check=False,
                )
                with suppress(OSError, AttributeError):  # a compiler may report success and fail
                    if done.returncode == 0:
                        _seal(Path(partial))
                        library = _tested(_checked(Path(partial)))
                        os.replace(partial, folder / _name())  # of two processes either file will do
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
    """Append a library's SHA-256 and sync the file to disk."""
    path.chmod(0o700)
    with path.open("rb+") as file:
        file.write(hashlib.sha256(file.read()).digest())
        file.flush()
        os.fsync(file.fileno())  # a power cut must not leave an incomplete library


def _checked(path: Path) -> Any:
    """Load a library sealed by `_seal`. Raises OSError if the library was changed or belongs to another user."""
    handle = os.open(path, os.O_RDONLY | NO_LINK)
    loaded = False
    try:
        check_owner(os.fstat(handle), path)
        with open(handle, "rb", closefd=False) as file:
            data = file.read()
        if hashlib.sha256(data[:-DIGEST_BYTES]).digest() != data[-DIGEST_BYTES:]:
            raise OSError(f"{path} was changed after compilation")
        by_handle = Path(f"/proc/self/fd/{handle}")
        library = ctypes.CDLL(os.fspath(by_handle if by_handle.exists() else path))
        loaded = True  # the descriptor stays open, because the loader knows the library by its number
        return _typed(library)
    finally:
        if not loaded:
            os.close(handle)


def _tested(library: Any) -> Any:
    """Return the library. Raises OSError if its results differ from numpy's."""
    from rsedge.tiling.twins import answers_the_same  # noqa: PLC0415 - imports numpy, which callers may not need

    if not answers_the_same(library):
        raise OSError("the library's results differ from numpy's")
    return library


def _typed(library: Any) -> Any:
    """Declare the library's functions and return it. Raises AttributeError if a function is missing."""
    library.rsedge_add_tile.argtypes = [POINTER] * 6 + [INTEGER] * 13
    library.rsedge_add_tile.restype = ctypes.c_int
    library.rsedge_halve.argtypes = [POINTER] * 2 + [INTEGER] * 2
    library.rsedge_halve.restype = None
    return library


def _compiler_facts() -> str:
    """Return the identity of this machine's compilers: their paths, sizes and modification times."""
    facts = []
    for command in _compilers():
        state = os.stat(command[0])
        facts.append(f"{command[0]} {os.path.realpath(command[0])} {state.st_size} {state.st_mtime_ns}")
    return "\n".join(facts)


def _remember(path: Path, facts: str) -> None:
    """Record that these compilers fail or hang, because a retry at every start would take a minute."""
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
    """Return the library's file name, which depends on the source, the flags and the processor."""
    facts = (SOURCE.read_bytes(), _machine().encode(), *map(str.encode, FLAGS))
    return f"kernels-{hashlib.sha256(bytes(1).join(facts)).hexdigest()[:16]}.so"


def _machine() -> str:
    """Return the identity of the processor, because machines of several kinds may share a home folder."""
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
