"""The few loops that numpy is too slow for, in C, where this machine has a compiler.

``kernels.c`` is compiled once a machine, by its own C compiler or by that of the ``ziglang`` package
(``rsedge[fast]``), and kept in the user's cache folder. Whoever calls a kernel has a numpy path beside it that
gives the same numbers to the last bit, so a machine without a compiler is only slower.

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
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from rsedge.files import temporary_cache, user_cache

SWITCH = "RSEDGE_COMPILED"  # "0" keeps to numpy
READY = "RSEDGE_KERNELS"  # a library compiled beforehand, for images without a compiler
SOURCE = Path(__file__).with_name("kernels.c")
# No fused multiply-add, no fast-math: the numpy paths have neither. The last two do not change results.
FLAGS = ("-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
NATIVE = ("-march=native", "-mcpu=native", "")  # what compilers call it, by processor
COMPILE_LIMIT_S = 60.0
POINTER, INTEGER = ctypes.c_void_p, ctypes.c_int64
CPUINFO = Path("/proc/cpuinfo")


@cache
def compiled() -> Any | None:
    """The kernels as a ctypes library, which lets other threads run meanwhile; None where there is no compiler."""
    if os.environ.get(SWITCH) == "0":
        return None
    for folder in dict.fromkeys((user_cache(), temporary_cache())):
        try:
            return _kept(folder) or _built(folder)
        except subprocess.TimeoutExpired:
            break  # a compiler that hangs would do so again
        except (OSError, subprocess.SubprocessError):
            continue  # a folder that is not ours to write, or no compiler
    with suppress(KeyError, OSError, AttributeError):
        return _load(Path(os.environ[READY]))
    return None


def _kept(folder: Path) -> Any | None:
    """What an earlier run compiled for this machine; None where it must be compiled."""
    path = folder / _name()
    with suppress(OSError, AttributeError):  # not there, or broken
        _check_private(folder)
        _check_private(path)
        return _load(path)
    return None


def _built(folder: Path) -> Any:
    """The kernels, newly compiled, and kept for the next run. Raises OSError or SubprocessError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _check_private(folder)
    handle, partial = tempfile.mkstemp(suffix=".so", dir=folder)
    os.close(handle)
    try:
        for compiler in _compilers():
            for native in NATIVE:
                command = [*compiler, *FLAGS, *filter(None, [native]), "-o", partial, os.fspath(SOURCE)]
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=COMPILE_LIMIT_S,
                    check=False,
                )
                with suppress(OSError, AttributeError):  # it says that it worked, and did not
                    if done.returncode == 0:
                        library = _load(Path(partial))
                        with Path(partial).open("rb") as file:
                            os.fsync(file.fileno())  # a power cut must not leave half a library
                        os.chmod(partial, 0o700)
                        os.replace(partial, folder / _name())  # two processes at once: either file will do
                        return library
    finally:
        Path(partial).unlink(missing_ok=True)
    raise FileNotFoundError("no C compiler")


def _load(path: Path) -> Any:
    """Raises OSError where the file is no library, AttributeError where it is another."""
    library = ctypes.CDLL(os.fspath(path))
    library.rsedge_add_tile.argtypes = [POINTER] * 6 + [INTEGER] * 13
    library.rsedge_add_tile.restype = ctypes.c_int
    library.rsedge_halve.argtypes = [POINTER] * 2 + [INTEGER] * 2
    library.rsedge_halve.restype = None
    return library


def _check_private(path: Path) -> None:
    """Raise PermissionError where somebody else could have put it there: it is code that will be run."""
    facts = path.lstat()
    ours = not hasattr(os, "getuid") or facts.st_uid == os.getuid()
    if not ours or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or stat.S_ISLNK(facts.st_mode):
        raise PermissionError(f"{path} can be written by others")


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
        yield [sys.executable, "-m", "ziglang", "cc"]
