"""`rsedge verify`: compare every artifact of a bundle, on every backend of this machine, with the reference.

`verify` is the whole of it; `tiles` gives what to compare on, `compare` one artifact's verdict, `map` where on a raster
two models agree, `seams` whether tile borders show.
"""
