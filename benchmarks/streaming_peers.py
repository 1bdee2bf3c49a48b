"""Contenders that streaming.py compares with rsedge, each in a separate process that does not import rsedge.

    python streaming_peers.py CONTENDER '{"raster": "town.tif", ...}'

Runs one contender and prints its facts as one line of JSON: ``wall_s`` is the work alone, after the imports, and
``peak_rss_bytes`` that of this process. geodeep's interpreter needs no other package than geodeep.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as rsedge.backends.ort_module does, also for geodeep
Facts = dict[str, Any]
BLOCK = 512
MASK_PROFILE = {
    "driver": "GTiff", "dtype": "uint8", "count": 1, "nodata": 255, "compress": "zstd", "zstd_level": 1, "tiled": True,
    "blockxsize": BLOCK, "blockysize": BLOCK, "bigtiff": "IF_SAFER",
}  # fmt: skip


def read(raster: str, gdal_threads: int = 1) -> Facts:
    """Decode the raster into one buffer, a row of blocks at a time."""
    begin = time.perf_counter()
    with rasterio.open(raster, num_threads=gdal_threads) as src:
        buffer = np.empty((src.count, BLOCK, src.width), src.dtypes[0])
        for strip in _strips(src.height, src.width):
            src.read(window=strip, out=buffer[:, : strip.height])
    return {"wall_s": time.perf_counter() - begin}


def write(mask: str, out: str) -> Facts:
    """Write a mask from memory as a tiled zstd GeoTIFF, a row of blocks at a time."""
    pixels, place = _whole(mask)
    begin = time.perf_counter()
    _write_mask(out, pixels[0], place)
    return {"wall_s": time.perf_counter() - begin, "bytes": Path(out).stat().st_size}


def naive(raster: str, out: str, model: str, tile: int) -> Facts:
    """Run the common loop: the whole raster in memory, tiles side by side, argmax of each, the whole mask."""
    run = _session(model)
    begin = time.perf_counter()
    pixels, place = _whole(raster)
    height, width = pixels.shape[1:]
    mask = np.zeros((height, width), np.uint8)
    for row in range(0, height, tile):
        for col in range(0, width, tile):
            part = pixels[:, row : row + tile, col : col + tile]
            rows, cols = part.shape[1:]
            batch = np.pad(part, ((0, 0), (0, tile - rows), (0, tile - cols)))[None]
            mask[row : row + rows, col : col + cols] = run(batch)[0].argmax(0)[:rows, :cols]
    _write_mask(out, mask, place)
    return {"wall_s": time.perf_counter() - begin}


def naive_blend(raster: str, out: str, model: str, tile: int, overlap: float = 0.25) -> Facts:
    """Run the loop with overlap: scores of the whole raster, added with a ramp, divided by the ramps' sum, argmax."""
    run = _session(model)
    begin = time.perf_counter()
    pixels, place = _whole(raster)
    height, width = pixels.shape[1:]
    ramp = np.minimum(np.arange(tile) + 0.5, np.arange(tile, 0, -1) - 0.5) / round(tile * overlap)
    weight = np.multiply.outer(np.minimum(ramp, 1), np.minimum(ramp, 1)).astype(np.float32)
    total: NDArray[np.float32] | None = None
    weights = np.zeros((height, width), np.float32)
    stride = tile - round(tile * overlap)
    for row in (*range(0, height - tile, stride), height - tile):
        for col in (*range(0, width - tile, stride), width - tile):
            here = (slice(row, row + tile), slice(col, col + tile))
            scores = run(np.ascontiguousarray(pixels[:, here[0], here[1]])[None])[0]
            if total is None:
                total = np.zeros((len(scores), height, width), np.float32)
            total[:, here[0], here[1]] += scores * weight
            weights[here] += weight
    assert total is not None  # the raster is at least one tile
    total /= weights
    _write_mask(out, total.argmax(0).astype(np.uint8), place)
    return {"wall_s": time.perf_counter() - begin}


def geodeep(raster: str, out: str, model: str) -> Facts:
    """Run geodeep as users do; ``loop_s`` is without the median filter that geodeep applies to the mask."""
    segment = import_module("geodeep").segment  # installed in another environment
    save_mask_to_raster = import_module("geodeep.segmentation").save_mask_to_raster
    _die_first()
    begin = time.perf_counter()
    finalizing: list[float] = []

    def progress(text: str, _: float) -> None:
        if text == "Finalizing":
            finalizing.append(time.perf_counter())

    mask = segment(raster, model, output_type="raw", progress_callback=progress)
    filtered = time.perf_counter()
    save_mask_to_raster(raster, mask, out)
    end = time.perf_counter()
    return {
        "wall_s": end - begin,
        "loop_s": end - begin - (filtered - finalizing[0]),
        "scipy": "scipy" in sys.modules,
    }


def agreement(one: str, other: str) -> Facts:
    """Return the share of the pixels on which two masks agree."""
    same = pixels = 0
    with rasterio.open(one) as a, rasterio.open(other) as b:
        for strip in _strips(a.height, a.width):
            equal = a.read(1, window=strip) == b.read(1, window=strip)
            same, pixels = same + int(equal.sum()), pixels + equal.size
    return {"agreement": same / pixels}


def versions(geodeep: bool = False) -> Facts:
    """Return the versions of the other contenders' libraries."""
    names = ("numpy", "rasterio", "onnxruntime", *(["geodeep"] * geodeep))
    facts: Facts = {name: version(name) for name in names}
    return {**facts, "gdal": rasterio.__gdal_version__, "python": sys.version.split()[0]}


def report(contenders: Mapping[str, Callable[..., Facts]]) -> None:
    """Run the contender named on the command line and print its facts."""
    warnings.simplefilter("ignore")
    facts = contenders[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps({**facts, "peak_rss_bytes": _peak_rss_bytes()}))


def _session(model: str) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    import onnxruntime  # noqa: PLC0415 - slow to load, and only the naive loops need it

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


def _die_first() -> None:
    """Make the system kill this process first when out of memory, as its filter may need 50 bytes a pixel."""
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text("1000")


def _peak_rss_bytes() -> int | None:
    """Return this process's own peak; the parent's ``wait4`` also counts the parent's memory before ``exec``."""
    status = Path("/proc/self/status")
    found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE) if status.exists() else None
    return int(found[1]) * 1024 if found else None


def _strips(height: int, width: int) -> Iterator[Window]:
    for row in range(0, height, BLOCK):
        yield Window(0, row, width, min(BLOCK, height - row))


def _whole(path: str) -> tuple[NDArray[Any], dict[str, Any]]:
    with rasterio.open(path) as src:
        return src.read(), {"crs": src.crs, "transform": src.transform}


def _write_mask(out: str, mask: NDArray[np.uint8], place: Mapping[str, Any]) -> None:
    height, width = mask.shape
    with rasterio.open(out, "w", **{**MASK_PROFILE, **place, "height": height, "width": width}) as dst:
        for strip in _strips(height, width):
            dst.write(mask[strip.row_off : strip.row_off + strip.height], 1, window=strip)


if __name__ == "__main__":
    report(
        {
            "read": read,
            "write": write,
            "naive": naive,
            "naive-blend": naive_blend,
            "geodeep": geodeep,
            "agreement": agreement,
            "versions": versions,
        }
    )
