"""Areas of interest, and masks written as polygons, in bounded memory.

`aoi` and `fill` find the pixels inside; `trace`, `rings` and `outlines` follow the edges of a mask strip by
strip for `polygons`; `file` is the only module that handles vector formats.
"""
