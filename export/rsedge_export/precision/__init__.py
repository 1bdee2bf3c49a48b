"""Make FP16 and INT8 graphs: which layers, which scales, calibrated on real tiles.

`variants` makes and judges them all, down the `ladder` until one passes.
"""
