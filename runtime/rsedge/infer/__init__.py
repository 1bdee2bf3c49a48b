"""`rsedge infer`: one raster segmented into a mask, in bounded memory, resumable."""
