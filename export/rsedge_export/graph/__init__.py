"""ONNX graphs: from torch, from elsewhere, and their exact rewrites."""
