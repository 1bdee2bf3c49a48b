"""Peers of peers.py, each in a separate process; those of streaming_peers.py use the common session settings.

    python peers_contenders.py monai '{"raster": "town.tif", "out": "mask.tif", "model": "x.onnx", "tile": 512}'

Prints its facts as one line of JSON, as streaming_peers.py does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from peers_tables import first_pixel, put
from streaming_peers import (
    Facts,
    _die_first,
    _session,
    _whole,
    _write_mask,
    geodeep,
    naive,
    naive_blend,
    report,
)

from rsedge.backends.ort_module import import_onnxruntime
from rsedge.machine import usable_cores


def monai(raster: str, out: str, model: str, tile: int, overlap: float = 0.25) -> Facts:
    """Run MONAI's sliding window over the whole raster as one tensor."""
    import torch  # noqa: PLC0415 - slow to load, and only two contenders have it

    infer = import_module("monai.inferers").sliding_window_inference
    run = _session(model)

    def predict(windows: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(run(windows.to(torch.uint8).numpy()))

    begin = time.perf_counter()
    pixels, place = _whole(raster)
    image = torch.from_numpy(pixels).float()[None]
    with torch.inference_mode():
        scores = infer(image, (tile, tile), 1, predict, overlap=overlap, mode="gaussian")
        mask = scores.argmax(1)[0].to(torch.uint8).numpy()
    _write_mask(out, mask, place)
    return {"wall_s": time.perf_counter() - begin}


def torchgeo(raster: str, out: str, model: str, tile: int, overlap: float = 0.25) -> Facts:
    """Run torchgeo's grid of tiles through a DataLoader; each tile's classes overwrite the tile before."""
    import torch  # noqa: PLC0415 - as above
    from torch.utils.data import DataLoader  # noqa: PLC0415

    datasets, samplers = import_module("torchgeo.datasets"), import_module("torchgeo.samplers")
    run = _session(model)
    begin = time.perf_counter()
    dataset = datasets.RasterDataset(raster)
    sampler = samplers.GridGeoSampler(dataset, size=tile, stride=tile - round(tile * overlap))
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=1, sampler=sampler, collate_fn=datasets.stack_samples
    )
    with rasterio.open(raster) as src:
        place = {"crs": src.crs, "transform": src.transform}
        mask = np.zeros((src.height, src.width), np.uint8)
    for sample in loader:
        scores = torch.from_numpy(run(sample["image"].to(torch.uint8).numpy()))
        classes = scores.argmax(1)[0].to(torch.uint8).numpy()
        x, y, _ = sample["bounds"][0]
        put(mask, classes, *first_pixel(place["transform"], x.start, y.stop))
    _write_mask(out, mask, place)
    return {"wall_s": time.perf_counter() - begin, "tiles": len(sampler)}


def inspect(raster: str, mask: str) -> Facts:
    """Check whether a mask kept its raster's grid, and which pixels are nodata."""
    with rasterio.open(raster) as src, rasterio.open(mask) as found:
        valid = src.dataset_mask() > 0
        facts: Facts = {"same_grid": False, "nodata": found.nodata, "dtype": found.dtypes[0]}
        if found.shape != src.shape:
            return facts
        marked = found.dataset_mask() == 0
        return facts | {
            "same_grid": (found.crs, found.transform) == (src.crs, src.transform),
            "nodata_marked": _share(marked, ~valid),
            "valid_marked": _share(marked, valid),
        }


def same_session(contender: Callable[..., Facts]) -> Callable[..., Facts]:
    """Wrap ``contender`` so that all its ONNX Runtime sessions use rsedge's settings."""

    @wraps(contender)
    def run(**args: Any) -> Facts:
        ort = import_onnxruntime()
        opened = ort.InferenceSession

        def open_session(model: Any, *_: Any, **__: Any) -> Any:
            options = ort.SessionOptions()
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
            options.intra_op_num_threads = usable_cores()
            options.inter_op_num_threads = 1
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            return opened(model, options, providers=["CPUExecutionProvider"])

        ort.InferenceSession = open_session
        return contender(**args)

    return run


def _share(found: NDArray[np.bool_], among: NDArray[np.bool_]) -> float | None:
    return float(found[among].mean()) if among.any() else None


if __name__ == "__main__":
    peers: dict[str, Callable[..., Facts]] = {
        "geodeep": geodeep,
        "monai": monai,
        "torchgeo": torchgeo,
        "naive": naive,
        "naive-blend": naive_blend,
    }
    _die_first()
    report({"inspect": inspect, **{name: same_session(peer) for name, peer in peers.items()}})
