"""Each stage of ``rsedge infer`` on a single thread, with its bytes and operations, in a separate process.

    export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
    python streaming_profile.py profile '{"raster": "town.tif", "folder": "/tmp"}'

The process is bound to one core, except when two threads measure the memory. The shortest of ``repeats`` counts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from streaming_own import first_tile, run_windows
from streaming_peers import Facts, report
from streaming_tables import geometry_work

from rsedge import open_model
from rsedge.backends import Backend
from rsedge.model.manifest import ClassInfo, Manifest
from rsedge.raster import Format, RasterReader, plan_bands
from rsedge.raster.part_file import PartFile
from rsedge.raster.parts import Finish, Layer, assemble, part_areas, write_part
from rsedge.tiling.axes import Tiling
from rsedge.tiling.blend import RollingBand, Spans
from rsedge.tiling.window import Window

COPY_BYTES, SIDE = 256 << 20, 2048
Stage = Callable[[], object]


def profile(
    raster: str, folder: str, model: str | None = None, overlap: float = 0.25, repeats: int = 3
) -> Facts:
    """Return seconds, bytes and operations of each stage for the whole raster, and this machine's best speeds."""
    machine = measure_machine(repeats)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    with open_model(model, threads=1) as backend, rasterio.open(raster) as src:
        m = backend.bundle.manifest
        tiling = Tiling.of(src.height, src.width, m.tile, overlap, "blend")
        batch = first_tile(src, backend)
        pixels, window_pixels = src.height * src.width, len(tiling) * m.tile**2
        work = geometry_work(pixels, window_pixels, len(m.bands), len(m.classes))
        work["model"] = model_work(backend, window_pixels)
        seconds = {
            name: shortest(stage, repeats) for name, stage in stages(backend, raster, tiling, batch).items()
        }
        seconds |= writing(raster, Path(folder), repeats)
    order = ("decode", "gather", "model", "blend + argmax", "encode", "GeoTIFF", "COG")
    rows = [
        {"stage": s, "bytes_moved": work[s][0], "operations": work[s][1], "seconds": seconds[s]}
        for s in order
    ]
    return {"machine": machine, "stages": rows, "model": m.name, "windows": len(tiling)}


def stages(backend: Backend, raster: str, tiling: Tiling, batch: NDArray[Any]) -> dict[str, Stage]:
    """Return the functions of the stages before the writer, which call rsedge's own functions."""
    manifest = backend.bundle.manifest
    scores = backend.infer(batch)[0]
    strip = np.ones((len(manifest.bands), tiling.rows.size, tiling.cols.length), manifest.dtype)

    def gather() -> None:
        for _ in tiling.rows.starts:
            for left in tiling.cols.starts:
                batch[0, :, : strip.shape[1], : tiling.cols.size] = strip[
                    :, :, left : left + tiling.cols.size
                ]

    def blend() -> None:
        band = RollingBand(Spans(tiling), len(manifest.classes))
        for _ in tiling.rows.starts:
            for col in range(len(tiling.cols.starts)):
                band.add(col, scores)
            band.finish_row()

    return {
        "decode": lambda: decode(raster, manifest),
        "gather": gather,
        "model": lambda: run_windows(backend, batch, len(tiling)),
        "blend + argmax": blend,
    }


def decode(raster: str, manifest: Manifest) -> None:
    """Decode the whole raster by rsedge's reader, a row of blocks at a time."""
    with RasterReader(raster) as reader:
        grid, plan = reader.grid, plan_bands(reader, manifest, None, None)
        strips = reader.row_strips(Window(0, 0, grid.height, grid.width))
        most = max(strip.height for strip in strips) * grid.width
        image, valid = np.empty(most * len(manifest.bands), manifest.dtype), np.empty(most, np.bool_)
        for strip in strips:
            shape, pixels = (strip.height, strip.width), strip.height * strip.width
            bands = image[: pixels * len(manifest.bands)].reshape(-1, *shape)
            reader.read_into(strip, plan, bands, valid[:pixels].reshape(shape))


def writing(raster: str, folder: Path, repeats: int) -> dict[str, float]:
    """Time a mask, the raster's brightness in six steps: written in parts, and joined into a file."""
    with RasterReader(raster) as reader, rasterio.open(raster) as src:
        grid, mask = reader.grid, (src.read(1) // 43).astype(np.uint8)[None]
    layer = Layer("mask", 1, tuple(ClassInfo(f"step {i}", (i, i, i)) for i in range(6)))
    areas = part_areas(Window(0, 0, grid.height, grid.width))
    paths = [folder / f"profile-{area.row}.mask.tif" for area in areas]
    files = list[PartFile]()

    def encode() -> None:
        files[:] = [
            write_part(path, layer.name, mask[:, area.row : area.row_end])
            for path, area in zip(paths, areas, strict=True)
        ]

    def make(format: Format) -> None:
        parts = list(zip(areas, paths, files, strict=True))
        assemble(folder / "profile.tif", grid, layer, parts, Finish(format, "zstd"))

    return {
        "encode": shortest(encode, repeats),
        "GeoTIFF": shortest(lambda: make("gtiff"), repeats),
        "COG": shortest(lambda: make("cog"), repeats),
    }


def model_work(backend: Backend, window_pixels: int) -> tuple[float, float]:
    """Return bytes of the graph's input and output alone, and its operations, two a MAC, by its manifest."""
    m = backend.bundle.manifest
    macs = (
        m.complexity.get("macs_deployed", m.complexity.get("macs", 0)) / m.complexity.get("macs_tile", 1) ** 2
    )
    pixel_bytes = len(m.bands) * np.dtype(m.dtype).itemsize + 4 * len(m.classes)
    return window_pixels * pixel_bytes, 2 * window_pixels * macs


def measure_machine(repeats: int) -> dict[str, float]:
    """Return bytes a second of a copy (read and written) by one and two threads; operations a second of a matmul."""
    source = np.ones(COPY_BYTES, np.uint8)
    target = np.zeros_like(source)
    halves = [(target[part], source[part]) for part in (slice(COPY_BYTES // 2), slice(COPY_BYTES // 2, None))]
    one = shortest(lambda: np.copyto(target, source), repeats)
    with ThreadPoolExecutor(2) as pool:
        two = shortest(lambda: _drain(pool.map(lambda h: np.copyto(*h), halves)), repeats)
    matrix = np.ones((SIDE, SIDE), np.float32)
    product = shortest(lambda: matrix @ matrix, repeats)
    return {
        "copy_1_bytes_per_s": 2 * COPY_BYTES / one,
        "copy_2_bytes_per_s": 2 * COPY_BYTES / two,
        "operations_per_s": 2 * SIDE**3 / product,
    }


def shortest(stage: Stage, repeats: int) -> float:
    """Return the least seconds of ``repeats`` runs after an uncounted run, which compiles and allocates."""
    times = []
    for number in range(repeats + 1):
        begin = time.perf_counter()
        stage()
        if number:
            times.append(time.perf_counter() - begin)
    return min(times)


def _drain(items: Iterable[object]) -> None:
    for _ in items:
        pass


if __name__ == "__main__":
    report({"profile": profile})
