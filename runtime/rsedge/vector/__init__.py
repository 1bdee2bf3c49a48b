"""Read areas of interest, and write a mask's areas as polygons, in bounded memory.

`aoi` and `fill` tell which pixels lie inside; `trace`, `rings` and `outlines` follow the edges of a mask strip by
strip for `polygons`; `file` is the only module that knows vector formats.
"""
