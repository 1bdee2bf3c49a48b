"""Models and rasters of streaming.py, written in a separate process.

python streaming_inputs.py models '{"folder": "..."}'
python streaming_inputs.py raster '{"out": "...", "width": 6000, "height": 6000}'
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import rasterio
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from rasterio.windows import Window
from streaming_peers import BLOCK, Facts, report

from rsedge.files import whole_or_nothing
from rsedge.model.bundle import METADATA_KEY, write_bundle_manifest
from rsedge.model.manifest import ClassInfo, Manifest
from rsedge_sample.files import write_sample

TILE, SEED = 512, 7
LARGEST_DRAWN = 6000  # pixels per side; a larger raster repeats a scene of REPEATED
REPEATED = 4000  # not a multiple of BLOCK, so that neighbouring blocks of the file differ
GSD_CM = 50  # of a sample scene; geodeep resamples if its model's differs
# Colours in sample scenes. A pixel's class is the nearest colour, so each colour occurs.
COLORS = ((119, 119, 99), (185, 187, 181), (36, 50, 39), (77, 96, 81), (153, 155, 148), (67, 133, 140))


def manifest() -> Manifest:
    """Return the manifest of the 1x1-convolution model."""
    return Manifest(
        name="nearest-of-six",
        bands=("red", "green", "blue"),
        dtype="uint8",
        tile=TILE,
        classes=tuple(ClassInfo(f"colour {i}", color) for i, color in enumerate(COLORS)),
        fill=(110.0, 115.0, 105.0),
        complexity={"macs": 3 * len(COLORS) * TILE**2, "macs_tile": TILE},
    )


def weights() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return weights 2 c and bias -|c|^2 for values 0 to 1, so that the highest score is the nearest colour c's."""
    colors = np.array(COLORS) / 255
    return (2 * colors).astype(np.float32)[:, :, None, None], -(colors**2).sum(1).astype(np.float32)


def graph(for_geodeep: bool) -> onnx.ModelProto:
    """Return the convolution: for rsedge on pixels as stored, for geodeep on scaled float32, with its metadata."""
    weight, bias = weights()
    constants = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")]
    nodes = [helper.make_node("Conv", ["real", "weight", "bias"], ["scores"])]
    name, dtype = "real", TensorProto.FLOAT
    batch: str | int = 1
    if not for_geodeep:
        name, dtype, batch = "pixels", TensorProto.UINT8, "batch"
        constants.append(numpy_helper.from_array(np.array(1 / 255, np.float32), "scale"))
        nodes[:0] = [
            helper.make_node("Cast", ["pixels"], ["cast"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["cast", "scale"], ["real"]),
        ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "nearest_of_six",
            [helper.make_tensor_value_info(name, dtype, [batch, 3, TILE, TILE])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, len(COLORS), TILE, TILE])],
            constants,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    metadata = geodeep_metadata() if for_geodeep else {METADATA_KEY: manifest().to_json()}
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    return model


def geodeep_metadata(overlap: float = 0.25) -> dict[str, str]:
    """Return metadata for segmentation without threshold or sieve, which only geodeep has, at our resolution."""
    facts = {
        "model_type": "Segmentor",
        "resolution": GSD_CM,
        "tiles_overlap": 100 * overlap,
        "class_names": {str(i): f"colour {i}" for i in range(len(COLORS))},
        "seg_thresh": -1e9,
        "seg_small_segment": 0,
    }
    return {key: json.dumps(value) for key, value in facts.items()}


def write_models(folder: str) -> Facts:
    """Write a bundle, ``pointwise.rsedge``, and the same convolution for geodeep, ``geodeep.onnx``."""
    bundle, geodeep = Path(folder, "pointwise.rsedge"), Path(folder, "geodeep.onnx")
    bundle.mkdir(parents=True, exist_ok=True)
    onnx.save(graph(for_geodeep=False), bundle / "model.fp32.onnx")
    write_bundle_manifest(bundle, manifest())
    onnx.save(graph(for_geodeep=True), geodeep)
    return {"bundle": str(bundle), "onnx": str(bundle / "model.fp32.onnx"), "geodeep": str(geodeep)}


def write_raster(out: str, width: int, height: int) -> Facts:
    """Write a sample raster (deflate, 512 px blocks); a large one repeats one scene's pixels in different blocks."""
    path = Path(out)
    if not path.exists():
        if max(width, height) <= LARGEST_DRAWN:
            write_sample(path, width, height, seed=SEED)
        else:
            scene = path.with_name(f"scene{REPEATED}.tif")
            if not scene.exists():
                write_sample(scene, REPEATED, REPEATED, seed=SEED)
            with whole_or_nothing(path) as partial:
                _repeat(scene, partial, width, height)
    return {"raster": out, "width": width, "height": height, "bytes": path.stat().st_size}


def _repeat(scene: Path, out: Path, width: int, height: int) -> None:
    with rasterio.open(scene) as src:
        pixels, profile = src.read(), src.profile
    columns = np.arange(width) % pixels.shape[2]
    changes: dict[str, Any] = {"width": width, "height": height, "predictor": 2, "photometric": "rgb"}
    with rasterio.open(out, "w", **{**profile, **changes}, bigtiff="IF_SAFER", num_threads="ALL_CPUS") as dst:
        for row in range(0, height, BLOCK):
            rows = np.arange(row, min(row + BLOCK, height))
            strip = pixels[:, rows % pixels.shape[1]][:, :, columns]
            dst.write(strip, window=Window(0, row, width, len(rows)))


if __name__ == "__main__":
    report({"models": write_models, "raster": write_raster})
