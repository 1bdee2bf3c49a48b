"""ONNX graphs made from a torch network or a foreign file, and exact rewrites of either."""
