"""`rsedge watch`: what lands in a folder is segmented, each raster once."""
