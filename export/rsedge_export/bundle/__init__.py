"""Bundles of a run or of foreign ONNX (`build`), with report and manifest (`assemble`)."""
