"""From a trained network to a bundle: ONNX, with proof."""

import os

from rsedge.backends.ort_module import TELEMETRY_OFF

os.environ.setdefault(
    TELEMETRY_OFF, "1"
)  # torch and onnxscript import onnxruntime as well, in their own time
