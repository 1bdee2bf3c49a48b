"""rsedge: remote-sensing segmentation on edge hardware (the runtime).

from rsedge import open_model, segment

with open_model() as model:
    result = segment(model, "big_tile.tif", "mask.tif")
for c in result.classes:
    print(c.name, c.area_m2)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsedge.errors import BackendError, InputError, ModelError, OutputError, RsedgeError
    from rsedge.infer.options import ClassArea, Options, Result
    from rsedge.infer.segmentation import open_model, segment
    from rsedge.score.evaluation import Evaluation, evaluate
    from rsedge.verify.fastest import open_fastest
    from rsedge.version import __version__

_HOMES = {
    "BackendError": "errors",
    "ClassArea": "infer.options",
    "Evaluation": "score.evaluation",
    "InputError": "errors",
    "ModelError": "errors",
    "Options": "infer.options",
    "OutputError": "errors",
    "Result": "infer.options",
    "RsedgeError": "errors",
    "__version__": "version",
    "evaluate": "score.evaluation",
    "open_fastest": "verify.fastest",
    "open_model": "infer.segmentation",
    "segment": "infer.segmentation",
}

__all__ = [
    "BackendError",
    "ClassArea",
    "Evaluation",
    "InputError",
    "ModelError",
    "Options",
    "OutputError",
    "Result",
    "RsedgeError",
    "__version__",
    "evaluate",
    "open_fastest",
    "open_model",
    "segment",
]


def __getattr__(name: str) -> Any:
    """Import a name of the API at its first use, because ``rsedge --help`` needs neither numpy nor GDAL."""
    if name not in _HOMES:
        raise AttributeError(f"module 'rsedge' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"rsedge.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
