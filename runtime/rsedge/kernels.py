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
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from rsedge.conditions import cpu_name

SWITCH = "RSEDGE_COMPILED"  # "0" keeps to numpy
SOURCE = Path(__file__).with_name("kernels.c")
# No fused multiply-add, no fast-math: the numpy paths have neither. The last two do not change results.
FLAGS = ("-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
COMPILE_LIMIT_S = 120.0
POINTER, INTEGER = ctypes.c_void_p, ctypes.c_int64


@cache
def compiled() -> Any | None:
    """The kernels as a ctypes library, which lets other threads run meanwhile; None where there is no compiler."""
    if os.environ.get(SWITCH) == "0":
        return None
    for folder in _cache_folders():
        with suppress(OSError, subprocess.SubprocessError, AttributeError):
            library = ctypes.CDLL(os.fspath(_built(folder)))
            library.rsedge_add_tile.argtypes = [POINTER] * 7 + [INTEGER] * 13
            library.rsedge_add_tile.restype = ctypes.c_int
            library.rsedge_halve.argtypes = [POINTER] * 2 + [INTEGER] * 2
            library.rsedge_halve.restype = None
            return library
    return None


def _built(folder: Path) -> Path:
    """The shared library, compiled where it is not there yet. Raises OSError or SubprocessError."""
    source = SOURCE.read_bytes()
    # A home folder may be shared by machines of several kinds, and each compiles for its own processor.
    machine = f"{platform.machine()} {cpu_name()} {sys.platform}"
    digest = hashlib.sha256(b"\0".join((source, machine.encode(), *map(str.encode, FLAGS)))).hexdigest()[:16]
    path = folder / f"kernels-{digest}.so"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, partial = tempfile.mkstemp(suffix=".so", dir=folder)
    os.close(handle)
    try:
        for compiler in _compilers():
            for native in ("-march=native", "-mcpu=native", ""):
                command = [*compiler, *FLAGS, *filter(None, [native]), "-o", partial, os.fspath(SOURCE)]
                done = subprocess.run(command, capture_output=True, timeout=COMPILE_LIMIT_S, check=False)
                if done.returncode == 0:
                    os.replace(partial, path)  # two processes may do this at once: either file will do
                    return path
    finally:
        Path(partial).unlink(missing_ok=True)
    raise FileNotFoundError("no C compiler")


def _compilers() -> Iterator[list[str]]:
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            yield [path]
    if importlib.util.find_spec("ziglang"):
        yield [sys.executable, "-m", "ziglang", "cc"]


def _cache_folders() -> Iterator[Path]:
    yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rsedge"
    yield Path(tempfile.gettempdir()) / f"rsedge-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
