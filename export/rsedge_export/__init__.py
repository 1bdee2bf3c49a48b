"""From a trained network to a bundle: ONNX, with proof."""
