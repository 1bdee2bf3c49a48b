"""Readers of a bundle: its manifest, its hashed artifacts, its TensorRT engines.

This package runs no model and needs no onnx package: `onnx_metadata` reads the metadata of ONNX files.
"""

from rsedge.model.bundle import Bundle
from rsedge.model.manifest import Manifest

__all__ = ["Bundle", "Manifest"]
