"""FP16 and INT8 graphs: choice of layers, scales, calibration on real tiles.

`variants` makes and judges all of them, down the `ladder` until one passes.
"""
