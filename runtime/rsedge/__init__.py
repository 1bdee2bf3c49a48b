"""rsedge: remote-sensing segmentation on edge hardware (the runtime).

from rsedge import open_model, segment

with open_model() as model:
    result = segment(model, "big_tile.tif", "mask.tif")
for c in result.classes:
    print(c.name, c.area_m2)
"""

from rsedge.errors import BackendError, InputError, ModelError, OutputError, RsedgeError
from rsedge.evaluate import Evaluation, evaluate
from rsedge.segment import ClassArea, Options, Result, open_model, segment
from rsedge.version import __version__

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
    "open_model",
    "segment",
]
