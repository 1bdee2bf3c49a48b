"""The folder a bundle is written to: refused where it is somebody else's, replaced only by a whole one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rsedge.errors import InputError
from rsedge.model.bundle import MANIFEST_NAME

SUFFIX = ".rsedge"


def check_out(out: Path) -> None:
    """Raise InputError when ``out`` cannot become a bundle, or is somebody's folder that is none."""
    if out.suffix != SUFFIX:
        raise InputError(f"--out {out}: a bundle's folder is named NAME{SUFFIX}, such as student{SUFFIX}")
    if not out.parent.is_dir():
        raise InputError(f"{out}: the folder {out.parent} does not exist; create it first")
    if not os.access(out.parent, os.W_OK):
        raise InputError(
            f"{out}: the folder {out.parent} is not writable; choose another or change its permissions"
        )
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise InputError(f"{out} exists and is not a folder; choose another name")
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST_NAME).is_file():
        raise InputError(
            f"{out} exists and is not a bundle (it has no {MANIFEST_NAME}); choose another name or empty it"
        )


@contextmanager
def replaced_when_whole(out: Path) -> Iterator[Path]:
    """A folder to fill that takes the name ``out`` when the block ends well, and goes away otherwise.

    What stood at ``out`` goes only then. No system call swaps two folders everywhere, so a crash
    between the two renames leaves the old one beside it as ``.NAME.old``.
    """
    partial, old = out.with_name(f".{out.name}.part"), out.with_name(f".{out.name}.old")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
            out.rename(old)
        partial.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
