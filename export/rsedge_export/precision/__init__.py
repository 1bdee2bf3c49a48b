"""FP16 and INT8: which layers, which scales, and the variants made of them."""
