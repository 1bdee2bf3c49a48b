"""TensorRT engines, built and checked. No torch, no onnx package."""
