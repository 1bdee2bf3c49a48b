"""Segments odd rasters in a process of its own, a seed a line, and says what came of each.

``echo SEED | python tests/raster_worker.py FOLDER`` does one again, and keeps its files where it failed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import resource
import shutil
import socket
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags

from odd_rasters import SCALED, mutate, put_places, side_files, write_bases
from rsedge import open_model, segment
from rsedge.backends import Backend
from rsedge.errors import InputError, OutputError
from rsedge.infer.options import Options
from rsedge.model.manifest import NODATA
from toys import make_bundle, pointwise_graph, pointwise_manifest

ADDRESS_SPACE_BYTES, MOST_RAM_BYTES = 8 << 30, 900 << 20
ENOUGH_S, ENOUGH_MPX = (
    8.0,
    2.0,
)  # a raster that says it is huge is stopped after so long, if it is as large as this
IN_OPEN, IN_CREATE, IN_NONBLOCK = 0x20, 0x100, 0x800


class Enough(BaseException):
    """Work goes on, and would for long: the raster says it is very large."""


class Lookout:
    """Sees whether anything outside is opened, written or asked."""

    def __init__(self, root: Path) -> None:
        self.outside, self.here = root / "outside", root / "here"
        for folder in (self.outside, self.here):
            folder.mkdir()
        facts = {"driver": "GTiff", "count": 1, "width": 130, "height": 90, "dtype": "uint8"}
        with rasterio.open(self.outside / "secret.tif", "w", **facts) as dst:
            dst.write(np.full((1, 90, 130), 77, np.uint8))
        shutil.copy(self.outside / "secret.tif", self.outside / "secret.tif.ovr")
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.setblocking(False)
        self.port, self.events = self.server.getsockname()[1], list[str]()
        libc = ctypes.CDLL(None, use_errno=True)
        self._handle = libc.inotify_init1(IN_NONBLOCK)
        assert libc.inotify_add_watch(self._handle, os.fsencode(self.outside), IN_OPEN | IN_CREATE) >= 0
        with rasterio.open(self.outside / "secret.tif"):
            assert self._opened(), "nothing would be seen"
        sys.addaudithook(self._heard)
        os.chdir(self.here)

    def _heard(self, event: str, args: tuple[Any, ...]) -> None:
        if event in {"socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec"}:
            self.events.append(f"{event} {args[1:]}")

    def _opened(self) -> bool:
        try:
            return bool(os.read(self._handle, 65536))
        except BlockingIOError:
            return False

    def forget(self) -> None:
        """What a check of our own has opened does not count."""
        self._opened()
        self.events.clear()

    def check(self) -> None:
        """Raise AssertionError where there was something."""
        if self._opened():
            self.events.append("a file outside was opened")
        try:
            self.server.accept()[0].close()
            self.events.append("a server was asked")
        except BlockingIOError:
            pass
        if os.listdir(self.here) or len(os.listdir(self.outside)) != 2:
            self.events.append("a file was written outside")
        heard = list(self.events)
        self.forget()  # what was opened to look, too
        assert not heard, heard


def expected(path: Path, scale: tuple[float, float] | None) -> np.ndarray:
    """What the mask must be, by rasterio and numpy alone."""
    # GDAL's shortcut for a whole PNG takes its compressed bytes for pixels where the end is missing.
    with rasterio.Env(GDAL_PNG_WHOLE_IMAGE_OPTIM="NO"), rasterio.open(path) as src:
        with contextlib.suppress(CPLE_BaseError):  # of a side file: it comes with the next call
            _ = src.colorinterp
        names = [c.name for c in src.colorinterp]
        usable = [i for i, name in enumerate(names, 1) if name != "alpha"]
        colors = (
            src.colormap(1)
            if [names[i - 1] for i in usable] == ["palette"] and names[0] == "palette"
            else None
        )
        rgb = ["red", "green", "blue"]
        chosen = (
            [1] if colors else [names.index(n) + 1 for n in rgb] if set(rgb) <= set(names) else usable[:3]
        )
        stored, valid = src.read(chosen), valid_of(src, chosen)
        for i, color in enumerate(src.colorinterp, 1):
            if color == ColorInterp.alpha:
                valid &= src.read(i) > 0
    if colors:
        table = np.zeros((65536, 4), np.uint8)
        for value, color in colors.items():
            table[value] = (*color, 255)[:4]
        valid &= table[stored[0], 3] > 0
        stored = np.moveaxis(table[stored[0], :3], 2, 0)
    if stored.dtype.kind == "f":
        valid &= np.isfinite(stored).all(0)
    if scale is not None:
        with np.errstate(all="ignore"):
            real = (
                (np.where(valid, stored, scale[0]).astype(np.float64) - scale[0])
                * 255
                / (scale[1] - scale[0])
            )
        stored = np.rint(np.clip(real, 0, 255))
    return np.where(valid, stored.astype(np.int32).argmax(0), NODATA).astype(np.uint8)


def valid_of(src: Any, chosen: list[int]) -> np.ndarray:
    """Where GDAL's masks have data: any band that has a nodata value, every band that has a mask of its own."""
    valid, flags = np.ones(src.shape, bool), [src.mask_flag_enums[i - 1] for i in chosen]
    masks = [src.read_masks(i) > 0 for i in chosen]
    if MaskFlags.per_dataset in flags[0]:
        return masks[0]
    with_value = [mask for mask, f in zip(masks, flags, strict=True) if MaskFlags.nodata in f]
    if len(with_value) == len(chosen):
        valid &= np.any(with_value, axis=0)
    for mask, f in zip(masks, flags, strict=True):
        valid &= mask if not f else True
    return valid


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.lstat().st_size, p.lstat().st_mtime_ns) for p in folder.iterdir()}


def attempt(
    model: Backend, lookout: Lookout, path: Path, out: Path, scale: tuple[float, float] | None
) -> str:
    """Segment one. Raises AssertionError where what came of it is not allowed."""
    before, began, said = listing(path.parent), time.monotonic(), ""
    options = Options(scale=scale, max_ram_bytes=MOST_RAM_BYTES, format="gtiff")

    def progress(_: int, windows: int) -> None:
        if time.monotonic() - began > ENOUGH_S:
            raise Enough(windows)

    try:
        segment(model, path, out, options, progress)
        end = "mask"
    except Enough as error:
        end, said = "long", str(error)
    except (InputError, OutputError) as error:  # BackendError would not be of the raster
        end, said = "refused", str(error)
    lookout.check()
    assert listing(path.parent) == before, "the raster's folder is other than before"
    if end == "long":
        assert int(said) * 64 * 64 > ENOUGH_MPX * 1e6, f"{said} windows took {ENOUGH_S} s"
    if end == "refused":
        assert said, "an error without words"
        assert not os.listdir(out.parent), f"left: {os.listdir(out.parent)}"
    if end == "mask":
        with rasterio.open(out) as dst:
            found = dst.read(1)
        wanted = expected(path, scale)
        assert found.shape == wanted.shape, f"{found.shape}, not {wanted.shape}"
        wrong = found != wanted
        if wrong.any():  # of damaged deflate, GDAL reads the end of a strip otherwise each time
            uncertain = np.any([expected(path, scale) != wanted for _ in range(5)], axis=(0, 2))
            here = np.argwhere(wrong & ~uncertain[:, None])
            assert not len(here), f"a wrong mask: {wrong.sum()} pixels, at {here[0]}"
            end = "chance"
        lookout.forget()
    return end


def say(facts: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main() -> None:
    root = Path(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    warnings.simplefilter("ignore")
    (root / "bases").mkdir()
    (root / "sides").mkdir()
    bases, sides = write_bases(root / "bases"), side_files(root / "sides")
    manifest = pointwise_manifest()
    with open_model(make_bundle(root / "b.rsedge", manifest, pointwise_graph(manifest)), "cpu", 1) as model:
        segment(model, bases["tiles"], root / "mask.tif")  # what is loaded once
        lookout = Lookout(root)
        for line in sys.stdin:
            seed = int(line)
            folder = root / "odd" / str(seed)
            kind, path = mutate(random.Random(seed), bases, sides, folder / "in")
            put_places(folder / "in", lookout.outside, lookout.port)
            (folder / "out").mkdir()
            say({"seed": seed, "kind": kind, "path": str(path)})
            scale = (0.0, 255.0) if kind.split()[0] in SCALED else None
            began, fault = time.monotonic(), ""
            try:
                end = attempt(model, lookout, path, folder / "out" / "mask.tif", scale)
            except BaseException as error:
                end, fault = "fault", f"{type(error).__name__}: {error}"
                if not isinstance(error, AssertionError):
                    fault += "\n" + "".join(traceback.format_tb(error.__traceback__)[-4:])
            if end != "fault":
                shutil.rmtree(folder)
            say({"end": end, "fault": fault, "seconds": time.monotonic() - began})


if __name__ == "__main__":
    main()
