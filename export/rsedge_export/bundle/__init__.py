"""From a run or an ONNX to a bundle."""
