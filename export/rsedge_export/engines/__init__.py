"""TensorRT engines of a bundle and checks on them. No torch or onnx package, as this runs on the device."""
