"""Which windows cover a raster, and how their overlapping tiles of scores become rows of a mask."""
