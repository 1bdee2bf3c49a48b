"""A model run by sliding window over a raster: read, infer, blend, hand on."""
