"""The only package that touches GDAL: windows in, finished GeoTIFFs out."""

from rsedge.raster.cache import bounded_cache
from rsedge.raster.grid import Grid
from rsedge.raster.reader import BandPlan, RasterReader, plan_bands
from rsedge.raster.writer import Format, RasterWriter, check_target

__all__ = [
    "BandPlan",
    "Format",
    "Grid",
    "RasterReader",
    "RasterWriter",
    "bounded_cache",
    "check_target",
    "plan_bands",
]
