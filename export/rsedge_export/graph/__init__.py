"""Make ONNX graphs: from a torch network, from somebody else's file, and by exact rewrites of either."""
