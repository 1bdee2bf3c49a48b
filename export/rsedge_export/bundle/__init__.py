"""Build a bundle of a run (`build`) or of somebody else's ONNX, with its report and manifest (`assemble`)."""
