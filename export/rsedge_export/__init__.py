"""Conversion of a trained network to a bundle: ONNX, with proof of correctness."""

import os

from rsedge.backends.ort_module import TELEMETRY_OFF

os.environ.setdefault(
    TELEMETRY_OFF, "1"
)  # torch and onnxscript also import onnxruntime, at a time of their own
