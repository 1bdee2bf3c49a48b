"""Output folder of a bundle: never somebody else's, and replaced only by a complete bundle."""

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
    """Raise InputError if ``out`` cannot become a bundle, or is a folder that is not a bundle."""
    if out.suffix != SUFFIX:
        raise InputError(f"--out {out}: the name of a bundle must end with {SUFFIX}, such as student{SUFFIX}")
    if not out.parent.is_dir():
        raise InputError(f"{out}: the folder {out.parent} does not exist. Create it first")
    if not os.access(out.parent, os.W_OK):
        raise InputError(
            f"{out}: the folder {out.parent} is not writable. Choose another or change its permissions"
        )
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise InputError(f"{out} exists and is not a folder. Choose another name")
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST_NAME).is_file():
        raise InputError(
            f"{out} exists and is not a bundle ({MANIFEST_NAME} not found). Choose another name or empty it"
        )


@contextmanager
def replaced_when_whole(out: Path) -> Iterator[Path]:
    """Yield a folder to fill, which is renamed to ``out`` when the block succeeds and removed otherwise.

    The old ``out`` is removed only then. No system call swaps two folders on all systems, so a crash
    between the two renames leaves the old folder beside it as ``.NAME.old``.
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
