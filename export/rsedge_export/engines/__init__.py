"""Build TensorRT engines of a bundle and check what they do. No torch, no onnx package: this runs on the device."""
