"""Read a bundle: its manifest, its hashed artifacts, its TensorRT engines.

Nothing here runs a model, and no onnx package is needed: `onnx_metadata` reads what a file says of itself.
"""

from rsedge.model.bundle import Bundle
from rsedge.model.manifest import Manifest

__all__ = ["Bundle", "Manifest"]
