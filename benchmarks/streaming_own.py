"""rsedge as measured by streaming.py, and the lower bounds that use its model, each in a separate process.

    python streaming_own.py segment '{"raster": "town.tif", "out": "mask.tif"}'

Prints its facts as one line of JSON, as streaming_peers.py does. A model of null is the default model.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window as GdalWindow
from streaming_peers import Facts, report
from streaming_tables import blend_reference, ramps

from rsedge import Options, open_model
from rsedge import segment as run_segment
from rsedge.backends import Backend
from rsedge.backends.ort import OrtBackend
from rsedge.engine.sliding_window import reflect
from rsedge.tiling.axes import Axis, Tiling
from rsedge.verify.conditions import Conditions


def segment(
    raster: str, out: str, model: str | None = None, format: str = "gtiff", overlap: float = 0.25
) -> Facts:
    """Run ``rsedge.infer.segmentation`` with the model already open."""
    with open_model(model) as backend:
        options = Options(overlap=overlap, format=format, overwrite=True)  # type: ignore[arg-type]
        begin = time.perf_counter()
        result = run_segment(backend, raster, out, options)
        return {"wall_s": time.perf_counter() - begin, "stages_s": result.seconds, "windows": result.windows}


def model_alone(raster: str, model: str | None = None, overlap: float = 0.25) -> Facts:
    """Run the session once for every window of the raster, always on the same pixels."""
    with open_model(model) as backend, rasterio.open(raster) as src:
        tiling = Tiling.of(src.height, src.width, backend.bundle.manifest.tile, overlap, "blend")
        batch = first_tile(src, backend)
        run_windows(backend, batch, 1)
        begin = time.perf_counter()
        run_windows(backend, batch, len(tiling))
        return {"wall_s": time.perf_counter() - begin, "windows": len(tiling)}


def reference(raster: str, mask: str, model: str | None = None, overlap: float = 0.25) -> Facts:
    """Compare ``mask`` with a whole-array blend in float64, and count the pixels whose class differs.

    ``margin_p50`` is the median difference of the two best scores where the classes differ; near 0 these are ties.
    ``weights_off`` is the difference between this script's weights and rsedge's, which use the same formula.
    """
    with open_model(model) as backend, rasterio.open(raster) as src, rasterio.open(mask) as found:
        manifest = backend.bundle.manifest
        tiling = Tiling.of(src.height, src.width, manifest.tile, overlap, "blend")
        down, across = (
            ramps(axis.starts, axis.length, axis.tile, overlap) for axis in (tiling.rows, tiling.cols)
        )
        shape = (len(manifest.classes), src.height, src.width)
        total = blend_reference(_scores(src, backend, tiling), shape, down, across)
        differ = total.argmax(0) != found.read(1)
        best = np.partition(total[:, differ], -2, axis=0)[-2:]
        return {
            "pixels": differ.size,
            "differ": int(differ.sum()),
            "share": float(differ.mean()),
            "margin_p50": float(np.median(best[1] - best[0])) if differ.any() else None,
            "weights_off": max(_weights_off(tiling.rows, down), _weights_off(tiling.cols, across)),
            "classes": np.bincount(found.read(1).ravel(), minlength=256)[: shape[0]].tolist(),
        }


def first_window(begin: float, raster: str, out: str) -> Facts:
    """Measure ``rsedge infer`` from ``begin``, the parent's monotonic clock, to the model's first window.

    This script's own imports add no time, because rsedge imports the same modules.
    """
    from rsedge.cli import main  # noqa: PLC0415 - as the command does it

    seen: list[float] = []
    hook_windows(lambda: seen.append(time.monotonic()))
    sys.argv = ["rsedge", "infer", raster, "--out", out, "--quiet", "--overwrite"]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
    return {"first_window_s": seen[0] - begin}


def conditions(model: str | None = None) -> Facts:
    """Return machine, load and backend."""
    with open_model(model) as backend:
        return {
            **asdict(Conditions.of(backend)),
            "model": backend.bundle.manifest.name,
            "sha256": backend.bundle.sha256,
            "gdal": rasterio.__gdal_version__,
        }


def run_windows(backend: Backend, batch: NDArray[Any], count: int) -> None:
    """Run the session as the engine does, ``count`` times on the same pixels."""
    for _ in backend.stream(batch for _ in range(count)):
        pass


def hook_windows(call: Callable[[], None]) -> None:
    """Call ``call`` in this process whenever the next window is ready for the model."""
    stream = OrtBackend.stream

    def noted(batches: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        for batch in batches:
            call()
            yield batch

    def hooked(self: OrtBackend, batches: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float32]]:
        return stream(self, noted(batches))

    OrtBackend.stream = hooked  # type: ignore[assignment, method-assign]


def first_tile(src: Any, backend: Backend) -> NDArray[Any]:
    """Return the raster's first window as a batch of one."""
    tile = backend.bundle.manifest.tile
    return np.ascontiguousarray(
        reflect(src.read(window=GdalWindow(0, 0, min(tile, src.width), min(tile, src.height))), tile)[None]
    )


def _scores(src: Any, backend: Backend, tiling: Tiling) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    for w in tiling:
        pixels = src.read(window=GdalWindow(w.col, w.row, w.width, w.height))
        yield w.row, w.col, backend.infer(reflect(pixels, backend.bundle.manifest.tile)[None])[0]


def _weights_off(axis: Axis, ours: dict[int, NDArray[np.float64]]) -> float:
    return float(max(np.abs(w - ours[s]).max() for s, w in zip(axis.starts, axis.weights, strict=True)))


if __name__ == "__main__":
    report(
        {
            "segment": segment,
            "model": model_alone,
            "reference": reference,
            "first-window": first_window,
            "conditions": conditions,
        }
    )
