"""Parts of a raster segmented by the workers of a Dask cluster."""
