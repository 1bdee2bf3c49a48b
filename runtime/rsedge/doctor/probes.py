"""Functions that each try one library or device, run as ``python -m rsedge.doctor.probes NAME`` by `child`.

A probe prints one line of JSON: what it found, or why it failed.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rsedge.doctor.child import MARK
from rsedge.gdal_settings import restrict_process

TRIED = 600  # pixels; a raster of more than one tile


def library(name: str) -> dict[str, Any]:
    """Import a library that needs no more than that."""
    module = importlib.import_module(name)
    return {"version": str(getattr(module, "__version__", "")) or None}


def rasterio() -> dict[str, Any]:
    """Import rasterio, and with it GDAL."""
    import rasterio as found  # noqa: PLC0415 - this is what is tried

    return {"version": str(found.__version__), "detail": f"GDAL {found.__gdal_version__}"}


def onnxruntime() -> dict[str, Any]:
    """Import ONNX Runtime and list its providers."""
    from rsedge.backends.ort_module import import_onnxruntime  # noqa: PLC0415

    ort = import_onnxruntime()
    providers = list(ort.get_available_providers())
    return {"version": str(ort.__version__), "providers": providers, "detail": ", ".join(providers)}


def tensorrt() -> dict[str, Any]:
    """Import TensorRT, and ask pycuda for the GPU."""
    from rsedge.backends.gpu import Gpu, import_tensorrt  # noqa: PLC0415

    trt = import_tensorrt()
    with Gpu() as gpu:
        facts = gpu.facts(trt)
    return {"version": facts.tensorrt, "detail": f"{facts.name}, CUDA {facts.cuda}"}


def kernels() -> dict[str, Any]:
    """Load or compile the loops in C."""
    from rsedge.tiling.kernels import compiled  # noqa: PLC0415

    return {"compiled": compiled() is not None}


def speeds(model: str) -> dict[str, Any]:
    """List the bundle's measurements that are valid on this machine."""
    from rsedge.backends.speeds import fitting, load_speeds  # noqa: PLC0415
    from rsedge.model.bundle import Bundle  # noqa: PLC0415

    first = Bundle.open(model or None)
    known, wrong = load_speeds(first)
    found = []
    for precision in first.precisions:
        bundle = Bundle.open(model or None, precision)
        found += [
            {
                "precision": precision,
                "device": s.device,
                "provider": s.provider,
                "version": s.version,
                "tile_ms": s.tile_ms,
                "tile": bundle.manifest.tile,
                "agreement": s.agreement,
                "date": s.date,
            }
            for s in fitting(known, bundle, None, engines=True)
        ]
    return {"model": first.manifest.name, "speeds": found, "wrong": wrong}


def device(model: str, name: str) -> dict[str, Any]:
    """Open the model on a device and run one tile."""
    import numpy as np  # noqa: PLC0415

    from rsedge.infer.segmentation import open_model  # noqa: PLC0415

    with open_model(model or None, name) as backend:
        m = backend.bundle.manifest
        backend.infer(np.zeros((1, len(m.bands), m.tile, m.tile), m.dtype))
        return {"provider": backend.provider, "version": backend.version}


def segment(model: str) -> dict[str, Any]:
    """Segment a small raster from file to file, as `rsedge infer` would."""
    import numpy as np  # noqa: PLC0415
    import rasterio as gdal  # noqa: PLC0415

    from rsedge.infer.options import Options  # noqa: PLC0415
    from rsedge.infer.segmentation import open_model  # noqa: PLC0415
    from rsedge.infer.segmentation import segment as run  # noqa: PLC0415
    from rsedge.raster.grid import unreferenced_allowed  # noqa: PLC0415

    with open_model(model or None) as backend, tempfile.TemporaryDirectory() as folder:
        m = backend.bundle.manifest
        path, bands = Path(folder, "raster.tif"), tuple(range(1, len(m.bands) + 1))
        # A ramp up to 200, since the model's own range is what its dtype holds.
        values = np.linspace(1, 200, TRIED * TRIED).reshape(TRIED, TRIED).astype(m.dtype)
        size = {"height": TRIED, "width": TRIED, "count": len(bands), "dtype": m.dtype}
        with unreferenced_allowed(), gdal.open(path, "w", driver="GTiff", **size) as dst:
            dst.write(np.stack([values] * len(bands)))
        result = run(backend, path, Path(folder, "mask.tif"), Options(bands=bands))
        return {"provider": result.provider, "why": result.why}


PROBES: dict[str, Callable[..., dict[str, Any]]] = {
    f.__name__: f for f in (library, rasterio, onnxruntime, tensorrt, kernels, speeds, device, segment)
}


def main() -> None:
    """Run the probe that the arguments name."""
    restrict_process()
    try:
        facts = PROBES[sys.argv[1]](*sys.argv[2:])
    except Exception as error:  # whatever a broken library raises is the answer
        facts = {"failed": str(error) or type(error).__name__}
    sys.stdout.write(f"\n{MARK}{json.dumps(facts)}\n")


if __name__ == "__main__":
    main()
