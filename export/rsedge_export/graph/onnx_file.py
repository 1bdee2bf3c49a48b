"""ONNX files of a bundle, with common metadata, checked before they are written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from rsedge.errors import ModelError
from rsedge.files import whole_or_nothing
from rsedge.model.bundle import METADATA_KEY, PRECISION_KEY
from rsedge.model.manifest import Manifest

OPSET = 18  # of the fp32 master


def save(model: onnx.ModelProto, manifest: Manifest, precision: str, path: Path) -> None:
    """Write ``model`` with the manifest's facts and its precision in the metadata.

    Raises ModelError if the graph does not pass ONNX's checker with shape and type inference.
    """
    del model.metadata_props[:]
    for key, value in metadata(manifest, precision).items():
        model.metadata_props.add(key=key, value=value)
    model.producer_name, model.producer_version = "rsedge", ""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"the {precision} graph is not valid ONNX: {error}") from error
    with whole_or_nothing(path) as partial:
        partial.write_bytes(model.SerializeToString(deterministic=True))


def metadata(manifest: Manifest, precision: str) -> Mapping[str, str]:
    """Return the manifest as ONNX metadata: rsedge's own, QGIS Deepness's keys, STAC MLM's fields."""
    names = {str(i): c.name for i, c in enumerate(manifest.classes)}
    tile, bands = manifest.tile, len(manifest.bands)
    mlm: dict[str, Any] = {
        "mlm:name": manifest.name,
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:framework": "ONNX",
        "mlm:input": [
            {
                "name": "pixels",
                "bands": list(manifest.bands),
                "input": {
                    "shape": [-1, bands, tile, tile],
                    "dim_order": ["batch", "bands", "height", "width"],
                    "data_type": manifest.dtype,
                },
            }
        ],
        "mlm:output": [
            {
                "name": "scores",
                "tasks": ["semantic-segmentation"],
                "result": {
                    "shape": [-1, len(names), tile, tile],
                    "dim_order": ["batch", "class", "height", "width"],
                    "data_type": "float32",
                },
                "classification:classes": [
                    {"value": i, "name": c.name, "color_hint": "{:02X}{:02X}{:02X}".format(*c.color)}
                    for i, c in enumerate(manifest.classes)
                ],
            }
        ],
    }
    deepness = {
        "model_type": json.dumps("Segmentor"),
        "class_names": json.dumps(names),
        "tiles_size": json.dumps(tile),
        "tiles_overlap": json.dumps(25),
    }
    if manifest.gsd_m:
        deepness["resolution"] = json.dumps(round(100 * float(np.sqrt(np.prod(manifest.gsd_m))), 1))
    own = {METADATA_KEY: manifest.to_json(), PRECISION_KEY: precision}
    return {**own, "stac_mlm": json.dumps(mlm), **deepness}
