"""`rsedge verify`: compare every artifact of a bundle, on every backend of this machine, with the reference.

`verify` runs the comparison; `tiles` provides the inputs, `compare` judges one artifact, `map` shows where on a raster
two models agree, `seams` measures whether tile borders show.
"""
