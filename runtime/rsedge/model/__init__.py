"""What a bundle is: its manifest, its hashed artifacts, its TensorRT engines."""
